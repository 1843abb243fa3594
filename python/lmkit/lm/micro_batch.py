"""``--batch_size auto``: the largest micro-batch that fits, the step's batch kept by accumulation.

On an accelerator each size is tried, largest first, with everything else in place, because that is
the only way to know. On a CPU trying would end in the system's hands, so the estimate decides, with
a fifth of the memory left alone.
"""

import dataclasses
import gc
from collections.abc import Callable, Iterable

import torch

from lmkit.config import TrainConfig
from lmkit.lm.device import Device
from lmkit.lm.estimate import free_memory, peak_memory
from lmkit.lm.model import Transformer

HOST_SHARE = 0.8
MOMENT_BYTES = 8  # of a parameter: AdamW makes its moments at the first step


def with_largest_micro_batch(
    config: TrainConfig, device: Device, model: Transformer
) -> TrainConfig:
    """Return the configuration with the same batch a step, in as few micro-batches as fit."""

    def fits(size: int) -> bool:
        candidate = _split(config, size)
        if device.device.type == "cuda" and not model.lm_head.weight.is_meta:
            return _runs(candidate, device, model)
        free = free_memory(device.device)
        need = peak_memory(candidate, model.parameter_count(), device)
        return free is None or need <= HOST_SHARE * free

    return _split(config, largest(divisors(config.batch_size * config.grad_accum_steps), fits))


def largest(sizes: Iterable[int], fits: Callable[[int], bool]) -> int:
    """The first of ``sizes``, which fall, that fits; the last if none does."""
    size = 1
    for size in sizes:  # the last one is the answer too
        if fits(size):
            break
    return size


def divisors(number: int) -> list[int]:
    """All of them, largest first."""
    return [size for size in range(number, 0, -1) if number % size == 0]


def _split(config: TrainConfig, size: int) -> TrainConfig:
    steps = config.batch_size * config.grad_accum_steps // size
    return dataclasses.replace(config, batch_size=size, grad_accum_steps=steps)


def _runs(config: TrainConfig, device: Device, model: Transformer) -> bool:
    """Whether a forward and a backward pass of this size fit beside the optimizer's moments."""
    rows = (config.batch_size, config.context_length)
    try:
        moments = torch.empty(
            MOMENT_BYTES * model.parameter_count(), dtype=torch.uint8, device=device.device
        )
        ids_BT = torch.zeros(rows, dtype=torch.int64, device=device.device)
        with device.autocast():
            loss = model(ids_BT, ids_BT)
        loss.backward()
        device.synchronize()
        del moments
    except torch.OutOfMemoryError:
        return False
    finally:
        model.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()
    return True
