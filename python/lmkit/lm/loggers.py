"""The records of ``metrics.jsonl`` to TensorBoard or Weights & Biases, under the same names.

A logger is beside the run: one that cannot be opened or fails later is told of once and left out.
The step's axis is the run's own iterations. TensorBoard drops what lies behind the checkpoint a run
goes on from, as ``metrics.jsonl`` does; Weights & Biases keeps one run for all sittings, drawn over
``iter``, and shows steps that were taken twice twice.
"""

import html
import importlib.util
import math
import textwrap
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lmkit.config import TrainConfig, to_dict
from lmkit.errors import UsageError

# What is shown; metrics.jsonl has the rest too.
NUMBERS = (
    "loss",
    "lr",
    "grad_norm",
    "spike",
    "val_loss",
    "bits_per_byte",
    "tokens_per_second",
    "mfu",
    "save_stall",
)
TEXTS = ("sample", "skipped")
WANDB_PROJECT = "lmkit"  # unless WANDB_PROJECT names another
SECONDS_TO_FINISH = 120  # for what is not yet sent when a run ends; `wandb sync` sends it later

Record = Mapping[str, object]


class Logger(Protocol):
    """One place that shows a run."""

    def take(self, step: int, numbers: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """Show what a step came to."""
        ...

    def go_back_to(self, step: int) -> None:
        """Leave out what was shown of later steps, where that can be done."""
        ...

    def close(self) -> None:
        """Write or send what is left."""
        ...


class Loggers:
    """Those of one run, none of which can end it."""

    def __init__(self, notice: Callable[[str], None]) -> None:
        """Log nothing yet; ``notice`` hears of a logger that fails."""
        self._notice = notice
        self._open: dict[str, Logger] = {}

    def open(self, config: TrainConfig, folder: Path, step: int) -> None:
        """Open what ``--logger`` names, for a run that goes on after ``step`` in its folder."""
        for name in logger_names(config):
            self._guarded(name, partial(LOGGERS[name], config, folder, step))

    def take(self, record: Record) -> None:
        """Show a record of ``metrics.jsonl``."""
        if not self._open:
            return
        numbers = {name: record[name] for name in NUMBERS if name in record}
        known = {name: float(one) for name, one in numbers.items() if isinstance(one, int | float)}
        texts = {name: str(record[name]) for name in TEXTS if name in record}
        if known or texts:
            step = int(str(record["iter"]))
            self._all(lambda logger: logger.take(step, known, texts))

    def go_back_to(self, step: int) -> None:
        """Go on after ``step``, to which the run went back."""
        self._all(lambda logger: logger.go_back_to(step))

    def close(self) -> None:
        """Close them all."""
        self._all(lambda logger: logger.close())
        self._open.clear()

    def _all(self, do: Callable[[Logger], None]) -> None:
        for name, logger in list(self._open.items()):
            self._guarded(name, partial(do, logger))

    def _guarded(self, name: str, do: Callable[[], Logger | None]) -> None:
        """Do something with a logger, and without it from then on where that fails."""
        try:
            made = do()
        except Exception as error:  # noqa: BLE001 - whatever it is, the run is worth more
            self._open.pop(name, None)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self._notice(f"--logger {name} failed, and the run goes on without it: {reason}")
        else:
            if made is not None:
                self._open[name] = made


def logger_names(config: TrainConfig) -> list[str]:
    """What ``--logger`` names."""
    return config.logger.split(",") if config.logger else []


def check_installed(config: TrainConfig) -> None:
    """Refuse a logger whose package is not there."""
    for name in logger_names(config):
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"--logger {name} needs {name}", hint=f"pip install 'lmkit[{name}]'")


class TensorBoard:
    """Event files in ``tensorboard/`` of the run's folder: ``tensorboard --logdir checkpoints``."""

    def __init__(self, _config: TrainConfig, folder: Path, step: int) -> None:
        self._folder = str(folder / "tensorboard")
        self._writer = self._opened(step)

    def take(self, step: int, numbers: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """See `Logger`."""
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)
        for name, text in texts.items():
            # Shown as Markdown, in which four spaces before a line leave it as it is.
            self._writer.add_text(name, textwrap.indent(text, "    "), step)

    def go_back_to(self, step: int) -> None:
        """See `Logger`."""
        self._writer.close()
        self._writer = self._opened(step)

    def close(self) -> None:
        """See `Logger`."""
        self._writer.close()

    def _opened(self, step: int) -> Any:  # noqa: ANN401 - torch's writer has no types
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self._folder, purge_step=step + 1)


class WeightsAndBiases:
    """One run of Weights & Biases, found again by the id that the run's folder keeps.

    Whatever its environment says holds: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline.
    """

    def __init__(self, config: TrainConfig, folder: Path, _step: int) -> None:
        import wandb

        settings = wandb.Settings(console="off")  # train.log has what is printed
        if getattr(settings, "finish_timeout", None) == 0:  # for ever
            settings.finish_timeout = SECONDS_TO_FINISH
        self._run = wandb.init(
            project=settings.project or WANDB_PROJECT,
            name=settings.run_name or folder.resolve().name,
            id=settings.run_id or _wandb_id(folder),
            dir=str(folder),
            config=to_dict(config),
            resume="allow",
            settings=settings,
        )
        self._html = wandb.Html
        self._run.define_metric("iter", hidden=True)
        self._run.define_metric("*", step_metric="iter")

    def take(self, step: int, numbers: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """See `Logger`."""
        shown = {
            name: self._html(f"<pre>{html.escape(text)}</pre>", inject=False)
            for name, text in texts.items()
        }
        finite = {name: number for name, number in numbers.items() if math.isfinite(number)}
        self._run.log({"iter": step, **finite, **shown})

    def go_back_to(self, step: int) -> None:
        """See `Logger`; the points stay, beside those of the steps taken anew."""

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()


def _wandb_id(folder: Path) -> str:
    """The id of the run in a folder, made when it is asked for first."""
    path = folder / "wandb" / "lmkit-run-id"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(uuid.uuid4().hex[:12], encoding="ascii")
    return path.read_text(encoding="ascii").strip()


LOGGERS: dict[str, Callable[[TrainConfig, Path, int], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}
