"""One event of a run to one line on the terminal, one in ``train.log``, and numbers to keep.

The terminal's lines are the original training script's, word for word; further fields follow the
given ones. With ``json_lines`` each becomes one JSON object instead. What is not a result (notices,
advice) goes to stderr. ``metrics.jsonl`` takes one object per step and per evaluation.

Lines for the log are kept until the run's folder is open, so that a run refused at the door leaves
nothing behind.
"""

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, TextIO, TypeAlias

from lmkit.lm.loggers import Loggers

if TYPE_CHECKING:
    from lmkit.lm.run_folder import RunFolder

# Hears which phase of something long it is, how much is done, and how much there is.
Tick: TypeAlias = Callable[[int, int, int], None]
ProgressBar: TypeAlias = Callable[[str, str], AbstractContextManager[Tick | None]]

DAY, HOUR, MINUTE = 86_400, 3_600, 60


class Report:
    """Where a run says what it does; safe to call from the thread that watches for signals.

    Attributes:
        loggers: where the run is shown besides; they hear what ``metrics`` does.
        reader_left: whether whoever read stdout has closed it.
    """

    def __init__(
        self,
        *,
        json_lines: bool = False,
        quiet: bool = False,
        progress: ProgressBar | None = None,
    ) -> None:
        """Say nothing yet.

        Args:
            json_lines: print one JSON object a line.
            quiet: leave out what is not a result; ``train.log`` has it nevertheless.
            progress: shows how far something long is, from its label and what is counted.
        """
        self.loggers = Loggers(self.notice)
        self.reader_left = False
        self.progress = progress or _not_shown
        self._json_lines = json_lines
        self._quiet = quiet
        self._refused = False
        self._pending: list[str] = []
        self._log: TextIO | None = None
        self._metrics: TextIO | None = None
        self._turn = threading.RLock()

    def attach(self, folder: "RunFolder") -> None:
        """Write what was said so far, and what follows, into the run's folder too."""
        with self._turn:
            self._log = folder.append_to("train.log")
            self._metrics = folder.append_to("metrics.jsonl")
            for line in self._pending:
                self._append(self._log, line)
            self._pending.clear()

    def close(self) -> None:
        """Close all that belongs to the run; what is said later reaches the terminal alone."""
        self.loggers.close()
        self.detach()

    def detach(self) -> None:
        """Close the files of the run's folder."""
        with self._turn:
            for file in (self._log, self._metrics):
                if file is not None:
                    with suppress(OSError):  # what a full disk did not take was told of already
                        file.close()
            self._log = self._metrics = None

    def line(self, text: str, event: str = "message", **fields: object) -> None:
        """Say a line of the run; ``fields`` are its numbers for readers of JSON."""
        with self._turn:
            self._keep(text)
            shown = (
                json.dumps({"event": event, **fields} if fields else {"event": event, "text": text})
                if self._json_lines
                else text
            )
            self._print(shown)

    def notice(self, text: str) -> None:
        """Say something that is not a result."""
        with self._turn:
            self._keep(f"note: {text}")
            if not self._quiet:
                with suppress(OSError):  # nobody reads it; the log has it
                    sys.stderr.write(f"note: {text}\n")
                    sys.stderr.flush()

    def metrics(self, record: dict[str, object]) -> None:
        """Keep the numbers of a step or an evaluation."""
        if self._metrics is not None:
            self._append(self._metrics, json.dumps(record) + "\n")
        self.loggers.take(record)

    def iteration(
        self,
        step: int,
        loss: float,
        seconds: float,
        lr: float,
        rate: float,
        left: float,
        used: float | None = None,
    ) -> None:
        """Say how a step went: mean loss, seconds per iteration, tokens per second, time left.

        ``used`` is the share of the device's peak (MFU), where that is known.
        """
        share = "" if used is None else f" | MFU {used:.1%}"
        self.line(
            f"Iter {step:6d} | Loss: {loss:.4f} | Time: {seconds:.3f}s | LR: {lr:.2e}"
            f" | {rate:,.0f} tokens/s{share} | ETA {span(left)}",
            event="iteration",
            iter=step,
            loss=loss if math.isfinite(loss) else None,  # JSON has no NaN
            seconds=seconds,
            lr=lr,
            tokens_per_second=rate,
            seconds_left=left,
            **({} if used is None else {"mfu": used}),
        )

    def validation(self, step: int, loss: float) -> None:
        """Say what an evaluation found."""
        self.line(
            f"Iter {step:6d} | Val Loss: {loss:.4f}",
            event="validation",
            iter=step,
            val_loss=loss if math.isfinite(loss) else None,
        )

    def _keep(self, text: str) -> None:
        stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n"
        if self._log is None:
            self._pending.append(stamped)
        else:
            self._append(self._log, stamped)

    def _append(self, file: TextIO, line: str) -> None:
        """Write a line to a file of the run's folder; a full disk costs the line, not the run."""
        try:
            file.write(line)
        except OSError as error:
            self._tell_of_refusal(file.name, error)

    def _tell_of_refusal(self, name: str, error: OSError) -> None:
        """Say once that lines are not kept."""
        if not self._refused:
            self._refused = True  # before the notice, which is a line of the log too
            self.notice(f"cannot write {name}: {error.strerror}; the run goes on without its lines")

    def _print(self, text: str) -> None:
        """Print to whoever still reads; a run is not lost because its reader went."""
        if self.reader_left:
            return
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            self.reader_left = True
            # What is left in the buffer goes nowhere instead of failing once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            self._tell_of_refusal("the output", error)


class Silence(Report):
    """The report of a process that is not the first: nothing is said twice."""

    def line(self, text: str, event: str = "message", **fields: object) -> None:
        """Say nothing."""

    def notice(self, text: str) -> None:
        """Say nothing."""


def _not_shown(_label: str, _unit: str) -> AbstractContextManager[Tick | None]:
    """Nobody asked for progress."""
    return nullcontext()


def span(seconds: float) -> str:
    """A length of time in its two largest units: ``3d 4h``, ``2h 05m``, ``1m 09s``, ``12s``."""
    whole = max(0, round(seconds))
    if whole >= DAY:
        return f"{whole // DAY}d {whole % DAY // HOUR}h"
    if whole >= HOUR:
        return f"{whole // HOUR}h {whole % HOUR // MINUTE:02d}m"
    if whole >= MINUTE:
        return f"{whole // MINUTE}m {whole % MINUTE:02d}s"
    return f"{whole}s"
