"""The batches of a run, the next step's read while a device still works on this one's.

A device computes what it was asked for while the host goes on, so the host uses that time: it reads
the next step's first rows and begins to copy them. Otherwise it would do so after it has waited for
a loss, with the device idle. On a CPU there is no such time, and nothing is read ahead.
"""

from collections.abc import Iterator
from itertools import chain

from lmkit.lm.batches import Batch, TokenBatches


class Prefetch:
    """Gives the micro-batches of `TokenBatches`, whichever step is asked for."""

    def __init__(self, batches: TokenBatches) -> None:
        self._batches = batches
        self._ready: tuple[int, Iterator[Batch]] | None = None

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """The micro-batches of ``step``; the first may be on the device already."""
        ready, self._ready = self._ready, None
        if ready is not None and ready[0] == step:
            return ready[1]
        return self._batches.micro_batches(step)

    def read_ahead(self, step: int) -> None:
        """Read the first micro-batch of ``step`` now, where there is a device to copy it to."""
        if self._batches.device.type == "cpu":
            return
        rest = self._batches.micro_batches(step)
        self._ready = step, chain([next(rest)], rest)
