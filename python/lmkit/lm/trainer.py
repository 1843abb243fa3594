"""A configuration to a trained model: the loop.

    history = Trainer(TrainConfig(tokenizer="tokenizer/", train_data="train.npy")).train()

All that a step depends on is its number, the seed and the state that a checkpoint holds, so that
a resumed run takes the steps the uninterrupted one would have taken: bit for bit on the CPU. The
host reads a loss from a GPU only where it reports, evaluates or saves, never once a step.
"""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmkit.config import TrainConfig, to_dict
from lmkit.errors import LmkitError
from lmkit.lm import advice
from lmkit.lm.batches import TokenBatches
from lmkit.lm.checkpoint import write_checkpoint
from lmkit.lm.evaluate import evaluate_loss
from lmkit.lm.optimizer import clip_gradients, set_learning_rate
from lmkit.lm.preparation import Prepared, prepare
from lmkit.lm.report import Pace, Report
from lmkit.lm.resume import exactness_settings, generator_states
from lmkit.lm.schedule import learning_rate
from lmkit.lm.signals import StopSignals

CHECKPOINT_FORMAT = 1


class Trainer:
    """One run. ``train`` prepares it, takes its steps and leaves its folder complete.

    Attributes:
        step: how many optimizer steps the model has taken.
        exit_code: what the command line ends with: 0, or 130 or 143 after a signal.
    """

    def __init__(
        self,
        config: TrainConfig | Mapping[str, object],
        *,
        report: Report | None = None,
        force: bool = False,
    ) -> None:
        """Say what to train; nothing is read or written before ``train``.

        Args:
            config: a configuration, or only the settings that are given, by name: when resuming,
                what is not given comes from the checkpoint. Of a configuration the settings that
                are not the defaults count as given.
            report: where to say what happens.
            force: set a run that is already in ``checkpoint_dir`` aside.
        """
        self.step = 0
        self.exit_code = 0
        self._given = config
        self._report = report or Report()
        self._force = force

    def train(self) -> list[dict[str, Any]]:
        """Take the steps that are left; the run's history, as ``metrics.jsonl`` has it.

        SIGINT and SIGTERM end the run after the step at hand; the history so far is returned and
        ``exit_code`` tells which it was.
        """
        with prepare(self._given, self._report, force=self._force) as run:
            self._adopt(run)
            with StopSignals(self._report.notice) as self._signals:
                try:
                    with advice.explaining_memory(self.config, self.device.device):
                        self._loop()
                    self._finish()
                except LmkitError:
                    self._rescue()
                    raise
            self.exit_code = self._signals.exit_code
            return self.folder.metrics()

    def _loop(self) -> None:
        config = self.config
        self._report.line("Starting training...")
        while self.step < config.max_iters and not self._stopping:
            with self._pace.step():
                self._update()
            if due(self.step, config.log_interval):
                self._log()
            if due(self.step, config.eval_interval):
                self._evaluate()
            if due(self.step, config.save_interval) or self._signals.take_save_request():
                self._save()

    def _adopt(self, run: Prepared) -> None:
        """Take over what the preparation made."""
        self.config, self.device, self.folder = run.config, run.device, run.folder
        self.model, self.optimizer, self._run = run.model, run.optimizer, run
        self.step, self.best_val_loss = run.iteration, run.best_val_loss
        self._batches = TokenBatches(
            run.train_data.tokens,
            batch_size=self.config.batch_size,
            context_length=self.config.context_length,
            seed=self.config.seed,
            grad_accum_steps=self.config.grad_accum_steps,
            device=self.device.device,
        )
        self._parameters = list(self.model.parameters())
        self._saved = (run.iteration, run.checkpoint) if run.checkpoint else None
        self._unread: list[_Step] = []
        self._updating = False
        self._advised = False
        self._pace = Pace()

    @property
    def _stopping(self) -> bool:
        return self._signals.received is not None or self._report.reader_left

    def _update(self) -> None:
        """Take one optimizer step on the mean loss over all its micro-batches."""
        iteration = self.step + 1
        rate = learning_rate(iteration, self.config)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(iteration)
        norm = clip_gradients(self._parameters, self.config.max_grad_norm)
        self._unread.append(_Step(iteration, rate, torch.stack((loss, norm))))
        if self.device.device.type == "cpu":  # where reading waits for nothing
            self._read()
        self._updating = True
        self.optimizer.step()
        self.step = iteration
        self._updating = False

    def _backward(self, iteration: int) -> Tensor:
        """Add up the gradients of the step's micro-batches; the mean of their losses."""
        total = torch.zeros((), device=self.device.device)
        for inputs_BT, targets_BT in self._batches.micro_batches(iteration):
            with self.device.autocast():
                part = self.model(inputs_BT, targets_BT) / self.config.grad_accum_steps
            part.backward()
            total += part.detach()
        return total

    def _read(self) -> None:
        """Fetch what the device computed for the steps not yet read, in one go, and keep it.

        Raises where it is no longer a number: on the CPU before that touches the weights.
        """
        if not self._unread:
            return
        fetched = torch.stack([step.loss_and_norm for step in self._unread]).tolist()
        for step, (loss, norm) in zip(self._unread, fetched, strict=True):
            for quantity, value in (("loss", loss), ("gradient's norm", norm)):
                if not math.isfinite(value):
                    saved = self._saved[1] if self._saved else None
                    raise advice.unstable(self.config, step.iteration, quantity, value, saved)
            self._last_loss, self._last_rate = loss, step.rate
            self._report.metrics(
                {"iter": step.iteration, "loss": loss, "lr": step.rate, "grad_norm": norm}
            )
        self._unread.clear()

    def _log(self) -> None:
        """Report the step just taken."""
        with self._pace.waiting():
            self._read()
        seconds = self._pace.take()
        left = seconds * (self.config.max_iters - self.step)
        rate = self._batches.tokens_per_step / max(seconds, 1e-9)
        self._report.iteration(self.step, self._last_loss, seconds, self._last_rate, rate, left)
        advised = None if self._advised else advice.slow(self.config, self._pace, left)
        if advised:
            self._report.notice(advised)
            self._advised = True

    def _evaluate(self) -> None:
        """Report the loss on the validation data, where there is some."""
        if self._run.val_data is None:
            return
        with self._pace.waiting():
            self._read()
        self._report.line("Evaluating...")
        with self._pace.between_steps():
            loss = evaluate_loss(
                self.model,
                self._run.val_data.tokens,
                batch_size=self.config.batch_size,
                context_length=self.config.context_length,
                num_batches=self.config.num_eval_batches,
                device=self.device,
            )
        if self.best_val_loss is None or loss < self.best_val_loss:
            self.best_val_loss = loss
        self._report.validation(self.step, loss)
        self._report.metrics({"iter": self.step, "val_loss": loss})

    def _save(self) -> None:
        """Write a checkpoint of the state after the step just taken, unless there is one."""
        if self._saved and self._saved[0] == self.step:
            return
        with self._pace.waiting():
            self._read()
        path = self.folder.checkpoint_path(self.step)
        printed = self.folder.printed(path.name)
        self._report.line(f"Saving checkpoint to {printed}", event="saving", path=printed)
        with self._pace.between_steps():
            write_checkpoint(path, self._state())
        self._saved = (self.step, printed)

    def _state(self) -> dict[str, Any]:
        """All that the steps to come depend on, as plain data."""
        return {
            "format": CHECKPOINT_FORMAT,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.step,
            "config": to_dict(self.config),
            "generators": generator_states(),
            "tokenizer": self._run.tokenizer.to_json(),
            "best_val_loss": self.best_val_loss,
            "data": self._run.data_identity() | {"next_batch": self.step + 1},
            "settings": exactness_settings(self.device),
        }

    def _finish(self) -> None:
        """Leave a last checkpoint; after a signal also the command that goes on from it."""
        self._save()
        if self._stopping and self._saved:
            self._report.line(
                f"Stopped after {self.step:,} of {self.config.max_iters:,} iterations. "
                f"To go on: lmkit train --load_checkpoint {shlex.quote(self._saved[1])}",
                event="stopped",
                iter=self.step,
                path=self._saved[1],
            )

    def _rescue(self) -> None:
        """Save the last whole step of a run that failed, where its weights are sound."""
        sound = not self._updating and all(bool(p.isfinite().all()) for p in self._parameters)
        if sound and self.step > (self._saved[0] if self._saved else 0):
            self._unread.clear()
            try:
                self._save()
            except LmkitError as error:
                self._report.notice(f"the last steps could not be saved: {error}")


@dataclass(frozen=True)
class _Step:
    """A step whose loss and gradient norm (2,) are still the device's."""

    iteration: int
    rate: float
    loss_and_norm: Tensor


def due(step: int, interval: int) -> bool:
    """Whether something done every ``interval`` steps is done after this one."""
    return step % interval == 0
