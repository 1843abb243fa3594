"""Runs to a PNG or SVG, by matplotlib (the extra ``plot``): a chart of the loss above three more.

The same numbers give the same bytes: nothing of the day or of chance is written into the file.
"""

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lmkit.errors import UsageError
from lmkit.plot.curves import Curve, curves, smoothed
from lmkit.plot.history import Run
from lmkit.plot.palette import COLOURS, GRID, INK, PAPER, SOFT
from lmkit.plot.units import UNITS, Conversion, to_unit
from lmkit.plot.words import duration, short, time_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG_TICKS_FROM = 8  # times from the lowest to the highest; below, even steps read better
FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei",
    "Microsoft YaHei", "PingFang SC", "Hiragino Sans",
)  # fmt: skip
SMALL = {
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens a second",
}


def image(
    runs: Sequence[Run],
    kind: str,
    *,
    x: str = "step",
    unit: str = "nats",
    log: bool = False,
    smoothing: float = 0.8,
    theme: str = "light",
) -> bytes:
    """The file's content, 1500 x 1000 dots where it has dots.

    Args:
        runs: what to draw.
        kind: ``png`` or ``svg``.
        x: ``step``, ``tokens`` or ``time``.
        unit: of the loss: ``nats`` (a token), ``bits`` (a byte) or ``perplexity``.
        log: draw loss and gradient norm on a logarithmic scale.
        smoothing: how long the moving average of loss and gradient norm remembers, 0 for none.
        theme: ``light`` or ``dark``.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            f"writing a .{kind} needs matplotlib", hint="pip install 'lmkit[plot]', or write .html"
        ) from error
    with mpl.rc_context(_style(theme) | _fonts(runs)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # drawn as a box, as elsewhere
        figure = Figure(figsize=(10, 6.67), layout="constrained")
        grid = figure.add_gridspec(2, 3, height_ratios=(1.7, 1))
        painter = _Painter(runs, x, log=log, smoothing=smoothing, theme=theme)
        painter.loss(figure.add_subplot(grid[0, :]), unit)
        for place, name in enumerate(SMALL):
            painter.small(figure.add_subplot(grid[1, place]), name)
        content = io.BytesIO()
        dated: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(content, format=kind, dpi=150, metadata=dated)
    return content.getvalue()


class _Painter:
    """Draws the runs into one chart after another."""

    def __init__(
        self, runs: Sequence[Run], x: str, *, log: bool, smoothing: float, theme: str
    ) -> None:
        self.x, self.log, self.smoothing, self.theme = x, log, smoothing, theme
        self.runs = [(run, curves(run)) for run in runs]
        ends = [curve.x[x] for _, found in self.runs for curve in found.values()]
        self.end = max(
            (float(np.nanmax(end)) for end in ends if not np.isnan(end).all()), default=1.0
        )

    def loss(self, axes: "Axes", unit: str) -> None:
        """Training and validation loss, and where runs were resumed or skipped updates."""
        for number, (run, found) in enumerate(self.runs):
            colour, name = self.colour(number), printable(run.name)
            train = to_unit(unit, run.train_bytes_per_token)
            val = to_unit(unit, run.val_bytes_per_token)
            if train and "loss" in found:
                self.line(axes, found["loss"], colour, label=name, convert=train)
            if val and "val_loss" in found:
                self.validation(axes, found["val_loss"], colour, f"{name}, validation", val)
            self.events(axes, run, colour)
        self.finish(axes, UNITS[unit])
        if self.log:
            self.log_scale(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper right", frameon=False, ncols=1 + len(self.runs) // 4)

    def small(self, axes: "Axes", name: str) -> None:
        """One of the charts below."""
        smooth = name == "grad_norm"
        for number, (_, found) in enumerate(self.runs):
            if name in found:
                self.line(axes, found[name], self.colour(number), smooth=smooth)
        self.finish(axes, SMALL[name])
        if smooth and self.log:
            self.log_scale(axes)
        elif axes.lines:
            axes.set_ylim(bottom=0, top=self.top(name))

    def top(self, name: str) -> float | None:
        """A little above all but the outliers of a raw curve."""
        tops = [
            max(np.quantile(found[name].y, 0.99), smoothed(found[name].y, self.smoothing).max())
            for _, found in self.runs
            if name in found
        ]
        return 1.08 * float(max(tops)) or None

    def line(
        self,
        axes: "Axes",
        curve: Curve,
        colour: str,
        *,
        label: str | None = None,
        smooth: bool = True,
        convert: Conversion = lambda values: values,
    ) -> None:
        """A curve, the raw one faint behind the smooth one."""
        x, memory = curve.x[self.x], self.smoothing if smooth else 0
        if curve.low is not None and curve.high is not None:
            axes.fill_between(
                x, convert(curve.low), convert(curve.high), color=colour, alpha=0.15, linewidth=0
            )
        if memory:
            axes.plot(x, convert(curve.y), color=colour, alpha=0.28, linewidth=0.7)
        axes.plot(x, convert(smoothed(curve.y, memory)), color=colour, linewidth=1.5, label=label)

    def validation(
        self, axes: "Axes", curve: Curve, colour: str, label: str, convert: Conversion
    ) -> None:
        """A dashed line with a dot an evaluation, the best one filled."""
        axes.plot(
            curve.x[self.x], convert(curve.y), color=colour, linestyle="--", linewidth=1.2,
            marker="o", markersize=3.5, markerfacecolor=PAPER[self.theme],
            markevery=max(1, len(curve) // 40), label=label,
        )  # fmt: skip
        best = int(curve.y.argmin())
        axes.plot(
            curve.x[self.x][best : best + 1], convert(curve.y[best : best + 1]), "o", color=colour
        )

    def events(self, axes: "Axes", run: Run, colour: str) -> None:
        """A dotted line where a run was taken up, a cross on top where an update was skipped."""
        for event in run.events:
            place = {"step": float(event.step), "tokens": event.tokens, "time": event.time}[self.x]
            if event.kind == "skipped":
                axes.plot(
                    [place], [0.98], "x", color="#c62828", transform=axes.get_xaxis_transform()
                )
            else:
                axes.axvline(place, color=colour, linestyle=":", linewidth=1)

    def finish(self, axes: "Axes", title: str) -> None:
        """Title, grid, and ticks as people read them."""
        from matplotlib.ticker import MultipleLocator

        axes.set_title(title, loc="left", fontsize=10, color=SOFT[self.theme])
        axes.set_xlabel(self.x)
        axes.grid(visible=True, axis="y")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.xaxis.set_major_formatter(duration if self.x == "time" else short)
        axes.yaxis.set_major_formatter(short)
        if self.x == "time":
            axes.xaxis.set_major_locator(MultipleLocator(time_step(self.end / 6)))
        else:
            axes.locator_params(axis="x", nbins=7)
        axes.set_xlim(0, 1.01 * self.end)

    @staticmethod
    def log_scale(axes: "Axes") -> None:
        """A logarithmic y axis with numbers instead of powers of ten."""
        from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

        axes.set_yscale("log")
        low, high = axes.get_ylim()
        wide = high / low > LOG_TICKS_FROM
        axes.yaxis.set_major_locator(
            LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(6, steps=[1, 2, 5, 10])
        )
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(short)

    def colour(self, number: int) -> str:
        """That of a run."""
        colours = COLOURS[self.theme]
        return colours[number % len(colours)]


def printable(name: str) -> str:
    """A name that matplotlib does not take for a formula or for something to leave out."""
    return name.replace("$", r"\\$").lstrip("_")


def _fonts(runs: Sequence[Run]) -> dict[Any, Any]:
    """A font for names in Chinese, Japanese or Korean, where one of them is installed."""
    if all(run.name.isascii() for run in runs):
        return {}
    from matplotlib import font_manager

    known = set(font_manager.get_font_names())
    return {"font.family": ["DejaVu Sans", *(name for name in FONTS if name in known)]}


def _style(theme: str) -> dict[Any, Any]:
    return {
        "svg.hashsalt": "lmkit",
        "font.size": 9,
        "figure.facecolor": PAPER[theme],
        "savefig.facecolor": PAPER[theme],
        "axes.facecolor": PAPER[theme],
        "axes.edgecolor": SOFT[theme],
        "axes.labelcolor": SOFT[theme],
        "axes.axisbelow": True,
        "xtick.color": SOFT[theme],
        "ytick.color": SOFT[theme],
        "ytick.left": False,
        "grid.color": GRID[theme],
        "text.color": INK[theme],
        "legend.labelcolor": INK[theme],
    }
