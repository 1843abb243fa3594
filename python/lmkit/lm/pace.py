"""How fast a run is: seconds of its steps and of what it does between them, and what is said of it.

A device that works on while the host goes on is waited for where a pace is told, never once a step.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

# The steps between these tell how long a run will take; those before them pay for starting up.
EARLY_STEPS = (3, 8)


class Pace:
    """Wall-clock seconds of a run's steps, and of what it does between them.

    Attributes:
        steps: how many were timed.
        stepping: seconds spent in them.
        aside: seconds spent evaluating and saving.
    """

    def __init__(self) -> None:
        self.stepping = 0.0
        self.aside = 0.0
        self.steps = 0
        self._reported = (0, 0.0)
        self._early = 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time a step."""
        with self.waiting():
            yield
        self.steps += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time what a device still needs for steps that were counted when they were asked of it."""
        began = time.perf_counter()
        yield
        self.stepping += time.perf_counter() - began

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Time an evaluation or a save."""
        began = time.perf_counter()
        yield
        self.aside += time.perf_counter() - began

    @property
    def is_early(self) -> bool:
        """Whether `early` wants to look at the clock after this step."""
        return self.steps in EARLY_STEPS

    def early(self) -> float | None:
        """Seconds a step by the first few, once they are taken; the device must be idle."""
        first, last = EARLY_STEPS
        if self.steps == first:
            self._early = self.stepping
        return (self.stepping - self._early) / (last - first) if self.steps == last else None

    def take(self) -> float:
        """Seconds per iteration since the last call."""
        steps, seconds = self._reported
        self._reported = (self.steps, self.stepping)
        return (self.stepping - seconds) / max(1, self.steps - steps)
