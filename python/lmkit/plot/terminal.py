"""Runs to a drawing of their losses in a terminal, as wide as it is, with a few lines of figures.

Runs share a chart where they can be told apart by colour; without colours each has its own, all on
the same scales.
"""

import math
from collections.abc import Iterable, Sequence
from unicodedata import east_asian_width

import numpy as np

from lmkit.plot.braille import Canvas
from lmkit.plot.curves import Numbers, curves, smoothed
from lmkit.plot.history import Run
from lmkit.plot.summary import summary
from lmkit.plot.units import UNITS, to_unit
from lmkit.plot.words import duration, short

COLOURS = (34, 31, 32, 33, 35, 36)  # blue first, as on the page; the terminal's own shades
MARGIN = 8  # characters for the numbers of the y axis
NARROWEST = 30

Line = tuple[Numbers, Numbers, bool]  # x, y, whether it is the validation's


def drawing(
    runs: Sequence[Run],
    width: int,
    height: int = 16,
    *,
    colour: bool,
    x: str = "step",
    unit: str = "nats",
    log: bool = False,
    smoothing: float = 0.8,
) -> str:
    """Lines of at most ``width`` characters; without ``colour`` there are no escape bytes."""
    width = max(width, NARROWEST)
    lines = [_lines(run, x, unit, smoothing) for run in runs]
    window = _Window([line for one in lines for line in one], log=log)
    said = [UNITS[unit] + (", log scale" if log else "")]
    if not window.is_empty:
        groups = [range(len(runs))] if colour or len(runs) == 1 else [[i] for i in range(len(runs))]
        for group in groups:
            if len(groups) > 1:
                said.append(_fitted(runs[group[0]].name, width))
            said += _chart(lines, group, window, width, height, x, colour=colour)
    else:
        said.append("nothing to draw against this axis, or in this unit")
    return "\n".join([*said, *_legend(runs, width, colour=colour)])


class _Window:
    """What part of the plane is seen: all of the lines."""

    def __init__(self, lines: Sequence[Line], *, log: bool) -> None:
        self.log = log
        xs = _known(np.concatenate([line[0] for line in lines])) if lines else np.empty(0)
        ys = _known(np.concatenate([line[1] for line in lines])) if lines else np.empty(0)
        ys = ys[ys > 0] if log else ys
        self.is_empty = not len(xs) or not len(ys)
        if not self.is_empty:
            self.right = max(float(xs.max()), 1e-9)
            self.low, self.high = self.scale(float(ys.min())), self.scale(float(ys.max()))
            if self.low == self.high:
                self.low, self.high = self.low - 0.5, self.high + 0.5

    def scale(self, y: float) -> float:
        return math.log(y) if self.log else y

    def labels(self, height: int) -> dict[int, str]:
        """Round numbers and the rows of a chart of this height that they stand at."""
        low, high = (math.exp(end) if self.log else end for end in (self.low, self.high))
        rough = (high - low) / max(1, height / 4)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(base * power for base in (1, 2, 5, 10) if base * power >= rough)
        found = {}
        for k in range(math.ceil(low / step), math.floor(high / step) + 1):
            if k > 0 or not self.log:
                share = (self.high - self.scale(k * step)) / (self.high - self.low)
                found[round(share * (height - 1))] = short(k * step)
        return found

    def dots(self, line: Line, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Where the points of a line come to lie on a canvas."""
        across, down = size[0] - 1, size[1] - 1
        return [
            (
                round(x / self.right * across),
                round((self.high - self.scale(y)) / (self.high - self.low) * down),
            )
            for x, y in zip(line[0].tolist(), line[1].tolist(), strict=True)
            if not math.isnan(x) and (y > 0 or not self.log)
        ]


def _known(values: Numbers) -> Numbers:
    return values[np.isfinite(values)]


def _lines(run: Run, x: str, unit: str, smoothing: float) -> list[Line]:
    """A run's losses, training first."""
    found, lines = curves(run), []
    train, val = to_unit(unit, run.train_bytes_per_token), to_unit(unit, run.val_bytes_per_token)
    if "loss" in found and train:
        curve = found["loss"]
        lines.append((curve.x[x], train(smoothed(curve.y, smoothing)), False))
    if "val_loss" in found and val:
        lines.append((found["val_loss"].x[x], val(found["val_loss"].y), True))
    return [line for line in lines if not np.isnan(line[0]).all()]


def _chart(
    lines: Sequence[Sequence[Line]],
    shown: Iterable[int],
    window: _Window,
    width: int,
    height: int,
    axis: str,
    *,
    colour: bool,
) -> list[str]:
    """The chart of some runs, with its axes."""
    canvas = Canvas(width - MARGIN - 1, height)
    format_x = duration if axis == "time" else short
    for number in shown:
        shade = COLOURS[number % len(COLOURS)] if colour else None
        for line in lines[number]:
            dots = window.dots(line, canvas.dots)
            if line[2]:
                for x, y in dots:
                    _cross(canvas, x, y, shade)
            else:
                canvas.line(dots, shade)
    said, labels = [], window.labels(height)
    for row, cells in enumerate(canvas.rows()):
        label = labels.get(row, "")
        said.append(f"{label:>{MARGIN - 1}} ┤{_painted(cells)}".rstrip())
    said.append(" " * MARGIN + "└" + "─" * canvas.width)
    left, right = format_x(0), format_x(window.right)
    between = canvas.width - len(left) - len(right)
    return [*said, " " * (MARGIN + 1) + left + axis.center(between) + right]


def _cross(canvas: Canvas, x: int, y: int, shade: int | None) -> None:
    for dx, dy in ((0, 0), (-1, -1), (1, 1), (-1, 1), (1, -1)):
        canvas.dot(x + dx, y + dy, shade)


def _painted(cells: Sequence[tuple[str, int | None]]) -> str:
    """The characters, with an escape sequence where the colour changes."""
    out, now = [], None
    for character, shade in cells:
        wanted = None if character == " " else shade
        if wanted != now:
            out.append(f"\x1b[{wanted or 0}m")
            now = wanted
        out.append(character)
    return "".join(out) + ("\x1b[0m" if now is not None else "")


def _legend(runs: Sequence[Run], width: int, *, colour: bool) -> list[str]:
    """What each run came to; the line is training, the crosses are validation."""
    said = [""]
    for number, run in enumerate(runs):
        told, parts = summary(run), [run.name]
        parts.append(f"step {told['steps']:,}")
        if told["loss"] is not None:
            parts.append(f"loss {told['loss']:.4f}")
        if told["best_val_loss"] is not None:
            parts.append(
                f"best validation {told['best_val_loss']:.4f} (x) at {told['best_step']:,}"
            )
        if told["tokens_per_second"] is not None:
            parts.append(f"{short(told['tokens_per_second'])} tokens/s")
        if told["seconds"] is not None:
            parts.append(duration(told["seconds"]))
        if told["is_going"]:
            parts.append("going on")
        text = _fitted(", ".join(parts), width - 3)
        shade = COLOURS[number % len(COLOURS)]
        said.append(f"\x1b[{shade}m━━\x1b[0m {text}" if colour else f"-- {text}")
    return said


def _fitted(text: str, width: int) -> str:
    """The text, cut where a terminal's line ends; some signs are two columns wide."""
    if columns(text) <= width:
        return text
    while columns(text) > width - 1:
        text = text[:-1]
    return text + "…"


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(1 + (east_asian_width(sign) in "WF") for sign in text)
