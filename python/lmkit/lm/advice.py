"""What went wrong, with the run's own numbers, to the flags that help."""

from collections.abc import Iterator
from contextlib import contextmanager

from lmkit.config import TrainConfig
from lmkit.errors import TrainingError
from lmkit.lm.bad_steps import BadSteps, TooManyBadStepsError
from lmkit.lm.device import Device
from lmkit.lm.estimate import GIB, fixed_memory, memory_per_row, parameters_of
from lmkit.lm.pace import Pace
from lmkit.lm.report import DAY, span

ASIDE_SHARE = 0.2  # evaluations and saves above this share of the time are worth a word,
ASIDE_SECONDS = 60  # once they have cost this much
ALLOCATION_FAILED = ("out of memory", "can't allocate memory", "not enough memory")


@contextmanager
def explaining_memory(config: TrainConfig, device: Device) -> Iterator[None]:
    """Turn a failed allocation inside into an error that says which flags help."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error)
        if not isinstance(error, MemoryError) and not any(
            phrase in said.lower() for phrase in ALLOCATION_FAILED
        ):
            raise
        raise out_of_memory(config, device, said) from error


def out_of_memory(config: TrainConfig, device: Device, reason: str) -> TrainingError:
    """The device, or the machine, has no room for the model or for a step."""
    model = config.model
    first_line = (reason.splitlines() or [""])[0].strip()
    fixed = fixed_memory(parameters_of(config), device) / GIB
    row = memory_per_row(config, device) / GIB
    return TrainingError(
        f"out of memory on {device.device} with --batch_size {config.batch_size} and "
        f"--context_length {config.context_length}, by estimate {fixed:.2f} GiB and {row:.3f} GiB "
        f"a sequence" + (f": {first_line}" if first_line else ""),
        hint="use a smaller --batch_size (auto finds what fits and keeps the step's batch by "
        "accumulation), a smaller --context_length, or a smaller model "
        f"(now --d_model {model.d_model} --n_layers {model.n_layers} --d_ff {model.d_ff})",
    )


def unstable(
    config: TrainConfig, bad: BadSteps, last: int, saved: str | None
) -> TooManyBadStepsError:
    """The loss or the gradient is no longer a number; ``saved`` is the last checkpoint."""
    first, wrong = bad.first or (last, "loss was not a number")
    clip = "none" if config.max_grad_norm is None else f"{config.max_grad_norm:g}"
    row = (
        f", and the {last - first} updates after it had to be skipped too "
        f"(--max_bad_steps {bad.limit})"
        if last > first
        else ""
    )
    kept = f"the last checkpoint before it is {saved}" if saved else "no checkpoint came before it"
    return TooManyBadStepsError(
        f"the {wrong} at iteration {first}{row}; {kept}",
        hint=f"use a lower --learning_rate (now {config.learning_rate:g}), a lower "
        f"--max_grad_norm (now {clip}) or a higher --weight_decay (now {config.weight_decay:g})",
        first=first,
        last=last,
    )


def slow(config: TrainConfig, pace: Pace, left: float) -> str | None:
    """What to change when the run takes days, or mostly evaluates and saves; None if neither."""
    share = pace.aside / max(pace.aside + pace.stepping, 1e-9)
    if share > ASIDE_SHARE and pace.aside > ASIDE_SECONDS:
        return (
            f"evaluating and saving take {share:.0%} of the time; use a longer --eval_interval "
            f"(now {config.eval_interval}) or --save_interval (now {config.save_interval})"
        )
    if left > DAY:
        return (
            f"at this pace {span(left)} are left; a faster --device helps most, then a larger "
            f"--batch_size (now {config.batch_size}) with fewer --max_iters, then longer "
            "--eval_interval and --save_interval"
        )
    return None
