"""The run folder: one run at a time, nothing overwritten, a resume leaves what was true then."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from full_disk import files_up_to
from lmkit.errors import SystemRefusedError, UsageError
from lmkit.lm.checkpoint import read_checkpoint, write_checkpoint
from lmkit.lm.run_folder import RunFolder, refuse_another_run

HOLD = """
import sys, time
from lmkit.lm.run_folder import RunFolder
folder = RunFolder(sys.argv[1], print)
print("holding", flush=True)
time.sleep(60)
"""


def silence(_: str) -> None:
    pass


def some_checkpoints(folder: Path, *iterations: int) -> None:
    folder.mkdir(exist_ok=True)
    for iteration in iterations:
        state = {"model": {}, "iteration": iteration}
        write_checkpoint(folder / f"checkpoint_{iteration}.pt", state)


def test_two_runs_cannot_have_one_folder_until_the_first_is_dead(tmp_path: Path):
    folder = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        with pytest.raises(
            SystemRefusedError, match=f"in use by process {holder.pid} on"
        ) as caught:
            RunFolder(str(folder), silence)
        assert caught.value.exit_code == 4
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        RunFolder(str(folder), silence).close()
    finally:
        holder.kill()
        holder.communicate()


def test_a_disk_that_is_full_from_the_start_is_told_and_keeps_nothing(tmp_path: Path):
    refused = pytest.raises(SystemRefusedError, match=r"cannot write .*/run/run\.lock: File too")
    with refused, files_up_to(5):
        RunFolder(str(tmp_path / "run"), silence)
    assert not list(tmp_path.iterdir())


def test_a_folder_nothing_was_written_to_goes_again(tmp_path: Path):
    RunFolder(str(tmp_path / "new"), silence).close()
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    RunFolder(str(tmp_path / "old"), silence).close()
    assert (tmp_path / "old").exists()


def test_what_a_killed_writer_left_is_swept(tmp_path: Path):
    (tmp_path / ".checkpoint_5.pt.123.tmp").write_bytes(b"half")
    RunFolder(str(tmp_path), silence).close()
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_new_run_refuses_a_folder_with_checkpoints(tmp_path: Path):
    some_checkpoints(tmp_path, 5, 10)
    with pytest.raises(UsageError, match="already holds 2 checkpoints") as caught:
        refuse_another_run(str(tmp_path), force=False)
    assert "--load_checkpoint latest" in (caught.value.hint or "")
    assert "--force" in (caught.value.hint or "")


def test_force_sets_the_old_run_aside(tmp_path: Path):
    for _ in range(2):
        some_checkpoints(tmp_path, 5)
        (tmp_path / "metrics.jsonl").write_text('{"iter": 1}\n')
        with RunFolder(str(tmp_path), silence) as folder:
            refuse_another_run(str(tmp_path), force=True)
            folder.clear()
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {
        "run.lock",
        "superseded/checkpoint_5.pt",
        "superseded/checkpoint_5.pt.json",
        "superseded/checkpoint_5.2.pt",
        "superseded/checkpoint_5.2.pt.json",
        "superseded/metrics.jsonl",
        "superseded/metrics.2.jsonl",
    }
    assert read_checkpoint(tmp_path / "superseded" / "checkpoint_5.2.pt")["iteration"] == 5


def test_going_back_moves_later_checkpoints_and_cuts_the_metrics(tmp_path: Path):
    some_checkpoints(tmp_path, 5, 10, 15)
    lines = [json.dumps({"iter": step, "loss": 1.0}) for step in range(1, 16)]
    torn = b'\n{"iter": 1\n\xff\xfe'
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + torn)
    said: list[str] = []
    with RunFolder(str(tmp_path), said.append) as folder:
        folder.go_back_to(10, tmp_path / "checkpoint_10.pt")
    kept = [
        json.loads(line)["iter"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert kept == list(range(1, 11))
    assert said == ["moved checkpoint_15.pt to superseded/checkpoint_15.pt"]
    assert (tmp_path / "checkpoint_10.pt").exists()
    assert not (tmp_path / "checkpoint_15.pt.json").exists()


def test_paths_are_printed_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for typed in ("./runs/a", "./runs/a/"):
        with RunFolder(typed, silence) as folder:
            assert folder.printed("checkpoint_5.pt") == "./runs/a/checkpoint_5.pt"


def test_a_file_in_the_place_of_the_folder(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file, not a folder"):
        RunFolder(str(tmp_path / "file"), silence)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_one_may_not_write(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(SystemRefusedError, match="Permission denied"):
        RunFolder(str(tmp_path / "run"), silence)


def test_of_many_runs_started_at_once_one_gets_the_folder(tmp_path: Path):
    """Also while closing runs remove the folder they made; each opening is a run of its own."""
    together = threading.Barrier(8)
    inside, most, opened = 0, 0, 0
    turn = threading.Lock()

    def run() -> None:
        nonlocal inside, most, opened
        for _ in range(50):
            together.wait()
            try:
                folder = RunFolder(str(tmp_path / "run"), silence)
            except SystemRefusedError:
                continue
            with turn:
                inside, opened = inside + 1, opened + 1
                most = max(most, inside)
            time.sleep(0.001)
            with turn:
                inside -= 1
            folder.close()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert opened >= 50
