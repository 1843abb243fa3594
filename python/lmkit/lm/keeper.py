"""What a run leaves on the disk: checkpoints written beside it, its history, and the way back.

One process of a run has a `Keeper`; the others have a `Bystander`, which keeps nothing, so that the
loop need not ask which it is.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lmkit.config import TrainConfig
from lmkit.errors import LmkitError
from lmkit.lm.checkpoint_writer import CheckpointWriter, Saved
from lmkit.lm.report import Pace, Report
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
            numbered: write ``checkpoint_<step>.pt``, and say so.
            best: write ``best.pt``.
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


class Keeper(Bystander):
    """Keeps the run in its folder."""

    def __init__(
        self,
        folder: RunFolder,
        config: TrainConfig,
        report: Report,
        pace: Pace,
        saved: Saved | None,
    ) -> None:
        """Go on in ``folder`` from ``saved``; what saving costs goes to ``pace``."""
        self._folder = folder
        self._report = report
        self._pace = pace
        self._writer = CheckpointWriter(folder.path, config.keep_last, report.notice, saved)

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
        paths, saved = [], None
        if numbered and (again or not self._writer.has(step)):
            path = self._folder.checkpoint_path(step)
            saved = Saved(step, self._folder.printed(path.name))
            paths.append(path)
            self._report.line(
                f"Saving checkpoint to {saved.printed}", event="saving", path=saved.printed
            )
        if best:
            paths.append(self._folder.best_path)
        if not paths:
            return
        aside = self._pace.aside
        with self._pace.between_steps():
            self._writer.write(paths, state(), saved)
        self._report.metrics({"iter": step, "save_stall": self._pace.aside - aside})

    def wait(self) -> LmkitError | None:
        """See `Bystander`."""
        return self._writer.wait()

    def history(self) -> list[dict[str, Any]]:
        """See `Bystander`."""
        return self._folder.metrics()

    def go_back(self, saved: Saved) -> None:
        """See `Bystander`."""
        self._report.detach()
        self._folder.go_back_to(saved.step, Path(saved.printed))
        self._report.attach(self._folder)
        self._report.loggers.go_back_to(saved.step)
