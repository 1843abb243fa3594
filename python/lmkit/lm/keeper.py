"""What a run leaves on the disk: checkpoints written beside it, its history, and the way back.

One process of a run has a `Keeper`; the others have a `Bystander`, which keeps nothing, or where
the model is cut over them a `Partner`, which writes its part of each checkpoint. The loop need not
ask which it is.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from lmkit.config import TrainConfig
from lmkit.errors import LmkitError
from lmkit.lm.checkpoint_names import BEST_NAMES, checkpoint_name
from lmkit.lm.checkpoint_writer import CheckpointWriter, Saved
from lmkit.lm.distributed import Ranks
from lmkit.lm.pace import Pace
from lmkit.lm.report import Report
from lmkit.lm.run_folder import RunFolder


class Bystander:
    """Keeps nothing."""

    @property
    def saved(self) -> Saved | None:
        """The newest numbered checkpoint known to be whole."""
        return None

    def save(
        self,
        step: int,
        state: Callable[[], Mapping[str, Any]],
        *,
        numbered: bool,
        best: bool,
        again: bool = False,
    ) -> None:
        """Begin to write a checkpoint, unless there is one; the disk's part goes on by itself.

        Args:
            step: how many steps the model has taken.
            state: makes what is written.
            numbered: write ``checkpoint_<step>``, and say so.
            best: write ``best``.
            again: even if there is one.
        """

    def wait(self) -> LmkitError | None:
        """Wait for the write under way; what the system refused, or None."""
        return None

    def history(self) -> list[dict[str, Any]]:
        """All that ``metrics.jsonl`` holds."""
        return []

    def go_back(self, saved: Saved) -> None:
        """Leave what was true at a checkpoint."""


class Partner(Bystander):
    """Writes its part of the checkpoints that all processes write."""

    def __init__(self, typed: str, writer: CheckpointWriter, *, cut: bool = True) -> None:
        """Write into the folder ``typed``, for a model that is ``cut`` or whole."""
        self._typed = typed
        self._writer = writer
        self._cut = cut

    @property
    def saved(self) -> Saved | None:
        """See `Bystander`."""
        return self._writer.saved

    def save(
        self,
        step: int,
        state: Callable[[], Mapping[str, Any]],
        *,
        numbered: bool,
        best: bool,
        again: bool = False,
    ) -> None:
        """See `Bystander`."""
        folder, saved = self._typed.rstrip("/"), None
        if numbered and (again or not self._writer.has(step)):
            saved = Saved(step, f"{folder}/{checkpoint_name(step, cut=self._cut)}")
        paths = [Path(saved.printed)] if saved else []
        if best:
            paths.append(Path(f"{folder}/{BEST_NAMES[self._cut]}"))
        if paths:
            with self._saving(step, saved):
                self._writer.write(paths, state(), saved)

    def wait(self) -> LmkitError | None:
        """See `Bystander`."""
        return self._writer.wait()

    def _saving(self, step: int, saved: Saved | None) -> AbstractContextManager[None]:  # noqa: ARG002 - the first process's
        """What goes around the writing of the numbered checkpoint ``saved``, or the best alone."""
        return nullcontext()


class Keeper(Partner):
    """Keeps the run in its folder."""

    def __init__(
        self,
        folder: RunFolder,
        report: Report,
        pace: Pace,
        writer: CheckpointWriter,
        *,
        cut: bool = False,
    ) -> None:
        """Keep in ``folder`` what ``writer`` writes; what saving costs goes to ``pace``."""
        super().__init__(folder.typed, writer, cut=cut)
        self._folder = folder
        self._report = report
        self._pace = pace

    def history(self) -> list[dict[str, Any]]:
        """See `Bystander`."""
        return self._folder.metrics()

    def go_back(self, saved: Saved) -> None:
        """See `Bystander`."""
        self._report.detach()
        self._folder.go_back_to(saved.step, Path(saved.printed))
        self._report.attach(self._folder)
        self._report.loggers.go_back_to(saved.step)

    @contextmanager
    def _saving(self, step: int, saved: Saved | None) -> Iterator[None]:
        """Say what is saved, and what it costs the run."""
        if saved:
            self._report.line(
                f"Saving checkpoint to {saved.printed}", event="saving", path=saved.printed
            )
        aside = self._pace.aside
        with self._pace.between_steps():
            yield
        self._report.metrics({"iter": step, "save_stall": self._pace.aside - aside})


def make_keeper(
    folder: RunFolder | None,
    config: TrainConfig,
    report: Report,
    pace: Pace,
    saved: Saved | None,
    ranks: Ranks,
) -> Bystander:
    """What keeps a run that goes on from ``saved``; only the first process has its ``folder``."""
    cut = ranks.cut_model(config)
    if folder is None and not cut:
        return Bystander()
    settings = Path(config.checkpoint_dir), config.keep_last, report.notice, saved
    if not cut:
        writer = CheckpointWriter(*settings)
    else:
        from lmkit.lm.sharded_writer import ShardedWriter

        writer = ShardedWriter(*settings, ranks)
    if folder is None:
        return Partner(config.checkpoint_dir, writer)
    return Keeper(folder, report, pace, writer, cut=cut)
