"""Runs to one object of plain values: what the page is drawn from, and what ``--json`` prints."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lmkit.plot.curves import Curve, curves
from lmkit.plot.history import Event, Run
from lmkit.plot.summary import differing, setting_rows, summary
from lmkit.plot.units import bits

# Enough for any picture; more would double the page.
DIGITS = 6


def plot_data(runs: Sequence[Run]) -> dict[str, Any]:
    """Curves, samples, events and settings of the runs; null stands for what is not known.

    A curve has ``step``, ``tokens``, ``time`` (seconds) and ``value``, lists of equal length; where
    a point stands for several steps also ``low`` and ``high``.
    """
    rows = setting_rows(runs)
    return {
        "runs": [_run(run) for run in runs],
        "settings": [[name, *values] for name, values in rows],
        "differing": [name for name, _ in differing(rows)],
    }


def _run(run: Run) -> dict[str, Any]:
    return summary(run) | {
        "train_bits": bits(run.train_bytes_per_token) if run.train_bytes_per_token else None,
        "val_bits": bits(run.val_bytes_per_token) if run.val_bytes_per_token else None,
        "curves": {name: _curve(curve) for name, curve in curves(run).items()},
        "samples": [
            {"step": one.step, "prompt": one.prompt, "text": one.text} for one in run.samples
        ],
        "events": [_event(event) for event in run.events],
    }


def _curve(curve: Curve) -> dict[str, list[float | None]]:
    found = {axis: _rounded(values, digits=12) for axis, values in curve.x.items()}
    found["value"] = _rounded(curve.y)
    if curve.low is not None and curve.high is not None:
        found |= {"low": _rounded(curve.low), "high": _rounded(curve.high)}
    return found


def _event(event: Event) -> dict[str, Any]:
    tokens, time = _rounded([event.tokens, event.time], digits=12)
    return {
        "step": event.step,
        "tokens": tokens,
        "time": time,
        "kind": event.kind,
        "text": event.text,
    }


def _rounded(values: "Iterable[float] | np.ndarray[Any, Any]", digits: int = DIGITS) -> list[Any]:
    """Numbers for JSON, which has no NaN, as short as they may be."""
    numbers = (float(f"{value:.{digits}g}") for value in np.asarray(values).tolist())
    return [None if math.isnan(one) else int(one) if one.is_integer() else one for one in numbers]
