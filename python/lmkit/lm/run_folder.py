"""The folder of one training run: who may write in it, what is in it, what a resume sets aside.

    checkpoint_<iter>.pt, .pt.json   the states (checkpoint.py)
    checkpoint_<iter>.dcp/           of a model that is cut over processes (sharded_checkpoint.py)
    best.pt, .pt.json or best.dcp/   the state with the lowest validation loss
    metrics.jsonl                    one JSON object per step and per evaluation
    config.toml                      the resolved configuration; the run can be repeated from it
    train.log                        what was printed, with the time of day
    tensorboard/, wandb/             what --logger shows (loggers.py)
    superseded/                      checkpoints a resume from an earlier step went behind
    run.lock                         held by the live run; the system frees it when the run dies

Opening a folder takes the lock and sweeps what a killed run left half-written.
"""

import errno
import fcntl
import json
import math
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TextIO

from lmkit.counted import counted
from lmkit.durable import refused, sweep_temporaries, write_durably
from lmkit.errors import MismatchError, SystemRefusedError, UsageError
from lmkit.lm.checkpoint import Notice, iteration_of
from lmkit.lm.checkpoint_names import BEST_NAMES, checkpoints_in, recover_replaced, sidecar_path
from lmkit.run_lock import LOCK_NAME

NO_LOCKS_HERE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def refuse_another_run(typed: str, *, force: bool) -> None:
    """Raise when the folder holds a run already that may not be set aside."""
    present = checkpoints_in(Path(typed))
    if present and not force:
        raise UsageError(
            f"--checkpoint_dir {typed} already holds {counted(len(present), 'checkpoint')}, "
            f"the newest {present[0][1].name}",
            hint="continue it with --load_checkpoint latest, set it aside with --force, "
            "or choose another --checkpoint_dir",
        )


class RunFolder:
    """An opened and locked run folder; close it, or use it as a context manager.

    Attributes:
        typed: the folder as the user typed it, which is how its files are printed.
        path: the same as a path.
    """

    def __init__(self, typed: str, notice: Notice) -> None:
        self.typed = typed
        self.path = Path(typed)
        self._notice = notice
        self._made = self._make()
        self._lock = self._take_lock()
        try:
            self._sign()
            sweep_temporaries(self.path)
            recover_replaced(self.path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back; a folder made here that nothing was written to goes again."""
        if self._lock is None:
            return
        with suppress(OSError):  # somebody removed the folder meanwhile: nothing left to tidy
            if {entry.name for entry in self.path.iterdir()} == {LOCK_NAME} and self._made:
                (self.path / LOCK_NAME).unlink()
                self.path.rmdir()
        with suppress(OSError):  # what a full disk did not take of it
            self._lock.close()
        self._lock = None

    def printed(self, name: str) -> str:
        """A file of the folder as it is printed: the folder as typed, a slash, the name."""
        return f"{self.typed.rstrip('/')}/{name}"

    def clear(self) -> None:
        """Set a run that is already in the folder aside, all of it."""
        for _, checkpoint in checkpoints_in(self.path):
            self._set_aside(checkpoint)
        for best in self._best():
            self._set_aside(best)
        for name in ("metrics.jsonl", "train.log", "config.toml", "tensorboard", "wandb"):
            if (self.path / name).exists():
                self._move_aside(self.path / name)

    def go_back_to(self, iteration: int, checkpoint: Path) -> None:
        """Leave what was true at a checkpoint: whatever came later is moved or cut."""
        for other, path in checkpoints_in(self.path):
            if other > iteration or (other == iteration and not path.samefile(checkpoint)):
                moved = self._set_aside(path)
                self._notice(f"moved {path.name} to {moved.relative_to(self.path)}")
        for best in self._best():
            if _is_later(best, iteration):
                moved = self._set_aside(best)
                self._notice(f"moved {best.name} to {moved.relative_to(self.path)}")
        self._cut_metrics(iteration)

    def metrics(self) -> list[dict[str, Any]]:
        """All that ``metrics.jsonl`` holds, the run's history; torn lines are left out."""
        lines = (self.path / "metrics.jsonl").read_bytes().splitlines()
        return [json.loads(line) for line in lines if _iteration_of(line) < math.inf]

    def write_config(self, toml: str) -> None:
        """Keep the resolved configuration."""
        write_durably(self.path / "config.toml", toml.encode())

    def append_to(self, name: str) -> TextIO:
        """Open a text file of the folder for appending, line by line."""
        try:
            return (self.path / name).open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise refused("write", self.path / name, error) from error

    def _make(self) -> bool:
        made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise UsageError(f"--checkpoint_dir {self.typed} is a file, not a folder") from error
        except OSError as error:
            raise refused("make the folder", self.typed, error) from error
        return made

    def _take_lock(self) -> TextIO | None:
        """The locked file. A killed run holds none, so there is never one to clear by hand."""
        path = self.path / LOCK_NAME
        while True:
            try:
                lock = path.open("a+", encoding="utf-8")
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                holder = lock.read().strip() or "another run"
                lock.close()
                raise SystemRefusedError(
                    f"--checkpoint_dir {self.typed} is in use by {holder}",
                    hint="wait for it to end, or choose another --checkpoint_dir",
                ) from error
            except OSError as error:
                if error.errno not in NO_LOCKS_HERE:
                    raise refused("lock", path, error) from error
                self._notice(
                    f"{self.typed}: this file system has no locks, so take care that no "
                    "other run writes there"
                )
                return None
            if self._still_in_place(lock, path):
                break
            lock.close()
        return lock

    def _sign(self) -> None:
        """Say in the locked file whose it is."""
        if self._lock is None:
            return
        try:
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            self._lock.flush()
        except OSError as error:
            raise refused("write", self.printed(LOCK_NAME), error) from error

    @staticmethod
    def _still_in_place(lock: TextIO, path: Path) -> bool:
        """Whether no closing run removed the file between our opening it and locking it."""
        try:
            return os.fstat(lock.fileno()).st_ino == path.stat().st_ino
        except FileNotFoundError:
            return False

    def _set_aside(self, checkpoint: Path) -> Path:
        """Move a checkpoint and its sidecar to ``superseded/``, beside any of the same name."""
        # The checkpoint first: if this is cut short, what stays behind is a sidecar alone.
        moved = self._move_aside(checkpoint)
        if sidecar_path(checkpoint).exists():
            sidecar_path(checkpoint).replace(sidecar_path(moved))
        return moved

    def _best(self) -> list[Path]:
        """The state with the lowest validation loss, of either kind."""
        return [self.path / name for name in BEST_NAMES if (self.path / name).exists()]

    def _move_aside(self, path: Path) -> Path:
        folder = self.path / "superseded"
        try:
            folder.mkdir(exist_ok=True)
            target, copy = folder / path.name, 2
            while target.exists():
                target, copy = folder / f"{path.stem}.{copy}{path.suffix}", copy + 1
            path.replace(target)
        except OSError as error:
            raise refused("set aside", path, error) from error
        return target

    def _cut_metrics(self, iteration: int) -> None:
        """Drop the lines after ``iteration``, and one that a kill cut short."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        kept = [line for line in path.read_bytes().splitlines() if _iteration_of(line) <= iteration]
        write_durably(path, b"".join(line + b"\n" for line in kept))


def _is_later(checkpoint: Path, iteration: int) -> bool:
    try:
        return iteration_of(checkpoint) > iteration
    except MismatchError:  # not whole, so not to be taken for the best of what is left
        return True


def _iteration_of(line: bytes) -> float:
    """The step a line of metrics tells of; infinity for a line that is not whole."""
    try:
        record: dict[str, Any] = json.loads(line)
        return int(record["iter"])
    except (ValueError, KeyError, TypeError):
        return math.inf
