"""`lmkit evaluate` and `lmkit generate`: from a checkpoint alone."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lmkit.cli import main
from lmkit.errors import LmkitError
from tiny_run import make_inputs, train


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of ten steps: its folder, beside the token files."""
    folder = tmp_path_factory.mktemp("run")
    train(make_inputs(folder), folder / "run", max_iters=10, max_seq_len=64)
    return folder / "run"


def lmkit(*arguments: object) -> str:
    """What a command prints on stdout."""
    words = [str(argument) for argument in arguments]
    result = CliRunner().invoke(main, words, catch_exceptions=False, standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.stdout


def test_evaluate_says_loss_perplexity_and_bits_per_byte(run):
    lines = lmkit("evaluate", "--checkpoint", run, "--data", run.parent / "val.npy").splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "Loss",
        "Perplexity",
        "Bits per byte",
        "Tokens",
    ]
    assert lines[3] == "Tokens: 1,999 (1,999 bytes)"


def test_evaluate_takes_the_window_the_model_was_trained_on(run):
    arguments = ("evaluate", "--checkpoint", run, "--data", run.parent / "val.npy", "--json")
    result = json.loads(lmkit(*arguments))
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]))
    assert result == json.loads(lmkit(*arguments, "--context_length", 16, "--quiet"))
    assert result != json.loads(lmkit(*arguments, "--context_length", 64))
    some = json.loads(lmkit(*arguments, "--num_eval_batches", 2, "--batch_size", 3))
    assert some["tokens"] == 2 * 3 * 16


def test_evaluate_refuses_what_does_not_fit(run, tmp_path):
    data = run.parent / "val.npy"
    with pytest.raises(LmkitError, match="--context_length 65 is above the model's 64") as caught:
        lmkit("evaluate", "--checkpoint", run, "--data", data, "--context_length", 65)
    assert caught.value.exit_code == 2
    np.save(tmp_path / "alien.npy", np.array([1, 2, 300, 4], dtype="<i4"))
    with pytest.raises(LmkitError, match="token 2 is 300") as caught:
        lmkit("evaluate", "--checkpoint", run, "--data", tmp_path / "alien.npy")
    assert caught.value.exit_code == 3
    with pytest.raises(LmkitError, match="nowhere") as caught:
        lmkit("evaluate", "--checkpoint", run, "--data", tmp_path / "nowhere.npy")
    assert caught.value.exit_code == 2
    with pytest.raises(LmkitError, match="unknown device 'gpu'"):
        lmkit("evaluate", "--checkpoint", run, "--data", data, "--device", "gpu")


def test_evaluate_refuses_tokens_of_another_tokenizer(run, tmp_path):
    shutil.copy(run.parent / "val.npy", tmp_path / "val.npy")
    sidecar = {"dtype": "int32", "tokens": 2000, "tokenizer": "0" * 64}
    (tmp_path / "val.npy.json").write_text(json.dumps(sidecar))
    with pytest.raises(LmkitError, match="made with another tokenizer") as caught:
        lmkit("evaluate", "--checkpoint", run, "--data", tmp_path / "val.npy")
    assert caught.value.exit_code == 5


def test_generate_continues_the_prompt_the_same_for_the_same_seed(run):
    arguments = ("generate", "--checkpoint", run, "--prompt", "3 times", "--max-new-tokens", 20)
    one, same, other = (lmkit(*arguments, "--seed", seed) for seed in (1, 1, 2))
    assert one == same != other
    assert one.startswith("3 times")
    assert one.endswith("\n")


def test_generate_writes_several_samples_apart(run):
    arguments = ("generate", "--checkpoint", run, "--prompt", "3 t", "--seed", 1)
    text = lmkit(*arguments, "--num_samples", 3, "--max_new_tokens", 0)
    assert text == "3 t\n---\n3 t\n---\n3 t\n"
    shown = lmkit(*arguments, "--num_samples", 2, "--max_new_tokens", 9)
    result = json.loads(lmkit(*arguments, "--num_samples", 2, "--max_new_tokens", 9, "--json"))
    assert shown == "\n---\n".join("3 t" + sample for sample in result["samples"]) + "\n"
    assert (result["prompt"], result["seed"]) == ("3 t", 1)


def test_generate_without_a_prompt_begins_a_text(run):
    assert lmkit("generate", "--checkpoint", run, "--max_new_tokens", 5, "--seed", 0).strip()


def test_generate_from_nothing_is_an_error(tmp_path):
    with pytest.raises(LmkitError) as caught:
        lmkit("generate", "--checkpoint", tmp_path / "checkpoint_5.pt")
    assert caught.value.exit_code == 2


def test_a_token_file_is_no_checkpoint(tmp_path):
    """Though it has a sidecar of the same name."""
    np.save(tmp_path / "train.npy", np.arange(9, dtype="<i4"))
    (tmp_path / "train.npy.json").write_text('{"dtype": "int32", "tokens": 9}')
    with pytest.raises(LmkitError, match=r"train\.npy is no checkpoint$") as caught:
        lmkit("generate", "--checkpoint", tmp_path / "train.npy", "--prompt", "x")
    assert str(caught.value.hint).startswith("lmkit inspect ")


def test_generate_for_a_reader_that_leaves_ends_quietly(run):
    options = ("--seed", "0", "--max_new_tokens", "5000", "--num_samples", "20")
    process = subprocess.Popen(
        [sys.executable, "-m", "lmkit", "generate", "--checkpoint", run, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_what_is_no_token_file_is_told_in_words(run, tmp_path):
    """On stderr stands what it is, without Python's place in our code."""
    (tmp_path / "ids.bin").write_bytes(b"1234567")
    (tmp_path / "text.txt").write_text("1234567")
    for data, code, told in [
        ("ids.bin", 3, "a file of uint16 needs its sidecar"),
        ("text.txt", 3, "text becomes a token file with lmkit tokenize"),
        (".", 2, "lmkit tokenize makes a token file"),
    ]:
        done = subprocess.run(
            [sys.executable, "-m", "lmkit", "evaluate", "--checkpoint", run, "--data", data],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (code, "")
        lines = done.stderr.splitlines()
        assert {line.split(": ")[0] for line in lines} <= {"note", "error", "hint"}
        assert told in lines[-1]
