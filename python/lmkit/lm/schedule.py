"""The number of an update to its learning rate: pure functions, so a resumed run needs no state."""

import math

from lmkit.config import TrainConfig

# The share of a wsd schedule that decays: a fifth, the middle of what its authors recommend.
_WSD_DECAY_SHARE = 0.2


def constant(step: int, max_lr: float, warmup: int = 0) -> float:
    """Rise to ``max_lr`` over ``warmup`` steps and stay there."""
    return max_lr * step / warmup if step < warmup else max_lr


def cosine(step: int, max_lr: float, min_lr: float, warmup: int, total: int) -> float:
    """Rise over ``warmup`` steps, fall along half a cosine to ``min_lr`` at ``total``, stay."""
    if step < warmup:
        return max_lr * step / warmup
    if step >= total:
        return min_lr
    done = (step - warmup) / (total - warmup)
    return min_lr + 0.5 * (1 + math.cos(math.pi * done)) * (max_lr - min_lr)


def wsd(step: int, max_lr: float, min_lr: float, warmup: int, total: int) -> float:
    """Rise over ``warmup`` steps, stay, fall in a line over the last fifth of ``total``."""
    if step < warmup:
        return max_lr * step / warmup
    if step >= total:
        return min_lr
    decay = min(math.ceil(total * _WSD_DECAY_SHARE), total - warmup)
    left = min(1.0, (total - step) / decay)
    return min_lr + left * (max_lr - min_lr)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the rate of update ``step``, counted from 1.

    The first update of a warm-up already moves, and the last one of a decay takes ``min_lr``.
    """
    peak, low = config.learning_rate, config.min_lr
    warmup, total = config.warmup_iters, config.schedule_iters
    if config.lr_schedule == "cosine":
        return cosine(step, peak, low, warmup, total)
    if config.lr_schedule == "wsd":
        return wsd(step, peak, low, warmup, total)
    return constant(step, peak, warmup)
