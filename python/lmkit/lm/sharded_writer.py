"""Checkpoints of a model that is cut over processes: each writes its part, beside the run.

As `CheckpointWriter` does, with all processes in step: they save at the same steps, and what one
of them is refused is told to all. Their threads talk over a group of their own, so that the loop
may use the other one meanwhile.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import distributed

from lmkit.lm.checkpoint import Notice
from lmkit.lm.checkpoint_writer import CheckpointWriter, Saved
from lmkit.lm.distributed import Ranks
from lmkit.lm.sharded_checkpoint import all_do, write_sharded


class ShardedWriter(CheckpointWriter):
    """Writes this process's part of each checkpoint, one at a time, in the background."""

    def __init__(
        self,
        folder: Path,
        keep_last: int | None,
        notice: Notice,
        saved: Saved | None,
        ranks: Ranks,
    ) -> None:
        """Begin as `CheckpointWriter` does; all ``ranks`` must do it together."""
        super().__init__(folder, keep_last, notice, saved)
        self._ranks = ranks
        self._group: distributed.ProcessGroup | None = None
        if ranks.count > 1:
            self._group = cast("distributed.ProcessGroup", distributed.new_group(backend="gloo"))

    def _write(self, path: Path, state: Mapping[str, Any]) -> None:
        write_sharded(path, state, self._ranks, self._group)

    def _tidy(self, written: Sequence[Path]) -> None:
        def tidy() -> None:
            if self._ranks.is_first:
                super(ShardedWriter, self)._tidy(written)

        all_do(tidy, self._folder, self._ranks, self._group)
