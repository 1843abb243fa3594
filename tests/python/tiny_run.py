"""A training run of a few thousand parameters and bytes, for the tests of training."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmkit.lm.trainer import Trainer

FOREVER = 1_000_000  # more steps than a test waits for
ENDOFTEXT = "<|endoftext|>"
SHAPE = {"vocab_size": 257, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 24}
SIZES = {"max_seq_len": 16, "batch_size": 4, "context_length": 16, "learning_rate": 1e-2}
INTERVALS = {"log_interval": 5, "eval_interval": 5, "save_interval": 10, "num_eval_batches": 2}


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: in steps of a millisecond a second one mostly waits for its turn."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def byte_spellings() -> list[str]:
    """The 256 bytes as a GPT-2 style vocabulary spells them, by value."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in printable]
    spelled = {value: chr(value) for value in printable}
    spelled |= {value: chr(256 + place) for place, value in enumerate(others)}
    return [spelled[value] for value in range(256)]


def make_inputs(folder: Path) -> dict[str, str]:
    """A tokenizer of bytes and two token files; the settings that name them."""
    vocabulary = {spelling: token for token, spelling in enumerate(byte_spellings())}
    (folder / "t.vocab").write_text(json.dumps(vocabulary | {ENDOFTEXT: 256}))
    (folder / "t.merges").write_text("#version: 0.2\n")
    text = b" ".join(b"%d times %d is %d." % (a, b, a * b) for a in range(30) for b in range(30))
    ids = np.frombuffer(text, np.uint8).astype("<i4")
    np.save(folder / "train.npy", ids[:-2000])
    np.save(folder / "val.npy", ids[-2000:])
    return {
        "vocab_path": str(folder / "t.vocab"),
        "merges_path": str(folder / "t.merges"),
        "train_data": str(folder / "train.npy"),
        "val_data": str(folder / "val.npy"),
    }


def make_documents(folder: Path) -> dict[str, str]:
    """The same with documents of 7 to 12 tokens, each with its end."""
    made = make_inputs(folder)
    for name in ("train_data", "val_data"):
        ids = np.load(made[name])
        ids[np.cumsum(np.resize([7, 12, 9], len(ids) // 10))] = 256
        np.save(made[name], ids)
    return made


def settings(inputs: Mapping[str, str], run: Path, **others: object) -> dict[str, object]:
    """All that is given for a tiny run in the folder ``run``."""
    return {
        **inputs,
        **SHAPE,
        **SIZES,
        **INTERVALS,
        "device": "cpu",
        "checkpoint_dir": str(run),
        **others,
    }


def train(inputs: Mapping[str, str], run: Path, **others: object) -> list[dict[str, Any]]:
    """Train a tiny model in this process; its history."""
    return Trainer(settings(inputs, run, **others)).train()


def resume(run: Path, **given: object) -> list[dict[str, Any]]:
    """Go on with the run in a folder, with nothing given but this; its history."""
    start = {"checkpoint_dir": str(run), "load_checkpoint": "latest"}
    return Trainer({**start, **given}).train()


def flags(given: Mapping[str, object]) -> list[str]:
    """The settings as a command line."""
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def command(*arguments: str) -> list[str]:
    """``lmkit train`` in a process of its own."""
    return [sys.executable, "-m", "lmkit", "train", *arguments]


def environment() -> dict[str, str]:
    """This process's, with its number of threads: bit-exactness depends on it."""
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


def start_command(*arguments: str, start_new_session: bool = False) -> subprocess.Popen[str]:
    """Start ``lmkit train`` and go on."""
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=start_new_session,
    )


def run_command(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``lmkit train`` and wait for it."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=300,
        check=False,
    )


def run_script(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code on one thread, in a process that finds what the tests share."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=280,
        check=False,
    )


def records(run: Path) -> list[dict[str, Any]]:
    """All that a run has kept in metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> dict[int, float]:
    """The loss of every step a run has kept."""
    return {record["iter"]: record["loss"] for record in records(run) if "loss" in record}


def assert_same_losses(one: Path, other: Path) -> None:
    """Equal to rounding, which grows from step to step."""
    assert losses(one).keys() == losses(other).keys()
    for step, loss in losses(other).items():
        assert losses(one)[step] == pytest.approx(loss, abs=1e-5 if step < 3 else 2e-3), step


def assert_same_tensors(one: Any, other: Any, place: str = "") -> None:
    """Equal bit for bit, through all containers."""
    assert type(one) is type(other), place
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same_tensors(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same_tensors(a, b, f"{place}[{index}]")
    else:
        assert one == other, place


def assert_same_checkpoints(one: Path, other: Path) -> None:
    """Two checkpoints from which the same steps follow."""
    a = torch.load(one, weights_only=True)
    b = torch.load(other, weights_only=True)
    for part in ("model", "optimizer", "iteration", "generators", "tokenizer"):
        assert_same_tensors(a[part], b[part], part)
