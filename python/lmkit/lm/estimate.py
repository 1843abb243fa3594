"""A configuration to what it will take: FLOPs, memory, disk, passes over the data; before step one.

The counts are exact. Memory is an estimate: what the backward pass needs kept is known layer by
layer, what its temporaries and the allocator add was measured (half as much again, float32 on two
cores, shapes from 2 to 29 million parameters, each within a tenth). Compiling takes less than this.
"""

import math
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lmkit.config import TrainConfig
from lmkit.counted import counted
from lmkit.lm.cross_entropy import logits_held
from lmkit.lm.device import Device
from lmkit.lm.distributed import Ranks
from lmkit.lm.model import Transformer

GIB = 1 << 30
STATE_BYTES = 16  # a parameter's weight, gradient and two moments, float32
SAVED_BYTES = 12  # what of these a checkpoint holds
# Kept for the backward pass, per token and layer: inputs and outputs of the norms and projections.
KEPT_WIDTHS = 10  # of d_model
KEPT_FF_WIDTHS = 4  # of d_ff
TEMPORARIES = 1.5
MASK_BYTES = 5  # a pair of positions, where documents are masked: the mask and torch's copy of it
# Ten minutes of two cores: compiling takes one of them, and saves a tenth.
COMPILE_FROM_FLOPS = 1e14
TORCH_BYTES = 700 << 20  # Python with torch, on the host


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes:
        parameters: numbers the model learns.
        flops_per_token: forward and backward; 6 a parameter in a matrix product and 12 * L * d * T.
        tokens_per_step: of the whole batch.
        epochs: how often all steps together go through the training data.
        memory: bytes at the peak, on the device, of each process.
        free_memory: bytes free there; None where it cannot be told.
        checkpoint_bytes: of one checkpoint.
        disk: bytes of all checkpoints the steps left will leave.
        free_disk: bytes free where they go.
        peak_flops: the device's dense bfloat16 FLOP/s; None where it is not known.
        on_accelerator: whether that is worth a word.
    """

    parameters: int
    flops_per_token: int
    tokens_per_step: int
    epochs: float
    memory: int
    free_memory: int | None
    checkpoint_bytes: int
    disk: int
    free_disk: int
    peak_flops: float | None
    on_accelerator: bool

    def sentences(self, config: TrainConfig) -> list[str]:
        """What a person wants to read of it."""
        flops = self.flops_per_token * self.tokens_per_step
        free = "unknown" if self.free_memory is None else _gib(self.free_memory)
        peak = "unknown" if self.peak_flops is None else f"{self.peak_flops / 1e12:,.0f} TFLOP/s"
        mfu = (
            "MFU counts, a token, 6 FLOPs a parameter in matrix products (the head, not the "
            "embedding) and 12 * n_layers * d_model * context_length, over the dense bfloat16 "
            f"peak: {peak}"
        )
        return [
            f"{counted(self.tokens_per_step, 'token')} and {_flops(flops)} a step; "
            f"{counted(config.max_iters, 'step')} go{'es' * (config.max_iters == 1)} "
            f"{self.epochs:,.2f} times over the training data",
            f"about {_gib(self.memory)} of memory (free: {free}); "
            f"{_gib(self.checkpoint_bytes)} a checkpoint, {_gib(self.disk)} for all "
            f"(free: {_gib(self.free_disk)})",
            *([mfu] if self.on_accelerator else []),
        ]

    def warnings(self) -> list[str]:
        """What will not fit, and the flags that help."""
        found = []
        if self.free_memory is not None and self.memory > self.free_memory:
            found.append(
                f"the run may need {_gib(self.memory)} of memory, and {_gib(self.free_memory)} are "
                "free: --batch_size auto fits the batch in and keeps its size by accumulation, a "
                "smaller --context_length or model needs less"
            )
        if self.disk > self.free_disk:
            found.append(
                f"the checkpoints will take {_gib(self.disk)}, and {_gib(self.free_disk)} are free "
                "on the disk: use --keep_last or a longer --save_interval"
            )
        return found

    def fields(self) -> dict[str, object]:
        """The numbers by name, for readers of JSON."""
        return asdict(self)


def estimate(
    config: TrainConfig,
    model: Transformer,
    device: Device,
    n_tokens: int,
    iteration: int = 0,
    ranks: Ranks | None = None,
) -> Estimate:
    """Tell what the steps after ``iteration`` will take; ``model`` may be on the meta device."""
    ranks = ranks or Ranks()
    rows = config.batch_size // ranks.count
    tokens_per_step = config.batch_size * config.grad_accum_steps * config.context_length
    checkpoint_bytes = SAVED_BYTES * model.parameter_count()
    return Estimate(
        parameters=model.parameter_count(),
        flops_per_token=model.flops_per_token(config.context_length),
        tokens_per_step=tokens_per_step,
        epochs=config.max_iters * tokens_per_step / max(n_tokens, 1),
        memory=(
            cut_memory(config, model, device, ranks.count)
            if ranks.cut_model(config)
            else fixed_memory(model.parameter_count(), device)
        )
        + rows * memory_per_row(config, device),
        free_memory=free_memory(device.device),
        checkpoint_bytes=checkpoint_bytes,
        disk=checkpoint_bytes * _checkpoints(config, iteration),
        free_disk=_free_disk(Path(config.checkpoint_dir)),
        peak_flops=device.peak_flops(),
        on_accelerator=device.device.type != "cpu",
    )


def compiling_pays(config: TrainConfig) -> bool:
    """Whether a run is long enough to earn back the minute that compiling takes.

    A function of the configuration alone, so that the same run is compiled, or not, every time.
    """
    with torch.device("meta"):
        model = Transformer(config.model)
    tokens = config.max_iters * config.batch_size * config.grad_accum_steps * config.context_length
    return tokens * model.flops_per_token(config.context_length) >= COMPILE_FROM_FLOPS


def parameters_of(config: TrainConfig) -> int:
    """How many numbers the model of a configuration learns."""
    with torch.device("meta"):
        return Transformer(config.model).parameter_count()


def peak_memory(config: TrainConfig, parameters: int, device: Device) -> int:
    """Bytes at the peak of a step, with a checkpoint being written beside it on the host."""
    return fixed_memory(parameters, device) + config.batch_size * memory_per_row(config, device)


def fixed_memory(parameters: int, device: Device, torch_bytes: int = TORCH_BYTES) -> int:
    """Bytes that do not depend on the batch."""
    on_host = device.device.type == "cpu"
    beside = SAVED_BYTES * parameters + torch_bytes if on_host else 0
    low_precision = 2 * parameters if device.dtype != torch.float32 else 0
    return STATE_BYTES * parameters + beside + low_precision


def cut_memory(config: TrainConfig, model: Transformer, device: Device, processes: int) -> int:
    """Bytes of a process's share of the model, and of what it brings together at a time.

    That is two blocks, as the next is fetched while one computes, and what is outside the blocks;
    each with its gradients.
    """
    share = math.ceil(fixed_memory(model.parameter_count(), device, torch_bytes=0) / processes)
    block = sum(parameter.numel() for parameter in model.layers[0].parameters())
    outside = model.parameter_count() - config.model.n_layers * block
    gathered = 2 * device.dtype.itemsize * (2 * block + outside)
    return share + gathered + (TORCH_BYTES if device.device.type == "cpu" else 0)


def memory_per_row(config: TrainConfig, device: Device) -> int:
    """Bytes that each sequence of a micro-batch takes."""
    model, size = config.model, device.dtype.itemsize
    width = max(model.d_model, model.n_heads * model.d_head)
    kept = model.n_layers * (KEPT_WIDTHS * width + KEPT_FF_WIDTHS * model.d_ff) * size
    rows = config.context_length
    logits = logits_held(config.batch_size * rows, model.vocab_size, device.device.type)
    mask = MASK_BYTES * rows * rows if config.mask_documents else 0
    return math.ceil(TEMPORARIES * (rows * kept + 4 * logits / config.batch_size) + mask)


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on the device, as far as the system tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    limits = [_available_on_the_machine(), _left_in_the_container()]
    return min((limit for limit in limits if limit is not None), default=None)


def _available_on_the_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kib = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return int(kib) << 10
    except (OSError, StopIteration, ValueError):
        return None


def _left_in_the_container() -> int | None:
    """What a control group still allows, where one sets a limit."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / f"memory.{name}").read_text() for name in ("max", "current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):  # no such file, or the limit is "max"
        return None


def _checkpoints(config: TrainConfig, iteration: int) -> int:
    """How many will stand on the disk at most: the best too, and the one being written."""
    made = math.ceil((config.max_iters - iteration) / config.save_interval)
    kept = made if config.keep_last is None else min(made, config.keep_last + 1)
    return max(1, kept) + (config.val_data is not None)


def _free_disk(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(os.fspath(folder)).free


def _gib(size: int) -> str:
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{size / (1 << 20):,.0f} MiB"


def _flops(count: int) -> str:
    return f"{count / 1e12:,.2f} TFLOP" if count >= 1e11 else f"{count / 1e9:,.2f} GFLOP"  # noqa: PLR2004 - where a tenth of a TFLOP begins
