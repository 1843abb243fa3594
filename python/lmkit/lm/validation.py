"""What a run does at an evaluation: its loss on the validation data, and a sample of its text.

With averaged weights it is these that are judged. Nothing the run learns with is altered, and the
time it takes is told to the run's `Pace` as spent between steps.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from lmkit.lm.distributed import Ranks
from lmkit.lm.evaluate import evaluate_loss
from lmkit.lm.generate import generate
from lmkit.lm.pace import Pace
from lmkit.lm.preparation import Prepared
from lmkit.lm.report import Report
from lmkit.lm.sharding import is_cut, released

SAMPLE_TOKENS = 64


class Validation:
    """Judges the model of one run.

    Attributes:
        has_data: whether there is validation data.
    """

    def __init__(self, run: Prepared, report: Report, ranks: Ranks, pace: Pace) -> None:
        self.has_data = run.val_data is not None
        self._run = run
        self._report = report
        self._ranks = ranks
        self._pace = pace

    def loss(self, give_up: Callable[[], bool]) -> float | None:
        """The mean loss on the validation data; None without any, or once ``give_up`` says so."""
        run, config = self._run, self._run.config
        if run.val_data is None:
            return None
        with self._pace.between_steps(), self._averaged():
            return evaluate_loss(
                run.model,
                run.val_data.tokens,
                batch_size=config.batch_size,
                context_length=config.context_length,
                num_batches=config.num_eval_batches,
                device=run.device,
                give_up=give_up,
                ranks=self._ranks,
            )

    def sample(self, step: int, give_up: Callable[[], bool]) -> None:
        """Let the model continue the prompt it was given, always by the same dice."""
        run, prompt = self._run, self._run.config.sample_prompt
        cut = is_cut(run.model)
        if prompt is None or not (self._ranks.is_first or cut):
            return
        with self._pace.between_steps(), self._averaged(), run.device.autocast():
            pieces = generate(
                run.model,
                run.tokenizer,
                prompt,
                max_new_tokens=SAMPLE_TOKENS,
                seed=run.config.seed,
            )
            # Where the model is cut, all bring it together token by token, to the end.
            wanted = itertools.takewhile(lambda _: cut or not give_up(), pieces)
            text = prompt + "".join(wanted)
        self._report.line(f"Sample: {text}", event="sample", iter=step, sample=text)
        self._report.metrics({"iter": step, "sample": text, "prompt": prompt})

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model with its averaged weights, where they are averaged."""
        average = self._run.average
        with nullcontext() if average is None else average.in_place(), released(self._run.model):
            yield
