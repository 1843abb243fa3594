"""Checkpoints written beside the run: the loop waits for a copy in memory, not for the disk.

A save copies the state (the stall) and leaves hashing, writing and syncing to a thread; one write
is under way at a time, and a save that comes too early waits for the one before. Only when the new
checkpoint has been read back whole are old ones removed, so that a full disk, a kill or a torn
file never costs the last good one. The copy takes as much memory as the state while it is written.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from lmkit.errors import LmkitError
from lmkit.lm.checkpoint import Notice, verifies, write_checkpoint
from lmkit.lm.checkpoint_names import checkpoints_in, remove_checkpoint, twin_of
from lmkit.lm.sharding import on_host

_Place: TypeAlias = tuple[torch.device, int, int, torch.Size, tuple[int, ...]]


@dataclass(frozen=True)
class Saved:
    """A numbered checkpoint: after how many steps, and its path as printed."""

    step: int
    printed: str


class CheckpointWriter:
    """Writes the checkpoints of one run folder, one at a time, in the background.

    Attributes:
        saved: the newest numbered checkpoint known to be whole, or None.
    """

    def __init__(
        self, folder: Path, keep_last: int | None, notice: Notice, saved: Saved | None = None
    ) -> None:
        """Begin with what is ``saved`` already.

        Args:
            folder: where old checkpoints are pruned.
            keep_last: how many numbered checkpoints stay; None for all.
            notice: hears of writes that failed.
            saved: the checkpoint the run goes on from.
        """
        self.saved = saved
        self._folder = folder
        self._keep_last = keep_last
        self._notice = notice
        self._thread: threading.Thread | None = None
        self._under_way: Saved | None = None
        self._failure: Exception | None = None

    def has(self, step: int) -> bool:
        """Whether the numbered checkpoint after ``step`` is written, or being written."""
        return any(one is not None and one.step == step for one in (self.saved, self._under_way))

    def write(
        self, paths: Sequence[Path], state: Mapping[str, Any], numbered: Saved | None = None
    ) -> None:
        """Copy ``state`` and begin to write it to each of ``paths``; ``wait`` tells how it went.

        A failure is told and not raised: the run goes on, and its next save tries again.
        ``numbered`` is what the first of the paths is, where it is not the best alone.
        """
        self.wait()
        state = snapshot(state)
        self._under_way = numbered
        # Not a daemon: should nobody wait, the interpreter does before it exits.
        self._thread = threading.Thread(
            target=self._work, args=(paths, state), name="lmkit-checkpoint", daemon=False
        )
        self._thread.start()

    def wait(self) -> LmkitError | None:
        """Wait for the write under way, if there is one; what the system refused, or None."""
        if self._thread is None:
            return None
        self._thread.join()
        self._thread = None
        failure, self._failure = self._failure, None
        numbered, self._under_way = self._under_way, None
        if failure is None:
            self.saved = numbered or self.saved
            return None
        if not isinstance(failure, LmkitError):
            raise failure
        kept = f"the last whole one is {self.saved.printed}" if self.saved else "there is none yet"
        self._notice(f"a checkpoint could not be written: {failure}; {kept}")
        return failure

    def _work(self, paths: Sequence[Path], state: Mapping[str, Any]) -> None:
        try:
            for path in paths:
                self._write(path, state)
            self._tidy(paths)
        except Exception as error:  # noqa: BLE001 - the loop's thread raises it, when it asks
            self._failure = error

    def _write(self, path: Path, state: Mapping[str, Any]) -> None:
        write_checkpoint(path, state)

    def _tidy(self, written: Sequence[Path]) -> None:
        """Remove what the new checkpoints take the place of."""
        for path in written:
            if twin_of(path).exists():
                remove_checkpoint(twin_of(path))
        if self._keep_last is not None:
            prune(self._folder, self._keep_last)


def prune(folder: Path, keep_last: int) -> list[Path]:
    """Remove all numbered checkpoints but the newest ``keep_last``; what was removed.

    Nothing is removed unless one of those that stay has just been read back whole.
    """
    newest_first = [path for _, path in checkpoints_in(folder)]
    kept, old = newest_first[:keep_last], newest_first[keep_last:]
    if not old or not any(verifies(path) for path in kept):
        return []
    for path in old:
        remove_checkpoint(path)
    return old


def snapshot(state: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a state in the host's memory, which later steps do not touch.

    Tensors that share their memory, such as tied weights, still share it in the copy. Of one that
    is cut over processes the copy is of this process's rows; there it is the same object that is
    shared, as a process without rows has no memory to tell it by.
    """
    copies: dict[_Place, Tensor] = {}
    cut: dict[int, Tensor] = {}

    def copied(value: object) -> object:
        if hasattr(value, "to_local"):
            if id(value) not in cut:
                cut[id(value)] = on_host(cast("Tensor", value))
            return cut[id(value)]
        if isinstance(value, Tensor):
            place = _place(value)
            if place not in copies:
                copies[place] = value.detach().to("cpu", copy=True)
            return copies[place]
        if isinstance(value, Mapping):
            return {key: copied(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(copied(one) for one in value)
        return value

    return {key: copied(value) for key, value in state.items()}


def _place(tensor: Tensor) -> _Place:
    storage = tensor.untyped_storage().data_ptr()
    offset = int(tensor.storage_offset())
    return tensor.device, storage, offset, tensor.shape, tensor.stride()
