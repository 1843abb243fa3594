"""A run's folder to what there is to draw of it: columns of numbers, samples, events, settings.

Cost: one pass over ``metrics.jsonl``, and 64 bytes a step in memory. A last line that is being
written is left for the next reading; other lines that are not whole are counted in `Run.torn`.
"""

import json
import math
import os
import socket
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmkit.config import GROUPS
from lmkit.config_file import flatten, read_toml
from lmkit.errors import MissingFileError, SystemRefusedError, UsageError

METRICS = "metrics.jsonl"
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
            column.append(_number(record.get(name)))


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


def read_run(path: str | Path, name: str | None = None) -> Run:
    """The run in a folder, or whose ``metrics.jsonl`` this is.

    Raises `MissingFileError` where there is no run, and `UsageError` where there are several.
    """
    folder = Path(path)
    metrics = folder if folder.is_file() else folder / METRICS
    folder = metrics.parent
    run = Run(name or folder.resolve().name, folder, is_going=is_going(folder))
    try:
        content = metrics.read_bytes()
    except FileNotFoundError as error:
        raise _no_run(path, folder) from error
    except OSError as error:
        raise SystemRefusedError(f"cannot read {metrics}: {error.strerror}") from error
    if (folder / "config.toml").exists():
        run.settings = flatten(read_toml(folder / "config.toml"), GROUPS)
    for record in _records(content, run):
        _take(record, run)
    if run.is_empty and run.torn:
        raise UsageError(f"{metrics} holds no metrics of a run", hint="lmkit train writes them")
    return run


def _no_run(path: str | Path, folder: Path) -> MissingFileError:
    if not folder.is_dir():
        return MissingFileError(f"{path}: no such run folder", hint="lmkit train makes one")
    inside = sorted(one.parent for one in folder.glob(f"*/{METRICS}"))
    hint = f"lmkit plot {' '.join(map(str, inside[:8]))}" if inside else None
    return MissingFileError(
        f"{path} holds no {METRICS}, so there is nothing to draw",
        hint=hint or "name the --checkpoint_dir of a run of lmkit train that has taken a step",
    )


def _records(content: bytes, run: Run) -> Iterator[dict[str, Any]]:
    """The whole lines; what follows the last line's end is still being written."""
    *lines, unfinished = content.split(b"\n")
    if unfinished.endswith(b"}"):  # a file that lost but its last line break
        lines.append(unfinished)
    for line in lines:
        try:
            record = json.loads(line)
            int(record["iter"])
        except (ValueError, KeyError, TypeError):
            run.torn += 1
        else:
            yield record


def _take(record: dict[str, Any], run: Run) -> None:
    """Put a record where it belongs."""
    place = _place(record, run)
    if "begun" in record:
        _take_beginning(record, place, run)
    elif "loss" in record:
        run.training.add(place, record)
    elif "val_loss" in record:
        run.validation.add(place, record)
    elif "tokens_per_second" in record:
        run.pace.add(place, record)
    elif "sample" in record:
        step, prompt, text = int(place[0]), str(record.get("prompt", "")), str(record["sample"])
        run.samples.append(Sample(step, prompt, text))
    elif "skipped" in record:
        run.events.append(_event(place, "skipped", f"update skipped: the {record['skipped']}"))
    elif "rolled_back_from" in record:
        text = f"went back from step {record['rolled_back_from']:,} past bad batches"
        run.events.append(_event(place, "rolled back", text))


def _take_beginning(record: dict[str, Any], place: tuple[float, float, float], run: Run) -> None:
    run.train_bytes_per_token = record.get("train_bytes_per_token")
    run.val_bytes_per_token = record.get("val_bytes_per_token")
    run.parameters, run.device = record.get("parameters"), record.get("device")
    if record["begun"] == "resumed":
        event = _event(place, "resumed", f"resumed at step {int(place[0]):,}")
        if event.step not in {one.step for one in run.events if one.kind == "resumed"}:
            run.events.append(event)


def _event(place: tuple[float, float, float], kind: str, text: str) -> Event:
    return Event(int(place[0]), place[1], place[2], kind, text)


def _place(record: Mapping[str, Any], run: Run) -> tuple[float, float, float]:
    """Step, tokens and seconds of a record; where it does not tell, those of the step before."""
    step = float(record["iter"])
    tokens, seconds = _number(record.get("tokens")), _number(record.get("seconds"))
    if math.isnan(tokens):
        tokens = step * _tokens_per_step(run.settings)
    if math.isnan(seconds) and len(run.training) and run.training.x["step"][-1] == step:
        seconds = run.training.x["time"][-1]
    return step, tokens, seconds


def _tokens_per_step(settings: Mapping[str, object]) -> float:
    """What a step learns from by the run's configuration; NaN where that is not known."""
    sizes = [settings.get(name) for name in ("batch_size", "context_length", "grad_accum_steps")]
    whole = [size for size in sizes if isinstance(size, int)]
    return float(math.prod(whole)) if len(whole) == len(sizes) else math.nan


def _number(value: object) -> float:
    """The value where it is a finite number, else NaN."""
    good = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if good else math.nan  # type: ignore[arg-type]


def is_going(folder: Path) -> bool:
    """Whether the process that ``run.lock`` names is alive; one on another machine is believed to.

    The lock itself is not tried: a run that starts at that moment would find it taken.
    """
    try:
        words = (folder / "run.lock").read_text(encoding="utf-8").split()
        process, host = int(words[1]), words[3]
    except (OSError, ValueError, IndexError):
        return False
    if host != socket.gethostname():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is somebody else's, but it is there
    return True
