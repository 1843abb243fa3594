"""How far a run has come in all its sittings: tokens it learned from, and seconds that took.

A run that is resumed goes on counting where its checkpoint stood; the time between counts nothing.
Going back from bad steps takes tokens back with the weights, but not the time they cost.
"""

import time


class Odometer:
    """Counts on from a run's checkpoint, or from nothing.

    Attributes:
        tokens: how many the model has learned from, repeats included.
    """

    def __init__(self, tokens: int = 0, seconds: float = 0.0) -> None:
        """Start the clock: ``seconds`` were spent in sittings before."""
        self.tokens = tokens
        self._before = seconds
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds spent training, evaluating and saving, those of earlier sittings included."""
        return self._before + time.monotonic() - self._began

    def reading(self) -> dict[str, int | float]:
        """Both, as a record of ``metrics.jsonl`` has them."""
        return {"tokens": self.tokens, "seconds": round(self.seconds, 3)}
