"""What may end a run before its last step, and what all its processes make of it.

A signal, the end of the time given and a reader of the output who left are wishes of one process.
A run stops where any of them has one, all after the same step and with the same exit code.
"""

import time

from lmkit.lm.distributed import Ranks
from lmkit.lm.report import Report
from lmkit.lm.signals import StopSignals

WITHOUT_SIGNAL = 1  # the reader left, or the time is up; signals that stop have higher numbers


class Stopping:
    """Hears the wishes of this process and of the others."""

    def __init__(
        self, signals: StopSignals, report: Report, ranks: Ranks, deadline: float | None
    ) -> None:
        """Listen to these; ``deadline`` is a time of the monotonic clock, or None."""
        self._signals = signals
        self._report = report
        self._ranks = ranks
        self._deadline = deadline
        self._reason = 0

    @property
    def wished(self) -> bool:
        """Whether this process has a reason to stop."""
        out_of_time = self._deadline is not None and time.monotonic() >= self._deadline
        return out_of_time or self._signals.received is not None or self._report.reader_left

    @property
    def agreed(self) -> bool:
        """Whether the processes have agreed to stop."""
        return self._reason > 0

    @property
    def exit_code(self) -> int:
        """What the process ends with: 130 or 143 after a signal to any of them, else 0."""
        received = max(self._signals.received or 0, self._reason)
        return 128 + received if received > WITHOUT_SIGNAL else 0

    def agree(self) -> bool:
        """Ask all processes, which must do so together; whether a checkpoint was asked for.

        The number of the signal is agreed on too, so that all end with the same exit code.
        """
        wish = self._signals.received or (WITHOUT_SIGNAL if self.wished else 0)
        self._reason, save = self._ranks.highest(wish, int(self._signals.take_save_request()))
        return save > 0
