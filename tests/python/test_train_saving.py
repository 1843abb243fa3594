"""Saving beside the run: which checkpoints stay, what a kill or a full disk leaves, what waits."""

import errno
import io
import json
import math
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lmkit.errors import LmkitError, SystemRefusedError
from lmkit.lm import checkpoint_writer
from lmkit.lm.checkpoint import checkpoints_in, iteration_of, read_checkpoint, write_checkpoint
from lmkit.lm.checkpoint_writer import CheckpointWriter, Saved, prune, snapshot
from lmkit.lm.signals import StopSignals
from lmkit.lm.trainer import Trainer
from tiny_run import assert_same_checkpoints, losses, records, resume, run_script, settings, train

pytestmark = pytest.mark.usefixtures("on_one_thread")


def silence(_: str) -> None:
    pass


def numbers(run: Path) -> list[int]:
    return [iteration for iteration, _ in checkpoints_in(run)]


def state(value: float = 0.0, iteration: int = 1) -> dict[str, Any]:
    return {"model": {"w": torch.full((3,), value)}, "iteration": iteration}


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_the_copy_is_of_the_moment_of_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Steps taken while the disk is busy do not reach into the checkpoint."""
    may_write = threading.Event()
    write = checkpoint_writer.write_checkpoint

    def slow(path: Path, state: dict[str, Any]) -> None:
        may_write.wait(60)
        write(path, state)

    monkeypatch.setattr(checkpoint_writer, "write_checkpoint", slow)
    writer = CheckpointWriter(tmp_path, None, pytest.fail)
    weights = state(1.0)
    writer.write([tmp_path / "checkpoint_1.pt"], weights, Saved(1, "checkpoint_1.pt"))
    weights["model"]["w"].fill_(2.0)
    assert writer.has(1)
    assert writer.saved is None
    may_write.set()
    assert writer.wait() is None
    assert writer.saved == Saved(1, "checkpoint_1.pt")
    assert read_checkpoint(tmp_path / "checkpoint_1.pt")["model"]["w"].tolist() == [1.0] * 3


def test_a_copy_shares_what_was_shared():
    tied = torch.ones(2, 2)
    copy = snapshot({"model": {"a": tied, "b": tied, "c": [tied.T, (1, "x")]}})["model"]
    assert copy["a"] is copy["b"]
    assert copy["a"] is not tied
    assert copy["c"][1] == (1, "x")


def test_a_finished_run_has_written_everything(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also a checkpoint the disk takes its time for; the stall is in the metrics."""
    write, wait = checkpoint_writer.write_checkpoint, CheckpointWriter.wait
    next_save = threading.Event()

    def slow(path: Path, state: dict[str, Any]) -> None:
        if state["iteration"] == 1:
            next_save.wait(60)
            time.sleep(0.2)
        write(path, state)

    def noted(writer: CheckpointWriter) -> LmkitError | None:
        if writer.has(1):
            next_save.set()
        return wait(writer)

    monkeypatch.setattr(checkpoint_writer, "write_checkpoint", slow)
    monkeypatch.setattr(CheckpointWriter, "wait", noted)
    history = train(inputs, tmp_path / "run", max_iters=3, save_interval=1)
    assert numbers(tmp_path / "run") == [3, 2, 1]
    stalls = {record["iter"]: record["save_stall"] for record in history if "save_stall" in record}
    assert list(stalls) == [1, 2, 3]
    assert stalls[2] > 0.1  # it had to wait for the first


def test_a_validation_loss_that_is_no_number_is_no_best(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = iter([math.nan, math.inf, 2.0, 3.0])
    monkeypatch.setattr("lmkit.lm.validation.evaluate_loss", lambda *_, **__: next(found))
    run = tmp_path / "run"
    train(inputs, run, max_iters=8, eval_interval=2)
    assert iteration_of(run / "best.pt") == 6
    told = [record["val_loss"] for record in records(run) if "val_loss" in record]
    assert told == [None, None, 2.0, 3.0]  # JSON has no other numbers


def test_the_newest_stay_and_the_best_is_kept_apart(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = iter([3.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr("lmkit.lm.validation.evaluate_loss", lambda *_, **__: next(found))
    run = tmp_path / "run"
    train(inputs, run, max_iters=8, eval_interval=2, save_interval=1, keep_last=2)
    assert numbers(run) == [8, 7]
    assert iteration_of(run / "best.pt") == 4
    best = read_checkpoint(run / "best.pt")
    assert best["best_val_loss"] == 1.0
    assert read_checkpoint(run / "checkpoint_8.pt")["best_val_loss"] == 1.0
    left = {path.name for path in run.iterdir() if ".pt" in path.name}
    whole = {f"{name}.pt" for name in ("best", "checkpoint_7", "checkpoint_8")}
    assert left == whole | {f"{name}.json" for name in whole}

    # Going back before the best moves it aside: nothing is lost, and nothing is mistaken.
    shutil.copytree(run, tmp_path / "copy")
    resume(run, load_checkpoint=str(run / "best.pt"), max_iters=5)
    assert iteration_of(run / "best.pt") == 4
    assert numbers(run) == [5]
    state = read_checkpoint(tmp_path / "copy" / "checkpoint_7.pt")
    write_checkpoint(tmp_path / "copy" / "checkpoint_3.pt", state | {"iteration": 3})
    resume(tmp_path / "copy", load_checkpoint=f"{tmp_path}/copy/checkpoint_3.pt", max_iters=3)
    assert not (tmp_path / "copy" / "best.pt").exists()
    assert iteration_of(tmp_path / "copy" / "superseded" / "best.pt") == 4


def test_pruning_never_removes_the_only_whole_one(tmp_path: Path):
    for iteration in (1, 2, 3):
        write_checkpoint(tmp_path / f"checkpoint_{iteration}.pt", state(iteration=iteration))
    damage(tmp_path / "checkpoint_3.pt")
    assert prune(tmp_path, 1) == []
    assert numbers(tmp_path) == [3, 2, 1]
    assert [path.name for path in prune(tmp_path, 2)] == ["checkpoint_1.pt"]
    (tmp_path / "checkpoint_2.pt.json").unlink()
    assert prune(tmp_path, 1) == []  # a file nobody vouches for is none to rely on


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    write = checkpoint_writer.write_checkpoint

    def full(path: Path, state: dict[str, Any]) -> None:
        if state["iteration"] == 2:
            raise SystemRefusedError(f"cannot write {path}: No space left on device")
        write(path, state)

    monkeypatch.setattr(checkpoint_writer, "write_checkpoint", full)
    run = tmp_path / "run"
    train(inputs, run, max_iters=3, save_interval=1, keep_last=1)
    assert numbers(run) == [3]
    said = capsys.readouterr().err
    assert "could not be written: cannot write" in said
    assert f"the last whole one is {run}/checkpoint_1.pt" in said


def test_a_disk_still_full_at_the_end_is_exit_4(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write = checkpoint_writer.write_checkpoint

    def full(path: Path, state: dict[str, Any]) -> None:
        if state["iteration"] > 1:
            raise SystemRefusedError(f"cannot write {path}: No space left on device")
        write(path, state)

    monkeypatch.setattr(checkpoint_writer, "write_checkpoint", full)
    with pytest.raises(SystemRefusedError, match="No space left"):
        train(inputs, tmp_path / "run", max_iters=2, save_interval=1, keep_last=1)
    assert read_checkpoint(tmp_path / "run" / "checkpoint_1.pt")["iteration"] == 1


def test_a_log_that_cannot_grow_does_not_end_the_run(
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    class Full:
        name = "metrics.jsonl"

        def write(self, _: str) -> None:
            raise OSError(28, "No space left on device")

        def writelines(self, _: list[str]) -> None:
            pass

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("lmkit.lm.run_folder.RunFolder.append_to", lambda *_: Full())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    monkeypatch.setattr("lmkit.lm.run_folder.RunFolder.clear", lambda _: None)
    train(inputs, tmp_path / "run", max_iters=2)
    assert numbers(tmp_path / "run") == [2]
    assert capsys.readouterr().err.count("No space left on device; the run goes on") == 1


# A run of its own that dies, by SIGKILL, at the n-th call that changes a name or syncs a file:
# between every two of them a machine can stop. Children are forked from a process that has trained
# once, so that they need not load all that again, on one thread, so that there is none to lose.
DYING = """
import json, os, signal, sys
from pathlib import Path
import torch
from dying import dying
from lmkit.lm.checkpoint import checkpoints_in, read_latest
from lmkit.lm.report import Report
from lmkit.lm.signals import StopSignals
from lmkit.lm.trainer import Trainer

torch.set_num_threads(1)
given, deaths = json.loads(sys.argv[1]), json.loads(sys.argv[2])
run = Path(given["checkpoint_dir"])
warm = {**given, "checkpoint_dir": f"{run}.warm", "max_iters": 1}
Trainer(warm, report=Report(quiet=True)).train()

for after in deaths:
    child = os.fork()
    if not child:
        goes_on = bool(checkpoints_in(run))
        dying(after, (os, "fsync"), (torch, "save"), (Path, "replace"), (Path, "unlink"))
        start = {"load_checkpoint": "latest", "checkpoint_dir": str(run)} if goes_on else given
        Trainer(start, report=Report(quiet=True)).train()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, status
    whole = [read_latest(run)[1]["iteration"]] if checkpoints_in(run) else []
    print(json.dumps(whole), file=sys.stderr)
"""


def test_killed_at_any_moment_of_any_save_it_goes_on_bit_for_bit(
    inputs: dict[str, str], tmp_path: Path
):
    """Every save has some 13 such moments; these deaths come at each of them, and elsewhere."""
    run, reference = tmp_path / "run", tmp_path / "reference"
    given = settings(inputs, run, max_iters=10_000, save_interval=1, eval_interval=2, keep_last=2)
    deaths = [*range(3, 33), 67]
    done = run_script(DYING, json.dumps(given), json.dumps(deaths))
    assert done.returncode == 0, done.stderr
    whole = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("[")]
    reached = [one[0] for one in whole if one]
    assert reached == sorted(reached)  # what was whole once is never lost
    assert len(reached) > len(deaths) // 2
    last = max(reached) + 2
    resume(run, max_iters=last)
    train(inputs, reference, max_iters=last, save_interval=10_000, eval_interval=2)
    assert losses(run) == losses(reference)
    assert_same_checkpoints(run / f"checkpoint_{last}.pt", reference / f"checkpoint_{last}.pt")
    assert not list(run.glob(".*.tmp"))
    assert set(numbers(run)) <= {last, last - 1, last - 2}


def test_a_save_that_is_asked_for_comes_before_the_next_step(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trainer = Trainer(settings(inputs, tmp_path / "run", max_iters=5))
    asked: list[int] = []

    def asked_at_3(_: StopSignals) -> bool:
        asked.append(trainer.step)
        return trainer.step == 3 and asked.count(3) == 1

    monkeypatch.setattr(StopSignals, "take_save_request", asked_at_3)
    trainer.train()
    assert numbers(tmp_path / "run") == [5, 3]


def test_out_of_time_it_saves_and_says_how_to_go_on(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    trainer = Trainer(settings(inputs, run, max_iters=9, max_time=1e-9))
    trainer.train()
    assert trainer.exit_code == 0
    assert numbers(run) == [0]
    said = capsys.readouterr().out
    assert f"Stopped after 0 of 9 iterations. To go on: lmkit train --load_checkpoint {run}" in said
    resume(run, max_time="1h")
    assert numbers(run) == [9, 0]


class Full(io.StringIO):
    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_cannot_be_written_costs_its_lines_and_not_the_run(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], stream: str
):
    """As where its log is on a full disk, or whoever read the notes has left."""
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"sys.{stream}", Full())
        train(inputs, run, max_iters=10)
    assert numbers(run) == [10]
    assert "Iter     10 | Loss" in (run / "train.log").read_text()
    said = "note: cannot write the output: No space left on device; the run goes on"
    assert capsys.readouterr().err.count(said) == (stream == "stdout")


def test_an_evaluation_is_broken_off_and_made_up_for(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    straight, run = tmp_path / "straight", tmp_path / "run"
    train(inputs, straight, max_iters=8, eval_interval=2)
    trainer = Trainer(settings(inputs, run, max_iters=8, eval_interval=2))
    forward = torch.nn.Embedding.forward

    def leave_in_the_second_evaluation(self: torch.nn.Embedding, ids: torch.Tensor):
        if trainer.step == 4 and not trainer.model.training:
            trainer._report.reader_left = True
        return forward(self, ids)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Embedding, "forward", leave_in_the_second_evaluation)
        history = trainer.train()
    assert [record["iter"] for record in history if "val_loss" in record] == [2]
    assert read_checkpoint(run / "checkpoint_4.pt")["evaluation_due"]
    resume(run)
    kept = [records(one) for one in (run, straight)]
    val_losses = [[(r["iter"], r["val_loss"]) for r in one if "val_loss" in r] for one in kept]
    assert val_losses[0] == val_losses[1]
    assert not read_checkpoint(run / "checkpoint_4.pt")["evaluation_due"]
    assert_same_checkpoints(run / "checkpoint_8.pt", straight / "checkpoint_8.pt")
