"""Runs to the tables beside their curves: what each came to, and where their settings differ."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmkit.config import TrainConfig, settings
from lmkit.plot.curves import smoothed
from lmkit.plot.history import Run
from lmkit.plot.units import bits

# Where a run is kept says nothing about what it does.
NOT_COMPARED = ("checkpoint_dir", "load_checkpoint")
MEMORY = 0.9


def summary(run: Run) -> dict[str, Any]:
    """What a run came to, in plain values; None for what is not known.

    ``loss`` is the training loss at the end, a moving average; losses are nats a token.
    """
    steps, losses = run.training.x["step"], np.array(run.training.y["loss"])
    losses = losses[~np.isnan(losses)]
    best = _best(run)
    pace = np.array(run.pace.y["tokens_per_second"])
    return {
        "name": run.name,
        "path": str(run.path),
        "is_going": run.is_going,
        "steps": int(max([*steps[-1:], *run.validation.x["step"][-1:]], default=0)),
        "max_iters": run.settings.get("max_iters"),
        "tokens": _last(run, "tokens"),
        "seconds": _last(run, "time"),
        "loss": float(smoothed(losses, MEMORY)[-1]) if len(losses) else None,
        "best_val_loss": None if best is None else best[0],
        "best_step": None if best is None else best[1],
        "best_bits_per_byte": None if best is None else _bits(best[0], run.val_bytes_per_token),
        "tokens_per_second": float(np.median(pace)) if len(pace) else None,
        "parameters": run.parameters,
        "device": run.device,
        "train_bytes_per_token": run.train_bytes_per_token,
        "val_bytes_per_token": run.val_bytes_per_token,
        "skipped": sum(event.kind == "skipped" for event in run.events),
        "resumed": sum(event.kind == "resumed" for event in run.events),
        "torn_lines": run.torn,
    }


def _best(run: Run) -> tuple[float, int] | None:
    """The lowest validation loss and its step."""
    values = np.array(run.validation.y["val_loss"])
    if not len(values) or np.isnan(values).all():
        return None
    place = int(np.nanargmin(values))
    return float(values[place]), int(run.validation.x["step"][place])


def _last(run: Run, axis: str) -> float | None:
    ends = [one.x[axis][-1] for one in (run.training, run.validation) if len(one)]
    known = [end for end in ends if not math.isnan(end)]
    return max(known, default=None)


def _bits(loss: float, bytes_per_token: float | None) -> float | None:
    return loss * bits(bytes_per_token) if bytes_per_token else None


def setting_rows(runs: Sequence[Run]) -> list[tuple[str, list[object]]]:
    """Every setting with its value in each run; what a run does not tell has its default."""
    known = settings(TrainConfig)
    told = {name for run in runs for name in run.settings}
    rows = []
    for name in [*known, *sorted(told - known.keys())]:
        default = known[name].default if name in known else None
        values = [run.settings.get(name, default) for run in runs]
        if name in told and name not in NOT_COMPARED:
            rows.append((name, [None if value == "none" else value for value in values]))
    return rows


def differing(rows: Sequence[tuple[str, list[object]]]) -> list[tuple[str, list[object]]]:
    """Those rows whose values are not all the same."""
    return [(name, values) for name, values in rows if any(one != values[0] for one in values)]
