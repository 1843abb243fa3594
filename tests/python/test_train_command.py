"""`lmkit train` as it is typed: the original script's commands, lines and files."""

import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from lmkit.cli import main
from lmkit.errors import LmkitError, MismatchError, SystemRefusedError, UsageError
from lmkit.presets import PRESETS
from tiny_run import (
    assert_same_checkpoints,
    command,
    environment,
    flags,
    losses,
    make_inputs,
    records,
    run_command,
    settings,
)

pytestmark = pytest.mark.usefixtures("on_one_thread")

# The first command of the original script's documentation, as it stands.
ORIGINAL = shlex.split(
    "--vocab_path tokenizer.vocab --merges_path tokenizer.merges --train_data train_data.npy "
    "--val_data val_data.npy --vocab_size 10000 --d_model 768 --n_layers 12 --n_heads 12 "
    "--batch_size 32 --context_length 512 --learning_rate 3e-4 --max_iters 100000 "
    "--checkpoint_dir ./checkpoints"
)
# The second, which goes on from what the first one wrote.
RESUMING = shlex.split(
    "--vocab_path tokenizer.vocab --merges_path tokenizer.merges --train_data train_data.npy "
    "--load_checkpoint ./checkpoints/checkpoint_10.pt --max_iters 200000"
)
SMALL = shlex.split("--vocab_size 1000 --d_model 256 --n_layers 4 --n_heads 4 --batch_size 16")
SMALLER = shlex.split(
    "--d_model 16 --n_layers 1 --n_heads 2 --d_ff 24 --batch_size 2 --context_length 16 "
    "--max_iters 10 --log_interval 5 --eval_interval 10 --save_interval 10 --num_eval_batches 2 "
    "--device cpu"
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files the original commands name."""
    inputs = make_inputs(tmp_path)
    names = {
        "vocab_path": "tokenizer.vocab",
        "merges_path": "tokenizer.merges",
        "train_data": "train_data.npy",
        "val_data": "val_data.npy",
    }
    for setting, name in names.items():
        Path(inputs[setting]).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lmkit_train(*words: str) -> int:
    """Run the command in this process; its exit code."""
    result = main.main(["train", *words], prog_name="lmkit", standalone_mode=False)
    return result if isinstance(result, int) else 0


def test_the_original_commands_run_as_they_stand(here: Path, capsys: pytest.CaptureFixture[str]):
    """Only smaller numbers are appended. The first has a process of its own."""
    first = run_command(*ORIGINAL, *SMALLER, folder=here)
    assert first.returncode == 0, first.stderr
    count = 2 * 10_000 * 16 + 4 * 16 * 16 + 3 * 16 * 24 + 3 * 16
    number = r"\d+\.\d{4}"
    time = r"Time: \d+\.\d{3}s \| LR: 3\.00e-04( \| .*)?"
    expected = [
        "Using device: cpu",
        r"Loading tokenizer\.\.\.",
        r"Tokenizer loaded\.",
        r"Loading training data\.\.\.",
        r"Loading validation data\.\.\.",
        r"Creating model\.\.\.",
        rf"Model created with {count:,} total parameters \({count:,} trainable\)",
        r"Starting training\.\.\.",
        rf"Iter      5 \| Loss: {number} \| {time}",
        rf"Iter     10 \| Loss: {number} \| {time}",
        r"Evaluating\.\.\.",
        rf"Iter     10 \| Val Loss: {number}",
        r"Saving checkpoint to \./checkpoints/checkpoint_10\.pt",
    ]
    lines = first.stdout.splitlines()
    assert len(lines) == len(expected), first.stdout
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line

    assert lmkit_train(*RESUMING, "--max_iters", "12") == 0
    assert "Saving checkpoint to ./checkpoints/checkpoint_12.pt\n" in capsys.readouterr().out
    assert list(losses(here / "checkpoints")) == list(range(1, 13))


def test_the_defaults_are_the_original_scripts(here: Path):
    small = [*ORIGINAL[:8], *SMALL, "--max_iters", "0", "--checkpoint_dir", "small"]
    assert lmkit_train(*small, "--n_layers", "1", "--device", "cpu") == 0
    config = tomllib.loads((here / "small" / "config.toml").read_text())
    assert config["model"]["d_ff"] == 3072
    assert config["model"]["max_seq_len"] == 1024
    assert config["model"]["rope_theta"] == 10000.0
    expected = {"learning_rate": 3e-4, "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.999}
    assert expected.items() <= config["training"].items()
    assert config["training"]["max_grad_norm"] == 1.0
    assert config["training"]["context_length"] == 512
    intervals = {"log_interval": 100, "eval_interval": 1000, "save_interval": 5000}
    assert intervals.items() <= config["logging"].items()
    assert config["logging"]["num_eval_batches"] == 100


def test_a_preset_prints_what_it_sets_and_flags_win(here: Path, capsys: pytest.CaptureFixture[str]):
    words = [*ORIGINAL[:6], "--preset", "small", "--n_layers", "1", "--max_iters", "0"]
    assert lmkit_train(*words, "--device", "cpu") == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        "Preset small: vocab_size 1000, d_model 256, n_heads 4, d_ff 704, batch_size 16"
    )
    config = tomllib.loads((here / "checkpoints" / "config.toml").read_text())
    assert config["model"]["n_layers"] == 1
    assert config["model"]["d_ff"] == 704
    given = flags(PRESETS["small"] | {"d_model": 16, "d_ff": 24, "max_iters": 0})
    assert lmkit_train(*words, *given, "--device", "cpu", "--force", "--dry_run") == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert said == "Preset small: all that it sets is given"


def test_the_resolved_configuration_repeats_the_run(here: Path):
    assert lmkit_train(*ORIGINAL, *SMALLER) == 0
    with pytest.raises(UsageError, match="already holds 1 checkpoint"):
        lmkit_train("--config", "checkpoints/config.toml")
    assert lmkit_train("--config", "checkpoints/config.toml", "--checkpoint_dir", "again") == 0
    assert losses(here / "again") == losses(here / "checkpoints")
    name = "checkpoint_10.pt"
    assert_same_checkpoints(here / "again" / name, here / "checkpoints" / name)


def test_the_environment_lies_between_the_command_line_and_the_configuration(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    Path("mine.toml").write_text("max_iters = 3\nseed = 3\nlog-interval = 7\n")
    monkeypatch.setenv("LMKIT_TRAIN_MAX_ITERS", "2")
    monkeypatch.setenv("LMKIT_TRAIN_SEED", "2")
    small = [*SMALLER[:12], "--device", "cpu"]
    words = [*ORIGINAL[:8], *small, "--config", "mine.toml", "--max-iters", "1"]
    assert lmkit_train(*words) == 0
    config = tomllib.loads((here / "checkpoints" / "config.toml").read_text())
    assert config["training"]["max_iters"] == 1
    assert config["training"]["seed"] == 2
    assert config["logging"]["log_interval"] == 7


def test_json_prints_one_object_a_line(here: Path, capsys: pytest.CaptureFixture[str]):
    assert lmkit_train(*ORIGINAL, *SMALLER, "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    iterations = [event for event in events if event["event"] == "iteration"]
    assert [event["iter"] for event in iterations] == [5, 10]
    kept = losses(here / "checkpoints")
    assert [event["loss"] for event in iterations] == [kept[5], kept[10]]
    assert events[-1] == {"event": "saving", "path": "./checkpoints/checkpoint_10.pt"}
    assert {"text": "Starting training...", "event": "message"} in events


def test_the_log_has_the_lines_with_their_time(here: Path, capsys: pytest.CaptureFixture[str]):
    assert lmkit_train(*ORIGINAL, *SMALLER) == 0
    printed = capsys.readouterr().out.splitlines()
    logged = (here / "checkpoints" / "train.log").read_text().splitlines()
    assert [line[20:] for line in logged if line[20:26] != "note: "] == printed
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in logged)


def test_metrics_have_every_step_and_evaluation(here: Path):
    assert lmkit_train(*ORIGINAL, *SMALLER) == 0
    kept = records(here / "checkpoints")
    steps = [record for record in kept if "loss" in record]
    assert [record["iter"] for record in steps] == list(range(1, 11))
    assert all(record["lr"] == 3e-4 and record["grad_norm"] > 0 for record in steps)
    assert [record["iter"] for record in kept if "val_loss" in record] == [10]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--vocab_size", "100"], 2, "the tokenizer has 257 tokens, --vocab_size is 100"),
        (["--d_model", "15"], 2, "--d_model 15 is not divisible by --n_heads 2"),
        (["--context_length", "2048"], 2, "--context_length 2048 is above --max_seq_len 1024"),
        (["--train_data", "none.npy"], 2, "none.npy"),
        (["--vocab_path", "tokenizer.merges"], 3, "tokenizer.merges"),
        (["--device", "abacus"], 2, "abacus"),
        (["--load_checkpoint", "none.pt"], 2, "there is no checkpoint at none.pt"),
        (["--load_checkpoint", "latest"], 2, "there is no checkpoint in ./checkpoints"),
        (["--checkpoint_dir", "train_data.npy"], 2, "train_data.npy is a file"),
        (["--batch_size", "0"], 2, "--batch_size must be at least 1"),
    ],
)
def test_misuse_is_one_sentence_and_leaves_nothing(
    words: list[str], code: int, said: str, here: Path
):
    before = sorted(here.iterdir())
    with pytest.raises(LmkitError) as caught:
        lmkit_train(*ORIGINAL, *SMALLER, *words)
    assert caught.value.exit_code == code
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(here.iterdir()) == before


@pytest.mark.usefixtures("here")
def test_resuming_with_another_shape_names_each_field():
    assert lmkit_train(*ORIGINAL, *SMALLER) == 0
    with pytest.raises(MismatchError) as caught:
        lmkit_train(*RESUMING, "--d_model", "32", "--n_layers", "3")
    assert caught.value.exit_code == 5
    assert "--d_model 32 (the checkpoint has 16)" in str(caught.value)
    assert "--n_layers 3 (the checkpoint has 1)" in str(caught.value)


def test_a_damaged_checkpoint_is_exit_5_and_named(here: Path):
    assert lmkit_train(*ORIGINAL, *SMALLER) == 0
    path = here / "checkpoints" / "checkpoint_10.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = run_command(*RESUMING, folder=here)
    assert result.returncode == 5
    assert "error: the checkpoint ./checkpoints/checkpoint_10.pt is damaged" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("here")
def test_a_folder_in_use_is_exit_4():
    from lmkit.lm.run_folder import RunFolder

    with (
        RunFolder("checkpoints", lambda _: None),
        pytest.raises(SystemRefusedError, match=f"in use by process {os.getpid()}"),
    ):
        lmkit_train(*ORIGINAL, *SMALLER)


def test_a_reader_that_leaves_ends_the_run_quietly_and_saves(tmp_path: Path):
    run = tmp_path / "run"
    given = settings(make_inputs(tmp_path), run, max_iters=1_000_000, log_interval=1)
    process = subprocess.Popen(
        command(*flags(given)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    for line in process.stdout:
        if line.startswith("Iter      2"):
            break
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) == 0, said
    assert "Traceback" not in said
    assert list(run.glob("checkpoint_*.pt"))
    assert max(losses(run)) == int(max(run.glob("checkpoint_*.pt")).stem.split("_")[1])


def test_a_token_file_without_header_is_said_to_be_int32(
    here: Path, capsys: pytest.CaptureFixture[str]
):
    ids = np.load("train_data.npy")
    ids.astype("<i4").tofile("train.bin")
    words = [*ORIGINAL[:4], "--train_data", "train.bin", "--vocab_size", "10000", *SMALLER]
    assert lmkit_train(*words) == 0
    assert "int32" in capsys.readouterr().err
    assert lmkit_train(*ORIGINAL, *SMALLER, "--checkpoint_dir", "npy") == 0
    assert losses(here / "npy") == losses(here / "checkpoints")


@pytest.mark.usefixtures("here")
def test_no_output_makes_a_difference_to_the_run(capsys: pytest.CaptureFixture[str]):
    assert lmkit_train(*ORIGINAL, *SMALLER, "--quiet") == 0
    assert capsys.readouterr().err == ""
    state = torch.load("checkpoints/checkpoint_10.pt", weights_only=True)
    assert state["config"]["checkpoint_dir"] == "./checkpoints"
