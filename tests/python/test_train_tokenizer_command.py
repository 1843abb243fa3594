"""`lmkit train-tokenizer`: what it writes, says and refuses."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import lmkit
from full_disk import files_up_to
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


def test_a_full_disk_is_told_by_the_name_that_was_wanted(text, tmp_path):
    for save in (lambda out: learned(text, out), lmkit.Tokenizer.train(text, 270).save):
        refused = pytest.raises(lmkit.SystemRefusedError, match=f"^{tmp_path}/tok/vocab.json: ")
        with refused, files_up_to(1000):
            save(tmp_path / "tok")
        assert list(tmp_path.iterdir()) == [text]


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
    """Long before all is read: the pipe tells that it reads, the rest would take it minutes."""
    pipe, text = tmp_path / "pipe", tmp_path / "text.txt"
    os.mkfifo(pipe)
    text.write_text(TEXT * 20_000, encoding="utf-8")
    words = ["--output_path", tmp_path / "tok", "--pattern", "[a-z]+|.", "--num_threads", "1"]
    for path in (pipe, *[text] * 2000):
        words += ["--data_path", path]
    with subprocess.Popen(
        [sys.executable, "-m", "lmkit", "train-tokenizer", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        pipe.write_text(TEXT, encoding="utf-8")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert sorted(tmp_path.iterdir()) == [pipe, text]


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output_path", "t", "--no_special_tokens", "--special_token", "<a>"], "exclude each"),
        ([], "nowhere to write to"),
        (["--output_path", "t", "--held_out", "x"], "no effect without --report"),
        (["--save_counts", "c", "--report"], "no effect without --output_path"),
        (["--output_path", "t", "--allow_pruning"], "no effect without --memory_limit"),
        (["--output_path", "t", "--memory_limit", "1M"], "too small; give at least 128M"),
        (["--output_path", "t", "--memory_limit", "much"], "such as 4G or 500M"),
        (["--output_path", "t", "--sample", "0"], "0"),
        (["--output_path", "t", "--max_token_length", "1"], "max_token_length"),
        (["--output_path", "t", "--initial_alphabet", "letters"], "letters"),
        (["--output_path", "t", "--report"], "none was held out"),
        (["--save_counts", "no/where"], "no such folder"),
    ],
)
def test_options_that_make_no_sense_are_refused(text, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    result = run("--data_path", text, *words)
    said = result.stderr + str(result.exception)
    assert result.exit_code != 0
    assert message in said
    if result.exit_code == 1:
        assert isinstance(result.exception, lmkit.UsageError)
    assert list(tmp_path.iterdir()) == [text]


def test_nothing_to_learn_from_is_refused(tmp_path):
    with pytest.raises(lmkit.UsageError, match="nothing to learn from"):
        raise run("--output_path", tmp_path / "tok").exception


def test_counts_are_saved_and_learned_from_later(text, tmp_path):
    counts, out = tmp_path / "text.counts", tmp_path / "tok"
    result = run("--data_path", text, "--save_counts", counts, "--json")
    told = json.loads(result.stdout)
    assert (told["pretokens"], told["save_counts"]) == (420, str(counts))
    assert list(told["phases"]) == ["count", "save_counts"]
    result = run("--from_counts", counts, "--output_path", out, "--vocab_size", 270)
    assert result.stdout.startswith("Learned 13 merges from 420 pretokens")
    assert lmkit.Tokenizer.load(out) == lmkit.Tokenizer.train(text, 270)
    with pytest.raises(lmkit.UsageError, match="already exists"):
        raise run("--data_path", text, "--save_counts", counts).exception
    assert run("--data_path", text, "--save_counts", counts, "--force").exit_code == 0
    told = run("--from_counts", counts, "--output_path", tmp_path / "t2", "--dry_run").stdout
    assert told.startswith("Would learn 10,000 tokens from saved counts into ")


def test_all_options_give_the_bytes_of_python(text, tmp_path):
    other = tmp_path / "more.txt"
    other.write_text("what the fox says, and the dog\n" * 9, encoding="utf-8")
    base, out, counts = tmp_path / "base", tmp_path / "tok", tmp_path / "c"
    learned(text, base)
    assert run("--data_path", other, "--save_counts", counts).exit_code == 0
    result = run(
        "--data_path", text, "--from_counts", counts, "--extend", base, "--output_path", out,
        "--vocab_size", 280, "--max_token_length", 6, "--special_ids", "last", "--min_frequency", 2,
        "--sample", 0.9, "--seed", 1, "--memory_limit", "1G", "--allow_pruning",
        "--initial_alphabet", "bytes", "--report", "--held_out", other,
    )  # fmt: skip
    assert result.exception is None
    reports: list[dict] = []
    tok = lmkit.Tokenizer.train(
        text, 280, from_counts=counts, extend=base, max_token_length=6, special_ids="last",
        min_frequency=2, sample=0.9, seed=1, memory_limit=1 << 30, allow_pruning=True,
        report=reports.append, held_out=[other],
    )  # fmt: skip
    tok.save(tmp_path / "python")
    for name in ("vocab.json", "merges.txt", "tokenizer.json", "lmkit.json"):
        assert (out / name).read_bytes() == (tmp_path / "python" / name).read_bytes()
    assert f"On {reports[0]['text_bytes']:,} bytes of held-out text:" in result.stdout


def test_a_report_tells_how_the_vocabulary_grows(text, tmp_path):
    held_out = tmp_path / "held.txt"
    held_out.write_text("the cat sat<|endoftext|>zzz", encoding="utf-8")
    words = ("--report", "--held_out", held_out)
    told = json.loads(learned(text, tmp_path / "tok", *words, "--json").stdout)["report"]
    assert told["text_bytes"] == 14
    assert [row["vocab_size"] for row in told["growth"]] == [257, 270]
    assert told["growth"][0]["bytes_per_token"] == 1
    tok = lmkit.Tokenizer.load(tmp_path / "tok")
    tokens = len(tok.encode("the cat sat")) + len(tok.encode("zzz"))
    assert told["growth"][1]["tokens"] == tokens
    assert told["commonest"][0] == {"id": tok.encode("z")[0], "token": "z", "count": 3}
    longest = [row["token"] for row in told["longest"]]
    assert [len(token) for token in longest] == sorted(map(len, longest), reverse=True)
    said = learned(text, tmp_path / "tok", *words, "--force").stdout
    assert "On 14 bytes of held-out text:\n        257 tokens   1.000 bytes a token\n" in said
    assert "commonest: 'z' (3)" in said
