"""Losses and gradient norms that a device still holds to numbers in ``metrics.jsonl``.

Asking an accelerator for a number makes the host wait until it is idle, so steps are read many at a
time: at the latest after ``STEPS_UNREAD``, and before anything is reported, evaluated or saved.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lmkit.lm.bad_steps import BadSteps, SpikeWatch
from lmkit.lm.report import Report

STEPS_UNREAD = 32


@dataclass(frozen=True)
class _Step:
    """A step whose loss and gradient norm (2,) are still the device's."""

    iteration: int
    rate: float
    loss_and_norm: Tensor
    spent: Mapping[str, int | float]


class Readings:
    """The steps not yet read, and what those read came to.

    Attributes:
        loss: of the last step read.
        rate: its learning rate.
    """

    loss: float
    rate: float

    def __init__(self, bad: BadSteps, spikes: SpikeWatch, report: Report) -> None:
        """Tell ``bad`` and ``spikes`` of each step, and ``report`` what comes of it."""
        self._bad = bad
        self._spikes = spikes
        self._report = report
        self._unread: list[_Step] = []

    @property
    def many(self) -> bool:
        """Whether it is time to read."""
        return len(self._unread) >= STEPS_UNREAD

    def add(
        self,
        iteration: int,
        rate: float,
        loss_and_norm: Tensor,
        spent: Mapping[str, int | float],
    ) -> None:
        """Take note of a step, and of the tokens and seconds that the run has spent by then."""
        self._unread.append(_Step(iteration, rate, loss_and_norm, spent))

    def read(self) -> None:
        """Fetch the numbers of all steps not yet read, in one go, and keep them."""
        if not self._unread:
            return
        fetched = torch.stack([step.loss_and_norm for step in self._unread]).tolist()
        for step, (loss, norm) in zip(self._unread, fetched, strict=True):
            self._keep(step, loss, norm)
        self.forget()

    def forget(self) -> None:
        """Leave what is not yet read unread."""
        self._unread.clear()

    def _keep(self, step: _Step, loss: float, norm: float) -> None:
        self.loss, self.rate = loss, step.rate
        record: dict[str, object] = {"iter": step.iteration}
        wrong = self._bad.take(step.iteration, loss, norm)
        if wrong:
            self._report.metrics(record | {"lr": step.rate, "skipped": wrong, **step.spent})
            self._report.notice(
                f"the {wrong} at iteration {step.iteration}: its update is skipped, "
                f"{self._bad.in_a_row} in a row (--max_bad_steps {self._bad.limit})"
            )
            return
        record |= {"loss": loss, "lr": step.rate, "grad_norm": norm, **step.spent}
        spike = self._spikes.take(loss)
        self._report.metrics(record if spike is None else record | {"spike": spike})
