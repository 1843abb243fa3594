"""The frame all commands stand in: spelling, precedence, errors, exit codes, a quiet end."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lmkit.cli.options import Command, config_options, given
from lmkit.cli.shared_options import preset_option
from lmkit.config import TrainConfig, train_config
from lmkit.errors import UsageError


def lmkit(*words: str | Path, **options) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if "LMKIT" not in name}
    return subprocess.run(
        [sys.executable, "-m", "lmkit", *words],
        env=environment | options.pop("env", {}),
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat, the cat sat\n" * 20)
    return path


def learn(text: Path, *words: str | Path, **options) -> subprocess.CompletedProcess[str]:
    output = text.parent / "tokenizer"
    return lmkit(
        "train-tokenizer", "--data_path", text, "--output_path", output, "--json", *words, **options
    )


def learned_size(done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode == 0, done.stderr
    size = json.loads(done.stdout)["vocab_size"]
    assert isinstance(size, int)
    return size


# --- spelling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train-tokenizer", "train_tokenizer"])
@pytest.mark.parametrize("flag", ["--vocab_size", "--vocab-size"])
@pytest.mark.parametrize("equals", [True, False])
def test_dashes_and_underscores_are_the_same(text, command, flag, equals):
    size = [f"{flag}=260"] if equals else [flag, "260"]
    done = lmkit(
        command, "--data-path", text, *size, "--output-path", text.parent / "t", "--json"
    )  # fmt: skip
    assert learned_size(done) == 260


def test_a_value_that_looks_like_a_flag_keeps_its_spelling(text):
    done = learn(text, "--vocab-size", "260", "--special-token", "--vocab-size")
    assert json.loads(done.stdout)["special_tokens"] == {"--vocab-size": 259}


# --- precedence --------------------------------------------------------------------------------


def test_command_line_beats_environment_beats_config_beats_default(text, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("vocab-size = 261\n")
    variable = {"LMKIT_TRAIN_TOKENIZER_VOCAB_SIZE": "262"}
    typed = ("--vocab_size", "263", "--force")
    file = ("--config", config, "--force")
    assert learned_size(learn(text, *file)) == 261
    assert learned_size(learn(text, *file, env=variable)) == 262
    assert learned_size(learn(text, *file, *typed, env=variable)) == 263


def test_a_parameter_called_otherwise_goes_by_its_flag(text, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(f"data_path = {json.dumps(str(text))}\nvocab_size = 260\njson = true\n")
    output = {"LMKIT_TRAIN_TOKENIZER_OUTPUT_PATH": str(tmp_path / "t")}
    assert learned_size(lmkit("train-tokenizer", "--config", config, env=output)) == 260


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("vocab_sise = 1", "unknown option vocab_sise\nhint: did you mean vocab_size?"),
        ("vocab_size = 300.5", "'300.5' is not a valid integer"),
        ("vocab_size = true", "vocab_size must be one value, not True"),
        ("vocab_size = [1]", "vocab_size must be one value, not [1]"),
        ("force = 3", "force must be true or false, not 3"),
        ("vocab_size = ", "is not TOML"),
        ("config = 'x'", "unknown option config"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(text, tmp_path, content, message):
    config = tmp_path / "config.toml"
    config.write_text(content)
    done = learn(text, "--config", config)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_missing_config_is_named(text):
    done = learn(text, "--config", "no.toml")
    assert (done.returncode, done.stderr) == (2, "error: config file no.toml does not exist\n")


def test_a_misspelt_variable_is_refused(text):
    done = learn(text, env={"LMKIT_TRAIN_TOKENIZER_VOCAB_SISE": "1"})
    assert done.returncode == 2
    assert "LMKIT_TRAIN_TOKENIZER_VOCAB_SISE names no option of" in done.stderr
    assert "hint: did you mean LMKIT_TRAIN_TOKENIZER_VOCAB_SIZE?" in done.stderr


@click.command(cls=Command, name="toy")
@config_options(TrainConfig)
@preset_option
def toy(**values: object) -> None:
    """Show what was given."""
    click.echo(json.dumps(given(values)))


def test_a_setting_that_nobody_gave_is_not_given(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[model]\nn_layers = 3\n[training]\ndeterministic = false\n")
    result = CliRunner().invoke(
        toy,
        [
            "--config",
            str(config),
            "--max-grad-norm",
            "none",
            "--max_iters",
            "1e3",
            "--preset=small",
        ],
        env={"LMKIT_TOY_BATCH_SIZE": "7"},
        auto_envvar_prefix="LMKIT_TOY",
        catch_exceptions=False,
    )
    found = json.loads(result.stdout)
    assert found == {
        "n_layers": 3,
        "deterministic": False,
        "max_grad_norm": "none",
        "max_iters": 1000,
        "preset": "small",
        "batch_size": 7,
    }
    assert train_config(found).max_grad_norm is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--n_heads", "0"], "--n_heads must be at least 1, not 0"),
        (["--n_heads", "two"], "--n_heads must be a whole number, not 'two'"),
        (["--max_iters", "1.5"], "--max_iters must be a whole number, not 1.5"),
        (["--learning_rate", "nan"], "--learning_rate must be a finite number, not nan"),
    ],
)
def test_a_setting_refuses_what_is_typed(words, message):
    with pytest.raises(UsageError) as caught:
        toy.main(words, standalone_mode=False)
    assert str(caught.value) == message


# --- errors and exit codes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "error: no such command 'trian'\nhint: did you mean train?\n"),
        (["--vresion"], "error: no such option '--vresion'\nhint: did you mean --version?\n"),
        (
            ["train-tokenizer", "--vocab-sise", "3"],
            "error: no such option '--vocab-sise'\nhint: did you mean --vocab_size?\n",
        ),
        (
            ["train-tokenizer", "--vocab_size", f"{10**20}"],
            "error: invalid value for '--vocab_size': 100000000000000000000 is more than "
            "9223372036854775807\nhint: try lmkit train-tokenizer --help\n",
        ),
        (
            ["tokenize"],
            "error: missing option '--data_path'\nhint: try lmkit tokenize --help\n",
        ),
        (
            ["train-tokenizer"],
            "error: nothing to learn from: pass --data_path, or counts with --from_counts\n"
            "hint: lmkit train-tokenizer --help has an example\n",
        ),
    ],
)
def test_misuse_is_one_line_with_a_hint(words, said):
    done = lmkit(*words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_misuse_of_a_choice_names_the_choices(text):
    done = learn(text, "--tie_break", "random")
    assert done.returncode == 2
    assert "'lexicographic', 'huggingface'" in done.stderr


def test_a_choice_that_is_nearly_one_is_suggested(text):
    done = learn(text, "--tie_break", "hugingface")
    assert done.returncode == 2
    assert done.stderr.endswith("\nhint: did you mean huggingface?\n")


def test_a_missing_input_is_misuse(text):
    done = learn(text.with_name("other.txt"))
    assert done.returncode == 2
    assert "other.txt" in done.stderr
    assert done.stderr.count("\n") <= 2


def test_an_existing_output_is_misuse(text):
    assert learn(text, "--vocab_size", "260").returncode == 0
    done = learn(text, "--vocab_size", "260")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


def test_malformed_input_exits_with_3_and_leaves_nothing(text):
    text.write_bytes(b"good\nbad \xff\n")
    done = learn(text)
    assert done.returncode == 3
    assert str(text) in done.stderr
    assert sorted(path.name for path in text.parent.iterdir()) == [text.name]


def test_a_damaged_vocabulary_is_malformed_also_where_a_text_is_to_be_shown(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 1')
    (tmp_path / "merges.txt").write_text("a b\n")
    done = lmkit("inspect", tmp_path / "vocab.json", "--text", "a")
    assert done.returncode == 3
    assert done.stderr.startswith(f"error: {tmp_path}/vocab.json: ")


def test_a_refusing_system_exits_with_4(text):
    done = learn(text, "--dry_run", preexec_fn=_closed_to_writing)
    assert done.returncode == 4
    assert done.stderr == f"error: {os.strerror(errno.ENOSPC).lower()}\n"


def _closed_to_writing() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def test_a_traceback_is_shown_only_when_asked_for():
    assert "Traceback" not in lmkit("trian").stderr
    done = lmkit("trian", env={"LMKIT_DEBUG": "1"})
    assert "Traceback" in done.stderr
    assert done.returncode == 2


def test_a_name_with_line_breaks_and_escapes_stays_one_harmless_line(text):
    done = learn(text, "--config", "a\nb\x1b[31m")
    assert done.stderr == "error: config file a\\nb\\x1b[31m does not exist\n"


FAILING = """
import click
import lmkit.cli
from lmkit.__main__ import run
def body(): {body}
lmkit.cli.main = click.Command("lmkit", callback=body)
run()
"""


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", 143, ""),
        ("import atexit, os, signal as s; atexit.register(os.kill, os.getpid(), s.SIGTERM);"
         "from lmkit.errors import UsageError as E; raise E('no')", 2, "error: no\n"),
        ("import atexit, os, signal as s; atexit.register(os.kill, os.getpid(), s.SIGINT)", 0, ""),
        ("\n    import os, signal\n    try: os.kill(os.getpid(), signal.SIGINT)\n"
         "    except KeyboardInterrupt: 1 / 0", 130, "interrupted\n"),
        ("import sys; sys.__stderr__.write('said')", 0, "said"),
        ("raise BrokenPipeError", 0, ""),
        ("open('/no/file')", 2, "error: /no/file: no such file or directory\n"),
        ("raise PermissionError(13, 'Permission denied', 'x')", 4, "error: x: permission denied\n"),
        ("raise MemoryError", 4, "error: out of memory\n"),
        ("from lmkit.errors import MalformedError as E; raise E('bad', hint='so')", 3,
         "error: bad\nhint: so\n"),
        ("from lmkit.errors import MismatchError as E; raise E('torn')", 5, "error: torn\n"),
        ("from lmkit.errors import TrainingError as E; raise E('nan')", 1, "error: nan\n"),
        ("1 / 0", 1, "error: ZeroDivisionError: division by zero\n"
         "hint: this is a mistake in lmkit; with LMKIT_DEBUG=1 it shows where\n"),
        ("return 143", 143, ""),
        ("return 'anything'", 0, ""),
    ],
)  # fmt: skip
def test_every_end_has_its_exit_code(body, code, said):
    done = subprocess.run(
        [sys.executable, "-c", FAILING.format(body=body)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_at_once_with_its_code(tmp_path, number, code):
    command = ["train-tokenizer", "--data_path", "-", "--output_path", str(tmp_path / "t")]
    child = subprocess.Popen(
        [sys.executable, "-m", "lmkit", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdin is not None
    child.stdin.write(b"word " * 100_000)  # more than a pipe holds: it has begun to read
    child.stdin.flush()
    child.send_signal(number)
    assert child.wait(timeout=60) == code  # and its input has not ended
    output, errors = child.communicate()
    assert b"Traceback" not in output + errors
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("is_dropped", [False, True])
def test_ctrl_c_while_modules_are_loaded_ends_quietly(is_dropped):
    """Also in the callback of a weak reference, where Python drops what is raised."""
    script = f"""if True:
        import os, signal, sys, time, weakref

        class Interrupting:
            def find_spec(self, name, *_):
                if name == "lmkit.cli":
                    stop = lambda *_: os.kill(os.getpid(), signal.SIGINT)
                    referred = type("Referred", (), {{}})()
                    held = weakref.ref(referred, stop)
                    if {is_dropped}:
                        del referred
                        time.sleep(20)
                    stop()

        from lmkit.__main__ import run
        sys.meta_path.insert(0, Interrupting())
        sys.argv = ["lmkit", "--version"]
        run()"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


# --- output ------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["inspect", "tokenizer", "--text", "the cat"]])
def test_a_closed_output_ends_quietly(text, words):
    learn(text, "--vocab_size", "260")
    child = subprocess.Popen(
        [sys.executable, "-m", "lmkit", *words],
        cwd=text.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() == 0


def test_remarks_that_nobody_takes_end_no_command(text):
    """Nor do they change how it ends: as with ``2>&1 | head -1``, or on a full disk."""
    for file in ("/dev/full", "a pipe"):
        text.with_name("one.npy").unlink(missing_ok=True)
        learn(text, "--vocab_size", "260")
        for code, words in ((0, ["tokenize", "--data_path", text, "--tokenizer", "tokenizer",
                                 "--output_path", "one.npy"]), (2, ["trian"])):  # fmt: skip
            into, out_of = os.pipe()[::-1]
            os.close(out_of)
            done = subprocess.run(
                [sys.executable, "-m", "lmkit", *words],
                cwd=text.parent,
                stdout=subprocess.PIPE,
                stderr=into if file == "a pipe" else os.open(file, os.O_WRONLY),
                check=False,
            )
            os.close(into)
            assert done.returncode == code
        assert text.with_name("one.npy").exists()


def test_no_output_at_all_is_no_failure():
    done = lmkit("--version", preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version_is_told():
    assert lmkit("--version").stdout.startswith("lmkit 0.")


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}])
def test_there_are_no_escape_bytes_off_a_terminal(text, env):
    done = learn(text, "--vocab_size", "260", env=env | {"TERM": "xterm-256color"})
    assert "\x1b" not in done.stdout + done.stderr + lmkit("--help", env=env).stdout


def test_a_choice_that_is_not_made_is_told_on_one_line():
    done = lmkit("completion")
    assert done.returncode == 2
    assert done.stderr == (
        "error: missing argument 'bash|zsh|fish'\nhint: it is one of bash, zsh, fish\n"
    )


def test_one_of_anything_is_told_in_the_singular(text, tmp_path):
    assert learn(text, "--vocab_size", "260").returncode == 0
    text.write_text("t")
    one = ["--data_path", text, "--tokenizer", tmp_path / "tokenizer", "--output_path"]
    done = lmkit("tokenize", *one, tmp_path / "one.npy")
    assert ": 1 token of 1 document, 1 byte (1.00 bytes a token)\n" in done.stdout
    done = lmkit("convert", "tokens", tmp_path / "one.npy", tmp_path / "two.npy")
    assert ": 1 token of 1 document, " in done.stdout
    done = lmkit("tokenize", *one, tmp_path / "shards", "--shards", "1")
    assert ": 1 token of 1 document in 1 shard, 1 byte (1.00 bytes a token)\n" in done.stdout
    assert ": 1 shard, 1 token, " in done.stdout
    done = lmkit("inspect", tmp_path / "tokenizer", "--text", "t")
    assert "\n1 token, 1 byte: 1.00 bytes a token\n" in done.stdout
