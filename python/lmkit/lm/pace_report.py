"""The pace of a run to what is said of it: tokens a second, the time left, and what would help."""

from lmkit.counted import counted
from lmkit.lm import advice
from lmkit.lm.distributed import Ranks
from lmkit.lm.pace import EARLY_STEPS, Pace
from lmkit.lm.preparation import Prepared
from lmkit.lm.readings import Readings
from lmkit.lm.report import Report, span


class PaceReport:
    """Speaks of the pace of one run; the device must be idle then."""

    def __init__(
        self, pace: Pace, run: Prepared, ranks: Ranks, tokens_per_step: int, report: Report
    ) -> None:
        self._pace = pace
        self._run = run
        self._ranks = ranks
        self._tokens_per_step = tokens_per_step
        self._report = report
        self._advised = False

    @property
    def is_early(self) -> bool:
        """Whether `time_to_finish` wants to look at the clock after this step."""
        return self._pace.is_early and self._run.config.log_interval > max(EARLY_STEPS)

    def time_to_finish(self, step: int) -> None:
        """Say it once, a few steps in, where the first report comes later than that."""
        seconds, left = self._pace.early(), self._run.config.max_iters - step
        if seconds is not None:
            self._report.notice(
                f"about {span(seconds * left)} for the {counted(left, 'step')} left, "
                f"at {seconds:.3f}s a step"
            )

    def step(self, step: int, last: Readings) -> None:
        """Report a step, and the pace since the report before; advise once where that is slow."""
        run, seconds = self._run, self._pace.take()
        left = seconds * (run.config.max_iters - step)
        rate = self._tokens_per_step / max(seconds, 1e-9)
        flops, peak = rate * self._flops_per_token(), run.device.peak_flops()
        used = None if peak is None else flops / (peak * self._ranks.count)
        self._report.iteration(step, last.loss, seconds, last.rate, rate, left, used)
        told = {"iter": step, "tokens_per_second": round(rate, 1)}
        self._report.metrics({**told, **({} if used is None else {"mfu": used})})
        advised = None if self._advised else advice.slow(run.config, self._pace, left)
        if advised:
            self._report.notice(advised)
            self._advised = True

    def _flops_per_token(self) -> float:
        return self._run.model.flops_per_token(self._run.config.context_length)
