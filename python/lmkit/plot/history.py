"""What there is to draw of a run: columns of numbers, samples, events, settings.

Cost: 48 bytes a step in memory, beside what the run wrote and what befell it.
"""

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TRAINING = ("loss", "grad_norm", "lr")
VALIDATION = ("val_loss",)
PACE = ("tokens_per_second", "mfu")
X_AXES = ("step", "tokens", "time")


class Columns:
    """Records of one kind, column by column; a number that a record lacks is NaN.

    Attributes:
        x: the columns ``step``, ``tokens`` and ``time`` (seconds).
        y: the others, by the names they have in ``metrics.jsonl``.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.x = {name: array("d") for name in X_AXES}
        self.y = {name: array("d") for name in names}

    def __len__(self) -> int:
        """How many records there are."""
        return len(self.x["step"])

    def add(self, place: tuple[float, float, float], record: Mapping[str, Any]) -> None:
        """Take a record over, at its step, tokens and seconds."""
        for name, value in zip(X_AXES, place, strict=True):
            self.x[name].append(value)
        for name, column in self.y.items():
            column.append(number(record.get(name)))


@dataclass(frozen=True)
class Sample:
    """What the model wrote at an evaluation; ``text`` begins with ``prompt``."""

    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class Event:
    """Something that befell a run at a step.

    Attributes:
        kind: ``skipped``, ``resumed`` or ``rolled back``.
        text: it in a few words.
    """

    step: int
    tokens: float
    time: float
    kind: str
    text: str


@dataclass
class Run:
    """One run, as far as it has come.

    Attributes:
        name: what to call it.
        path: its folder.
        settings: its configuration, flat; empty where there is none.
        training: a record a step; ``validation``: one an evaluation; ``pace``: one a report.
        train_bytes_per_token: of the training data, ``val_bytes_per_token`` of the validation data;
            None where it is not known.
        torn: lines that could not be read.
        is_going: whether its process is alive, as far as can be told from here.
    """

    name: str
    path: Path
    settings: dict[str, object] = field(default_factory=dict)
    training: Columns = field(default_factory=lambda: Columns(TRAINING))
    validation: Columns = field(default_factory=lambda: Columns(VALIDATION))
    pace: Columns = field(default_factory=lambda: Columns(PACE))
    samples: list[Sample] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    train_bytes_per_token: float | None = None
    val_bytes_per_token: float | None = None
    parameters: int | None = None
    device: str | None = None
    torn: int = 0
    is_going: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is no number to draw yet."""
        return not len(self.training) and not len(self.validation)


def number(value: object) -> float:
    """The value where it is a finite number, else NaN."""
    good = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if good else math.nan  # type: ignore[arg-type]
