"""A run's folder to its history, from the start or from where the last reading ended.

Cost: one pass over what is new in ``metrics.jsonl``. A last line that is still being written is
left for the next reading; other lines that are not whole are counted in `Run.torn`.
"""

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from lmkit.config import GROUPS
from lmkit.config_file import flatten, read_toml
from lmkit.errors import MissingFileError, SystemRefusedError, UsageError
from lmkit.plot.history import Event, Run, Sample, number
from lmkit.run_lock import is_going

METRICS = "metrics.jsonl"


class RunReader:
    """Reads a run again and again, each time only what is new.

    A file that was replaced, as a resumed run does, is read from its start.
    """

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        """Read nothing yet.

        Args:
            path: the run's folder, or its ``metrics.jsonl``.
            name: what to call it; by default as its folder.
        """
        self._typed = path
        self.metrics = Path(path) if Path(path).is_file() else Path(path) / METRICS
        self._name = name or self.metrics.parent.resolve().name
        self._file: tuple[int, int] | None = None
        self._end = 0
        self._run = self._new()

    def read(self) -> Run:
        """The run as it is now; the same object, with more in it, as long as the file grows.

        Raises `MissingFileError` where there is no run, and `UsageError` where the file is no
        metrics at all.
        """
        folder = self.metrics.parent
        try:
            with self.metrics.open("rb") as file:
                self._go_on(file)
        except FileNotFoundError as error:
            raise _no_run(self._typed, folder) from error
        except OSError as error:
            raise SystemRefusedError(f"cannot read {self.metrics}: {error.strerror}") from error
        self._run.is_going = is_going(folder)
        if self._run.is_empty and self._run.torn:
            raise UsageError(
                f"{self.metrics} holds no metrics of a run", hint="lmkit train writes them"
            )
        return self._run

    def _new(self) -> Run:
        return Run(self._name, self.metrics.parent)

    def _go_on(self, file: BinaryIO) -> None:
        """Read from where the last reading ended, if that is in the same file still."""
        now = os.fstat(file.fileno())
        if self._file != (now.st_dev, now.st_ino) or now.st_size < self._end:
            self._file, self._end, self._run = (now.st_dev, now.st_ino), 0, self._new()
            with suppress(MissingFileError):
                settings = read_toml(self.metrics.parent / "config.toml")
                self._run.settings = flatten(settings, GROUPS)
        file.seek(self._end)
        for line in file:
            record = _record(line)
            if record is None and not line.endswith(b"\n"):
                break  # it is still being written
            self._end += len(line)
            if record is not None:
                _take(record, self._run)
            elif line.strip():
                self._run.torn += 1


def read_run(path: str | Path, name: str | None = None) -> Run:
    """The run in a folder, or whose ``metrics.jsonl`` this is; see `RunReader`."""
    return RunReader(path, name).read()


def _no_run(path: str | Path, folder: Path) -> MissingFileError:
    if not folder.is_dir():
        return MissingFileError(f"{path}: no such run folder", hint="lmkit train makes one")
    inside = sorted(one.parent for one in folder.glob(f"*/{METRICS}"))
    hint = f"lmkit plot {' '.join(map(str, inside[:8]))}" if inside else None
    return MissingFileError(
        f"{path} holds no {METRICS}, so there is nothing to draw",
        hint=hint or "name the --checkpoint_dir of a run of lmkit train that has taken a step",
    )


def _record(line: bytes) -> dict[str, Any] | None:
    """A line's object; None where the line is not a whole one."""
    try:
        record: dict[str, Any] = json.loads(line)
        int(record["iter"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    return record


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
    tokens, seconds = number(record.get("tokens")), number(record.get("seconds"))
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
