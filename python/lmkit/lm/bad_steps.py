"""What a device computed for a step to what is made of it: a number, a spike, or no number at all.

An update whose loss or gradient is not finite is never applied; it is counted, and more of them in
a row than the run allows end it, or send it back to its last good checkpoint. Nothing here asks a
device for anything: it is told numbers, many steps at a time where asking would make the host wait.
"""

import math
import statistics
from collections import deque
from collections.abc import Iterable

from lmkit.errors import TrainingError

# A spike is a loss this many standard deviations above the mean of the steps before it.
SPIKE_DEVIATIONS = 6.0
SPIKE_WINDOW = 64
SPIKE_NEEDS = 16  # with fewer steps to compare with nothing is called a spike


class TooManyBadStepsError(TrainingError):
    """More updates in a row were skipped than the run allows.

    Attributes:
        first: the step that began the row.
        last: the step that was one too many.
    """

    def __init__(self, message: str, *, hint: str | None, first: int, last: int) -> None:
        super().__init__(message, hint=hint)
        self.first = first
        self.last = last


class BadSteps:
    """Counts the steps whose update was skipped.

    Attributes:
        in_a_row: how many, up to the last step told of.
        skipped: how many in the whole run.
        first: the step the row began with, and what was wrong with it; None outside a row.
    """

    def __init__(self, limit: int, *, in_a_row: int = 0, skipped: int = 0, step: int = 0) -> None:
        """Go on counting after ``step``; ``limit`` is how many in a row are borne."""
        self.limit = limit
        self.in_a_row = in_a_row
        self.skipped = skipped
        self.first: tuple[int, str] | None = None
        if in_a_row:
            self.first = (step - in_a_row + 1, "loss was not a number")

    def take(self, iteration: int, loss: float, norm: float) -> str | None:
        """Hear of a step; what is wrong with it, or None."""
        wrong = what_is_wrong(loss, norm)
        if wrong is None:
            self.in_a_row, self.first = 0, None
            return None
        self.in_a_row += 1
        self.skipped += 1
        self.first = self.first or (iteration, wrong)
        return wrong

    @property
    def too_many(self) -> bool:
        """Whether the row is longer than the run bears."""
        return self.in_a_row > self.limit

    def state_dict(self) -> dict[str, int]:
        """The counts, for a checkpoint."""
        return {"in_a_row": self.in_a_row, "skipped": self.skipped}


class SpikeWatch:
    """Finds losses far above those of the steps just before."""

    def __init__(self, before: Iterable[float] = ()) -> None:
        """Know the losses ``before`` the first that is watched, the latest last."""
        self._recent: deque[float] = deque(before, maxlen=SPIKE_WINDOW)

    def take(self, loss: float) -> float | None:
        """Standard deviations that a spike lies above the mean before it; None for no spike."""
        deviations = None
        if len(self._recent) >= SPIKE_NEEDS:
            deviation = statistics.pstdev(self._recent)
            above = loss - statistics.fmean(self._recent)
            if deviation > 0 and above > SPIKE_DEVIATIONS * deviation:
                deviations = above / deviation
        self._recent.append(loss)
        return deviations


def what_is_wrong(loss: float, norm: float) -> str | None:
    """Which of the two is no number, in words; None if both are."""
    for quantity, value in (("loss", loss), ("gradient's norm", norm)):
        if not math.isfinite(value):
            return f"{quantity} became {value}"
    return None
