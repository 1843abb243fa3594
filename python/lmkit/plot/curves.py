"""Columns of a run to the curves that are drawn: few enough points, and smoothed.

A long run has more steps than a picture has columns of dots. Neighbouring steps are then drawn as
one point, their mean, with the lowest and the highest value among them kept beside it, so that no
spike is lost. Smoothing is an exponential moving average from which the weight of its empty start
is taken out, as Adam does (Kingma and Ba, 2015, section 3).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmkit.plot.history import Columns, Run

POINTS = 1000

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One quantity over a run.

    Attributes:
        x: ``step``, ``tokens`` and ``time`` (seconds) of each point (N,); NaN where not known.
        y: its value (N,), the mean of the steps it stands for.
        low: the lowest of them, and
        high: the highest; None where a point is a step.
    """

    x: dict[str, Numbers]
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None

    def __len__(self) -> int:
        """How many points it has."""
        return len(self.y)


def curves(run: Run, points: int = POINTS) -> dict[str, Curve]:
    """All curves of a run by name; those without a number are left out."""
    found = {
        name: thinned(columns, name, points)
        for columns in (run.training, run.validation, run.pace)
        for name in columns.y
    }
    return {name: curve for name, curve in found.items() if len(curve)}


def thinned(columns: Columns, name: str, points: int = POINTS) -> Curve:
    """One column as a curve of at most ``points`` points."""
    values = np.array(columns.y[name])
    known = ~np.isnan(values)
    y = values[known]
    x = {axis: np.array(column)[known] for axis, column in columns.x.items()}
    if len(y) <= points:
        return Curve(x, y)
    starts = np.arange(points, dtype=np.int64) * len(y) // points
    ends = np.append(starts[1:], len(y))
    middles = (starts + ends - 1) // 2
    return Curve(
        {axis: column[middles] for axis, column in x.items()},
        np.add.reduceat(y, starts) / (ends - starts),
        np.minimum.reduceat(y, starts),
        np.maximum.reduceat(y, starts),
    )


def smoothed(y: Numbers, memory: float) -> Numbers:
    """The moving average of ``y`` (N,), each value counting ``memory`` times its successor."""
    average, weight = 0.0, 0.0
    out = np.empty_like(y)
    for place, value in enumerate(y.tolist()):
        average = memory * average + (1 - memory) * value
        weight = memory * weight + (1 - memory)
        out[place] = average / weight
    return out
