"""A configuration to a trained model: the loop.

    history = Trainer(TrainConfig(tokenizer="tokenizer/", train_data="train.npy")).train()

All that a step depends on is its number, the seed and the state that a checkpoint holds, so that
a resumed run takes the steps the uninterrupted one would have taken: bit for bit on the CPU. The
host reads a loss from a GPU only where it reports, evaluates or saves, never once a step.
"""

import math
import shlex
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from lmkit.config import TrainConfig, to_dict
from lmkit.counted import counted
from lmkit.errors import LmkitError
from lmkit.lm import advice
from lmkit.lm.bad_steps import BadSteps, SpikeWatch, TooManyBadStepsError
from lmkit.lm.beginning import beginning
from lmkit.lm.checkpoint import read_outline
from lmkit.lm.checkpoint_writer import Saved
from lmkit.lm.distributed import joined
from lmkit.lm.evaluate import bits_per_byte
from lmkit.lm.keeper import make_keeper
from lmkit.lm.kept_pages import kept_pages
from lmkit.lm.odometer import Odometer
from lmkit.lm.pace import Pace
from lmkit.lm.pace_report import PaceReport
from lmkit.lm.preparation import Prepared, prepare
from lmkit.lm.readings import Readings
from lmkit.lm.report import Report, Silence
from lmkit.lm.resume import Progress, exactness_settings, generator_states, restore_run
from lmkit.lm.schedule import learning_rate
from lmkit.lm.sharding import is_cut
from lmkit.lm.signals import StopSignals
from lmkit.lm.stepper import Stepper
from lmkit.lm.stopping import Stopping
from lmkit.lm.validation import Validation

CHECKPOINT_FORMAT = 1
ROLLBACKS = 3  # to one checkpoint, each past other batches; then it is not the batches


class Trainer:
    """One run. ``train`` prepares it, takes its steps and leaves its folder complete.

    Attributes:
        step: how many optimizer steps the model has taken.
        exit_code: what the command line ends with: 0, or 130 or 143 after a signal.
        model, optimizer, config, device: what the run has, from ``train`` on.

    Examples:
        >>> from lmkit.lm import ModelConfig
        >>> shape = ModelConfig(vocab_size=300, d_model=32, n_layers=1, n_heads=2, d_ff=64)
        >>> trainer = Trainer(
        ...     TrainConfig(
        ...         model=shape,
        ...         tokenizer="tokenizer/",
        ...         train_data="train.npy",
        ...         checkpoint_dir="new_run",
        ...         context_length=32,
        ...         batch_size=4,
        ...         max_iters=20,
        ...     ),
        ...     report=Silence(),
        ... )
        >>> trainer
        Trainer(checkpoint_dir='new_run', not begun)
        >>> history = trainer.train()
        >>> [record["iter"] for record in history if "loss" in record][-1]
        20
        >>> trainer
        Trainer(checkpoint_dir='new_run', step=20, max_iters=20, parameters=29536, device='cpu')
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

    def __repr__(self) -> str:
        if hasattr(self, "model"):
            return (
                f"Trainer(checkpoint_dir={self.config.checkpoint_dir!r}, step={self.step}, "
                f"max_iters={self.config.max_iters}, parameters={self.model.parameter_count()}, "
                f"device={str(self.device.device)!r})"
            )
        given = self._given
        if isinstance(given, TrainConfig):
            folder: object = given.checkpoint_dir
        else:
            folder = given.get("checkpoint_dir", TrainConfig.checkpoint_dir)
        return f"Trainer(checkpoint_dir={folder!r}, not begun)"

    def train(self) -> list[dict[str, Any]]:
        """Take the steps that are left; the run's history, as ``metrics.jsonl`` has it.

        SIGINT and SIGTERM end the run after the step at hand; the history so far is returned and
        ``exit_code`` tells which it was.

        Raises:
            UsageError: settings are missing or do not fit, or the folder holds another run.
            MalformedError: an id of the data is out of range, or a file is not what it should be.
            MismatchError: data, tokenizer and checkpoint do not belong together.
            TrainingError: the loss is no longer a number, or memory ran out; its hint says what
                helps.
            SystemRefusedError: the folder is in use, or the disk refused a write.
        """
        began = time.monotonic()
        with joined() as self._ranks:
            if not self._ranks.is_first:
                self._report = Silence()
            with (
                self._ranks.explaining(began=False),
                prepare(self._given, self._report, self._ranks, force=self._force) as run,
            ):
                self._adopt(run)
                limit = self.config.max_time
                deadline = None if limit is None else began + limit
                with StopSignals(self._report.notice) as signals:
                    self._stop = Stopping(signals, self._report, self._ranks, deadline)
                    self._train()
                self.exit_code = self._stop.exit_code
                return self._keeper.history()

    def _train(self) -> None:
        try:
            with (
                self._ranks.explaining(),
                advice.explaining_memory(self.config, self.device),
                kept_pages(),
            ):
                self._loop()
            self._finish()
        except LmkitError as error:
            # Others may be gone, and with them their rows; this error all of them have.
            if not is_cut(self.model) or isinstance(error, TooManyBadStepsError):
                self._rescue()
            raise
        finally:
            self._keeper.wait()

    def _loop(self) -> None:
        self._report.line("Starting training...")
        if self._evaluation_due:
            self._make_up_for_evaluation()
        while self.step < self.config.max_iters and not self._agree_to_stop():
            try:
                if self._save_wanted:  # by a signal
                    self._save_what_is_due()
                self._iterate()
            except TooManyBadStepsError as error:
                if self.config.on_bad_steps == "stop":
                    raise
                self._roll_back(error)

    def _iterate(self) -> None:
        """Take one step and do what is due after it."""
        config = self.config
        with self._pace.step():
            self._update()
        self._tell_pace()
        if due(self.step, config.eval_interval):
            self._evaluate()
        self._save_wanted |= due(self.step, config.save_interval)
        if self._save_wanted or self._is_best:
            self._save_what_is_due()
        if self.step == config.max_iters:
            self._read()

    def _adopt(self, run: Prepared) -> None:
        """Take over what the preparation made."""
        self.config, self.device = run.config, run.device
        self.model, self.optimizer, self._run = run.model, run.optimizer, run
        self._stepper = Stepper(run, self._ranks)
        self._pace = Pace()
        tokens_per_step = self._stepper.batches.tokens_per_step
        self._pace_report = PaceReport(self._pace, run, self._ranks, tokens_per_step, self._report)
        self._validation = Validation(run, self._report, self._ranks, self._pace)
        saved = Saved(run.progress.iteration, run.checkpoint) if run.checkpoint else None
        self._keeper = make_keeper(
            run.folder, self.config, self._report, self._pace, saved, self._ranks
        )
        self._rollbacks: Counter[int] = Counter()
        self._odometer = Odometer(seconds=run.progress.seconds)
        self._take_up(run.progress)
        if run.folder:
            began = beginning(run, tokens_per_step)
            self._report.metrics(began)
            self._val_bytes_per_token = began["val_bytes_per_token"]

    def _take_up(self, progress: Progress) -> None:
        """Go on from where a checkpoint, or a new run, stands."""
        self.step, self.best_val_loss = progress.iteration, progress.best_val_loss
        self._batch_offset = progress.batch_offset
        self._evaluation_due = progress.evaluation_due
        self._odometer.tokens = progress.tokens
        self._bad = BadSteps(
            self.config.max_bad_steps,
            in_a_row=progress.bad_in_a_row,
            skipped=progress.bad_skipped,
            step=progress.iteration,
        )
        losses = [record["loss"] for record in self._keeper.history() if "loss" in record]
        self._readings = Readings(self._bad, SpikeWatch(losses), self._report)
        self._updating = self._is_best = self._save_wanted = False

    def _agree_to_stop(self) -> bool:
        """Whether any process is to stop; asked once a step, it also hears of saves asked for."""
        self._save_wanted |= self._stop.agree()
        return self._stop.agreed

    def _update(self) -> None:
        """Take one optimizer step on the mean loss over all its micro-batches."""
        iteration = self.step + 1
        batch, rate = iteration + self._batch_offset, learning_rate(iteration, self.config)
        loss_and_norm = self._stepper.gradients(batch)
        self._odometer.tokens += self._stepper.batches.targets(batch)
        self._readings.add(iteration, rate, loss_and_norm, self._odometer.reading())
        self._updating = True
        self._stepper.apply(rate, loss_and_norm)
        self.step = iteration
        self._updating = False
        if iteration < self.config.max_iters:
            self._stepper.read_ahead(batch + 1)
        # On a CPU reading waits for nothing; elsewhere it is done for many steps at once.
        if self.device.device.type == "cpu" or self._readings.many:
            self._read()

    def _read(self) -> None:
        """Fetch what the device computed for the steps not yet read.

        Raises where too many updates in a row, up to the last step, had to be skipped.
        """
        self._readings.read()
        if self._bad.too_many:
            self._keeper.wait()
            saved = self._ranks.from_first(self._keeper.saved)  # all are to say the same
            printed = saved.printed if saved else None
            raise advice.unstable(self.config, self._bad, self.step, printed)

    def _catch_up(self) -> None:
        """Wait for the device, and read what it computed."""
        with self._pace.waiting():
            self._read()

    def _tell_pace(self) -> None:
        """Say how long the run will take once that is known; report the step if that is due."""
        if self._pace_report.is_early:
            self._catch_up()
            self._pace_report.time_to_finish(self.step)
        if due(self.step, self.config.log_interval):
            self._catch_up()
            self._pace_report.step(self.step, self._readings)

    def _evaluate(self) -> None:
        """Report the loss on the validation data, where there is some.

        A run that stops meanwhile does not wait for it: what goes on from there makes up for it.
        """
        if not self._validation.has_data:
            return
        self._evaluation_due = True
        if self._agree_to_stop():
            return
        self._catch_up()
        self._report.line("Evaluating...")
        loss = self._validation.loss(lambda: self._stop.wished)
        if loss is None:
            self._report.notice("the evaluation is broken off; what goes on from here repeats it")
            return
        self._evaluation_due = False
        is_number = math.isfinite(loss)  # one that is none is no best, nor in JSON
        if is_number and (self.best_val_loss is None or loss < self.best_val_loss):
            self.best_val_loss, self._is_best = loss, True
        self._report.validation(self.step, loss)
        if self._run.folder:
            bits = bits_per_byte(loss, self._val_bytes_per_token) if is_number else None
            told = loss if is_number else None
            found = {"iter": self.step, "val_loss": told, "bits_per_byte": bits}
            self._report.metrics({**found, **self._odometer.reading()})
        self._validation.sample(self.step, lambda: self._stop.wished)

    def _make_up_for_evaluation(self) -> None:
        """Evaluate the model as it was loaded, and keep its checkpoint with the result."""
        self._evaluate()
        if not self._evaluation_due:
            self._save(again=True)

    def _save_what_is_due(self) -> None:
        """Save; a numbered checkpoint waits while updates are being skipped.

        A run that goes back from bad steps must find one from before them. What is best by
        validation loss alone goes to ``best.pt`` only.
        """
        self._catch_up()
        numbered = self._save_wanted and not self._bad.in_a_row
        if numbered or self._is_best:
            self._save(numbered=numbered)

    def _save(self, *, numbered: bool = True, again: bool = False) -> None:
        """Begin to write a checkpoint of the state after the step just taken."""
        self._catch_up()
        self._keeper.save(
            self.step, self._state, numbered=numbered, best=self._is_best, again=again
        )
        self._save_wanted = self._save_wanted and not numbered
        self._is_best = False

    def _state(self) -> dict[str, Any]:
        """All that the steps to come depend on, as plain data."""
        progress = Progress(
            iteration=self.step,
            best_val_loss=self.best_val_loss,
            batch_offset=self._batch_offset,
            bad_in_a_row=self._bad.in_a_row,
            bad_skipped=self._bad.skipped,
            evaluation_due=self._evaluation_due,
            tokens=self._odometer.tokens,
            seconds=self._odometer.seconds,
        ).to_state()
        average = self._run.average
        if average is not None:
            progress["average"] = average.state_dict()
        return progress | {
            "format": CHECKPOINT_FORMAT,
            # The parameters themselves, so that a tied one is known for the same.
            "model": self.model.state_dict(keep_vars=True),
            "optimizer": self.optimizer.state_dict(),
            "config": to_dict(self.config),
            "generators": generator_states(),
            "tokenizer": self._run.tokenizer.to_json(),
            "data": self._run.data_identity() | progress["data"],
            "settings": exactness_settings(self.device, self.config),
        }

    def _roll_back(self, error: TooManyBadStepsError) -> None:
        """Go on from the last good checkpoint with the batches that come after the bad ones."""
        self._keeper.wait()
        saved = self._ranks.from_first(self._keeper.saved)
        if saved is None:
            raise error
        self._rollbacks[saved.step] += 1
        if self._rollbacks[saved.step] > ROLLBACKS:
            self._report.notice(f"went back to {saved.printed} {ROLLBACKS} times, to no avail")
            raise error
        state = read_outline(saved.printed, self._report.notice, self._ranks)
        # A run that was resumed from best.pt may have written a better one there.
        saved = Saved(int(state["iteration"]), saved.printed)
        restore_run(state, self.model, self.optimizer, self._run.average, saved.printed)
        went_from = self.step
        self._keeper.go_back(saved)
        next_batch = error.last + self._batch_offset + 1
        self._take_up(Progress.from_state(state))
        self._batch_offset = next_batch - self.step - 1
        self._report.metrics({"iter": self.step, "rolled_back_from": went_from})
        self._report.notice(
            f"{error}: going on from there with batch {next_batch:,}, past the bad ones"
        )

    def _finish(self) -> None:
        """Leave a last checkpoint; after a signal also the command that goes on from it."""
        self._keeper.wait()
        self._save()
        failure = self._keeper.wait()
        if failure is not None:
            raise failure
        if (self._stop.agreed or self._stop.wished) and self._keeper.saved:
            printed = self._keeper.saved.printed
            self._report.line(
                f"Stopped after {self.step:,} of {counted(self.config.max_iters, 'iteration')}. "
                f"To go on: lmkit train --load_checkpoint {shlex.quote(printed)}",
                event="stopped",
                iter=self.step,
                path=printed,
            )

    def _rescue(self) -> None:
        """Save the last whole step of a run that failed, where its weights are sound."""
        self._keeper.wait()
        self._readings.forget()
        if self._bad.first is not None:
            taken_back = self.step - (self._bad.first[0] - 1)  # no update was applied since
            self.step -= taken_back
            self._odometer.tokens -= taken_back * self._stepper.batches.tokens_per_step
            self._bad = BadSteps(self._bad.limit, skipped=self._bad.skipped)
        # All processes must ask for the weights, also where the update was broken off.
        sound = self._stepper.weights_are_numbers() and not self._updating
        if sound and self.step > (self._keeper.saved.step if self._keeper.saved else 0):
            try:
                self._save()
            except LmkitError as error:
                self._report.notice(f"the last steps could not be saved: {error}")


def due(step: int, interval: int) -> bool:
    """Whether something done every ``interval`` steps is done after this one."""
    return step % interval == 0
