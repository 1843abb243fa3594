"""What was asked for ("auto") to what will be used: device, number format, compiling or not.

One place that knows how devices differ; the rest of the room takes a `Device` and asks nothing.
"""

import contextlib
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils import deterministic
from torch.utils._triton import has_triton

from lmkit.config import TrainConfig
from lmkit.errors import UsageError

# Dense bfloat16 FLOP/s (float32 accumulation, no sparsity) as the makers' data sheets give them, by
# the name torch reports. Exact names only: variants of one chip differ by a third and more.
_PEAK_FLOPS = {
    "NVIDIA A10": 125e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A40": 149.7e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA GeForce RTX 3090": 71e12,
    "NVIDIA GeForce RTX 4090": 165.2e12,
    "NVIDIA GH200 480GB": 989.4e12,
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA H100 NVL": 835.5e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
}


@dataclass(frozen=True)
class Device:
    """What a run computes on, and how.

    Attributes:
        device: where the tensors are.
        dtype: what matrix products and attention compute in; weights are float32 in any case.
        compile: whether the model is compiled; see `compile_model`.
        notices: what the user should hear about the choice, a sentence each.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    compile: bool = False
    notices: tuple[str, ...] = ()

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context to compute a loss in."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def synchronize(self) -> None:
        """Wait until all that was asked of the device is done; for an honest clock."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def peak_flops(self) -> float | None:
        """Return the device's dense bfloat16 peak in FLOP/s, or None where it is not known."""
        if self.device.type != "cuda":
            return None
        return _PEAK_FLOPS.get(torch.cuda.get_device_name(self.device))


def resolve(config: TrainConfig, *, compiling_pays: bool = True) -> Device:
    """Turn the settings ``device``, ``precision`` and ``compile`` into what is used.

    ``auto`` takes the first CUDA device, else MPS, else the CPU; bfloat16 on CUDA devices that have
    it and float32 elsewhere; and compiles, where ``compiling_pays`` and there is a compiler, on
    CUDA and on the CPU.
    """
    device = find_device(config.device)
    notices: list[str] = []
    dtype = _dtype(config.precision, device, notices)
    asked = "off" if config.compile == "auto" and not compiling_pays else config.compile
    return Device(device, dtype, _compile(asked, device, notices), tuple(notices))


def find_device(name: str) -> torch.device:
    """Return the device of this name, if this machine has it; ``auto`` is the best it has."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in {"cpu", "cuda", "mps"} or (":" in name and not index.isdecimal()):
        raise UsageError(
            f"unknown device {name!r}", hint="--device is auto, cpu, cuda, cuda:0 or mps"
        )
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if int(index or 0) >= counts[kind]:
        there = f"{counts[kind]} {kind} device{'s' * (counts[kind] != 1)}"
        raise UsageError(
            f"device {name!r} is not on this machine, which has {there}",
            hint="pass --device auto to take what there is",
        )
    return torch.device(name)


def set_deterministic() -> None:
    """Let the whole process use deterministic kernels only. Call before any work on a GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory before writing it; filling it would cost a pass each time.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # a property
    torch.backends.cudnn.benchmark = False


def compile_model(model: nn.Module, notify: Callable[[str], None]) -> None:
    """Compile ``model`` in place: same object, same parameter names.

    It happens at the first call, for the shape of its first argument; calls of any other shape (the
    last batch of an evaluation, a prompt) are too few to be worth it and run uncompiled. Where the
    compiler fails, ``notify`` gets one line and the model goes on uncompiled.
    """

    def forget() -> None:
        model._compiled_call_impl = None  # back to eager

    # The names torch.nn.Module.compile itself uses; torch.compile(model) would rename parameters.
    model._compiled_call_impl = _compiled(model._call_impl, notify, forget)


def compile_blocks(model: nn.Module, notify: Callable[[str], None]) -> None:
    """Do as `compile_model` with each block of a model that is cut over processes.

    Only the blocks' own work is compiled; what brings their weights together stays around it.
    """
    for block in model.layers:  # type: ignore[union-attr] # a Transformer's
        eager = block.forward
        block.forward = _compiled(eager, notify, partial(setattr, block, "forward", eager))


def _compiled(
    eager: Callable[..., Any], notify: Callable[[str], None], forget: Callable[[], None]
) -> Callable[..., Any]:
    """The function compiled for the shape of its first call; ``forget`` undoes it if it fails."""
    compiled = torch.compile(eager, dynamic=False)
    working, shape = False, None

    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - stands in for any model's call
        nonlocal working, shape
        shape = shape or args[0].shape
        if args[0].shape != shape:
            return eager(*args, **kwargs)
        if working:
            return compiled(*args, **kwargs)
        try:
            output = compiled(*args, **kwargs)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
            reason = str(error).strip().splitlines()[0]
            notify(f"torch.compile failed, going on without: {reason}")
            forget()
            return eager(*args, **kwargs)
        working = True
        return output

    return call


def _dtype(asked: str, device: torch.device, notices: list[str]) -> torch.dtype:
    if asked == "auto":
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
        return torch.bfloat16 if has_bfloat16 else torch.float32
    if asked == "bfloat16" and device.type == "cpu" and not cpu_has_bfloat16():
        notices.append(
            "this CPU has no bfloat16 units: expect --precision float32 to be far faster"
        )
    return torch.float32 if asked == "float32" else torch.bfloat16


def _compile(asked: str, device: torch.device, notices: list[str]) -> bool:
    if asked == "off" or (asked == "auto" and device.type == "mps"):
        return False
    missing = _missing_compiler(device)
    if missing:
        notices.append(f"not compiling the model: {missing}")
    return missing is None


def _missing_compiler(device: torch.device) -> str | None:
    if device.type == "cuda":
        return None if has_triton() else "Triton is not installed"
    if device.type == "mps":
        return None
    names = (os.environ.get("CXX"), "g++", "clang++", "c++", "cl")
    return None if any(shutil.which(name) for name in names if name) else "no C++ compiler found"


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself rather than emulating it."""
    return any(
        bool(check())
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        if (check := getattr(torch.cpu, name, None)) is not None
    )
