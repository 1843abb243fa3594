"""How far a long call is, on stderr: a bar on a terminal, otherwise a line every ten seconds."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

Callback: TypeAlias = Callable[[int, int, int], None]

_SECONDS_BETWEEN_LINES = 10.0
_MINUTE = 60
_FEW = 10  # a second; below, a decimal is shown


@contextmanager
def progress_bar(
    label: str | Sequence[str],
    unit: str | Sequence[str],
    *,
    quiet: bool = False,
    more: Callable[[], str] | None = None,
) -> Iterator[Callback | None]:
    """A callback ``(phase, done, total)`` for the core's long calls.

    Args:
        label: what is being done, one for each phase.
        unit: what is counted, one for each phase; ``"B"`` is shown in megabytes.
        quiet: show nothing; the callback is None.
        more: what else to say, asked each time.
    """
    labels = [label] if isinstance(label, str) else list(label)
    units = [unit] if isinstance(unit, str) else list(unit)
    if quiet:
        yield None
    elif sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        with _bars(labels, units, more) as callback:
            yield callback
    else:
        yield _lines(labels, units, more)


class _Rate:
    """What is done of one phase, in words."""

    def __init__(self, unit: str, start: float, begun: int, more: Callable[[], str] | None) -> None:
        self.unit = unit
        self.start = start
        self.begun = begun  # what was done at the start: of another run, or before its clock
        self.more = more

    def __call__(self, done: int, total: int, now: float) -> str:
        rate = (done - self.begun) / (now - self.start) if now > self.start else 0.0
        if self.unit == "B":
            parts = [f"{done / 1e6:,.1f}{f' of {total / 1e6:,.1f}' if total else ''} MB"]
            parts += [f"{rate / 1e6:,.1f} MB/s"] if rate else []
        else:
            parts = [f"{done:,}{f' of {total:,}' if total else ''} {self.unit}"]
            parts += [f"{rate:,.{0 if rate >= _FEW else 1}f} {self.unit}/s"] if rate else []
        if total and rate:
            parts.append(f"{_duration((total - done) / rate)} left")
        if self.more is not None:
            parts.insert(0, self.more())
        return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0)), _MINUTE)
    hours, minutes = divmod(minutes, _MINUTE)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _lines(labels: list[str], units: list[str], more: Callable[[], str] | None) -> Callback:
    rates: dict[int, _Rate] = {}
    written = time.monotonic()

    def callback(phase: int, done: int, total: int) -> None:
        nonlocal written
        now = time.monotonic()
        rate = rates.setdefault(phase, _Rate(units[phase], now, done, more))
        if now - written >= _SECONDS_BETWEEN_LINES:
            written = now
            print(f"{labels[phase]}: {rate(done, total, now)}", file=sys.stderr, flush=True)

    return callback


@contextmanager
def _bars(
    labels: list[str], units: list[str], more: Callable[[], str] | None
) -> Iterator[Callback]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn

    rates: dict[int, _Rate] = {}
    tasks: dict[int, TaskID] = {}
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}")
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        def callback(phase: int, done: int, total: int) -> None:
            now = time.monotonic()
            rate = rates.setdefault(phase, _Rate(units[phase], now, done, more))
            if phase not in tasks:
                tasks[phase] = progress.add_task(labels[phase], total=total or None, rate="")
            progress.update(
                tasks[phase], completed=done, total=total or None, rate=rate(done, total, now)
            )

        yield callback
