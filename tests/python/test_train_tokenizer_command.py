"""`lmkit train-tokenizer`: what it writes, says and refuses."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import lmkit
from lmkit.cli import main
from lmkit.cli.train_tokenizer import command

TEXT = "the cat sat on the mat; the dog sat on the cat.<|endoftext|>the end, the very end\n" * 20


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def run(*words: object, **more: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words], **more)


def learned(text: Path, out: Path, *words: object) -> Result:
    result = run("--data_path", text, "--output_path", out, *words, "--vocab_size", 270)
    if result.exception is not None:
        raise result.exception
    return result


def test_writes_a_tokenizer_folder_and_says_so(text, tmp_path):
    out = tmp_path / "tok"
    result = learned(text, out)
    assert result.stdout.startswith("Learned 13 merges from ")
    assert result.stdout.endswith(f": 270 tokens in {out}\n")
    assert result.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt", "tok"]
    assert lmkit.Tokenizer.load(out) == lmkit.Tokenizer.train(text, 270)


def test_json_is_one_object_and_quiet_is_silent(text, tmp_path):
    out = tmp_path / "tok"
    told = json.loads(learned(text, out, "--json").stdout)
    assert (told["vocab_size"], told["merges"], told["asked"]) == (270, 13, 270)
    assert told["special_tokens"] == {"<|endoftext|>": 269}
    assert told["fingerprint"] == lmkit.Tokenizer.load(out).fingerprint
    result = learned(text, out, "--quiet", "--force")
    assert (result.stdout, result.stderr) == ("", "")


def test_options_reach_the_learner(text, tmp_path):
    out = tmp_path / "tok"
    learned(
        text, out, "--special_token", "<a>", "--special_token", "<b>", "--tie_break", "huggingface",
        "--pattern", "[a-z]+|[^a-z]", "--min_frequency", 3, "--num_threads", 2,
    )  # fmt: skip
    tok = lmkit.Tokenizer.load(out)
    assert tok.special_tokens == {"<a>": 0, "<b>": 1}
    assert tok == lmkit.Tokenizer.train(
        text, 270, ["<a>", "<b>"], "[a-z]+|[^a-z]", "huggingface", min_frequency=3
    )
    learned(text, tmp_path / "bare", "--no_special_tokens")
    assert lmkit.Tokenizer.load(tmp_path / "bare").special_tokens == {}


def test_options_come_from_the_environment_and_a_file(text, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(f'data_path = "{text}"\nspecial_token = "<a>"\nvocab_size = 261\n')
    words = ("--config", config, "--output_path")
    assert run(*words, tmp_path / "file").exit_code == 0
    assert lmkit.Tokenizer.load(tmp_path / "file") == lmkit.Tokenizer.train(text, 261, ["<a>"])
    environment = {"LMKIT_TRAIN_TOKENIZER_VOCAB_SIZE": "259"}
    result = CliRunner(env=environment).invoke(
        main, ["train_tokenizer", *map(str, words), str(tmp_path / "environment")]
    )
    assert result.exit_code == 0
    assert lmkit.Tokenizer.load(tmp_path / "environment").vocab_size == 259


def test_ctrl_c_ends_with_130_and_leaves_nothing(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 20_000, encoding="utf-8")
    words = ["--data_path", text, "--output_path", tmp_path / "tok", "--pattern", "[a-z]+|."]
    with subprocess.Popen(
        [sys.executable, "-m", "lmkit", "train-tokenizer", *words, "--num_threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        out, _ = process.communicate(timeout=20)
        took = time.monotonic() - sent
    assert (process.returncode, out) == (130, "")
    assert took < 1, "0.2 s, the end of the interpreter, and as much again for a busy machine"
    assert list(tmp_path.iterdir()) == [text]


def test_less_than_asked_is_saved_and_said(tmp_path):
    text, out = tmp_path / "small.txt", tmp_path / "tok"
    text.write_text("ab", encoding="utf-8")
    result = learned(text, out)
    assert result.exit_code == 0
    assert result.stderr == (
        "note: the text has no more to merge at 258 tokens; 270 were asked for\n"
    )
    assert lmkit.Tokenizer.load(out).vocab_size == 258


def test_dry_run_writes_nothing(text, tmp_path):
    result = learned(text, tmp_path / "tok", "--dry_run")
    assert result.stdout.startswith("Would learn 270 tokens from 1 file of 0.0 MB into ")
    assert list(tmp_path.iterdir()) == [text]


def test_an_output_that_exists_is_refused_before_reading(text, tmp_path):
    out = tmp_path / "tok"
    learned(text, out)
    with pytest.raises(lmkit.UsageError, match="already exists"):
        learned(text, out)
    learned(text, out, "--force")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "work.txt").write_text("work", encoding="utf-8")
    with pytest.raises(lmkit.UsageError, match="already exists"):
        learned(text, precious, "--force")
    with pytest.raises(lmkit.MissingFileError, match="nowhere: no such file or folder"):
        learned(text, tmp_path / "nowhere" / "tok")


def test_its_own_output_is_not_its_input(text, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    text.rename(folder / "text.txt")
    learned(folder, folder / "tok")
    first = lmkit.Tokenizer.load(folder / "tok")
    learned(folder, folder / "tok", "--force")
    assert lmkit.Tokenizer.load(folder / "tok") == first


def test_bad_input_leaves_nothing_behind(tmp_path):
    bad, out = tmp_path / "bad.txt", tmp_path / "tok"
    bad.write_bytes(b"\xff")
    with pytest.raises(lmkit.MalformedError, match="byte offset 0"):
        learned(bad, out)
    bad.write_bytes(b"")
    with pytest.raises(lmkit.MalformedError, match="no text to learn from"):
        learned(bad, out)
    with pytest.raises(lmkit.MissingFileError):
        learned(tmp_path / "none.txt", out)
    assert list(tmp_path.iterdir()) == [bad]


def test_options_that_exclude_each_other_are_refused(text, tmp_path):
    result = run(
        "--data_path", text, "--output_path", tmp_path / "tok", "--no_special_tokens",
        "--special_token", "<a>",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr
    result = run("--data_path", text)
    assert result.exit_code == 2
    assert "--output_path" in result.stderr
