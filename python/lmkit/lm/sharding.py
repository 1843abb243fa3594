"""A model to the share of it that each process of a run holds: torch's FSDP2.

Each block, and what is outside the blocks, is cut by rows over the processes: parameters, gradients
and the optimizer's state, so that a process needs 16 bytes a parameter divided by their number. A
block's weights come together just before it computes and go again after; gradients are averaged as
they are cut. Parameters and sums are float32; on CUDA blocks compute with bfloat16 copies. The
wrong tool where a model fits each device: copies (DDP) exchange half as much.

Nothing here is imported from torch's sharding until it is used, which takes a second.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, distributed, nn

from lmkit.config import TrainConfig
from lmkit.errors import UsageError
from lmkit.lm.device import Device
from lmkit.lm.distributed import Ranks
from lmkit.lm.model import RotaryEmbedding, Transformer

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

CUT_PARTS = ("model", "optimizer", "average")  # of a training state


def check_sharding(config: TrainConfig, device: Device, *, auto_batch: bool) -> None:
    """Refuse what cannot be done with a model that is cut."""
    if device.device.type not in {"cpu", "cuda"}:
        raise UsageError(
            f"--parallel fsdp and --device {device.device.type} do not go together",
            hint="use --parallel ddp, or --device cuda or cpu",
        )
    if auto_batch:
        raise UsageError(
            "--batch_size auto and --parallel fsdp do not go together: trying a size would stop "
            "all processes where one has no memory left",
            hint="--batch_size auto with --parallel ddp finds a size, or pass one; "
            f"--grad_accum_steps (now {config.grad_accum_steps}) keeps the step's batch",
        )


def is_cut(model: nn.Module) -> bool:
    """Whether a model is cut over the processes."""
    return hasattr(model, "set_requires_gradient_sync")


def own_part(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this process holds; of one that is not cut, itself."""
    return cast("Tensor", tensor.to_local()) if hasattr(tensor, "to_local") else tensor


def together(tensor: Tensor) -> Tensor:
    """All of a tensor, which all processes must ask for; of one that is not cut, itself."""
    return cast("Tensor", tensor.full_tensor()) if hasattr(tensor, "full_tensor") else tensor


def empty_model(config: TrainConfig, device: Device, ranks: Ranks) -> Transformer:
    """Return a model cut over the processes, its weights still to be set."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    with torch.device("meta"):
        model = Transformer(config.model)
    kind = device.device.type
    mesh = init_device_mesh(kind, (ranks.count,))
    # On a CPU autocast does what is asked for beyond float32.
    low = device.dtype if kind == "cuda" and device.dtype != torch.float32 else None
    policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
    for block in model.layers:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    model.to_empty(device=device.device)
    _make_tables(model)
    register_fsdp_forward_method(model, "next_token_logits")
    _let_first_decide(model, ranks)
    return model


def draw_weights(model: Transformer, config: TrainConfig, ranks: Ranks) -> None:
    """Give a cut model the weights that one process would begin with.

    The first draws all of them, in its host's memory, and the others get one after another.
    """
    torch.manual_seed(config.seed)
    source = dict(Transformer(config.model).named_parameters()) if ranks.is_first else None
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            device = own_part(parameter).device
            if source is None:
                whole = torch.empty(parameter.shape, device=device)
            else:
                whole = source[name].detach().to(device)
            distributed.broadcast(whole, 0)
            own_part(parameter).copy_(_rows(whole, _mesh(parameter)))


def cut_state(state: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """A whole training state with all that follows the parameters cut as the model is.

    Tensors of one number, such as the optimizer's count of steps, stay as they are.
    """
    mesh = _mesh(next(model.parameters()))

    def cut(value: object) -> object:
        if isinstance(value, Tensor):
            return _cut(value, mesh) if value.ndim else value
        if isinstance(value, Mapping):
            return {key: cut(one) for key, one in value.items()}
        return value

    return {key: cut(value) if key in CUT_PARTS else value for key, value in state.items()}


def empty_like_cut(shape: torch.Size, dtype: torch.dtype, model: nn.Module) -> Tensor:
    """A tensor of this shape, cut as the model is; its content is undefined."""
    mesh = _mesh(next(model.parameters()))
    return _cut(torch.empty(shape, dtype=dtype, device="meta"), mesh)


def rows_of(whole: Tensor, like: Tensor) -> Tensor:
    """Those rows of a whole tensor that this process holds of ``like``."""
    return _rows(whole, _mesh(like))


def on_host(tensor: Tensor) -> Tensor:
    """A copy of a cut tensor in the host's memory, cut the same way."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (_mesh(tensor).size(),))
    return _from_rows(own_part(tensor.detach()).to("cpu", copy=True), tensor, mesh)


@contextmanager
def released(model: nn.Module) -> Iterator[None]:
    """Let what was brought together inside go again, as it may be another's weights."""
    try:
        yield
    finally:
        if is_cut(model):
            cast("Any", model).reshard()


def _make_tables(model: Transformer) -> None:
    """Fill the buffers, which the meta device made without content."""
    for module in model.modules():
        own = dict(module.named_buffers(recurse=False))
        if isinstance(module, RotaryEmbedding):
            made = RotaryEmbedding.of(model.config)
            for name, buffer in own.items():
                buffer.copy_(made.get_buffer(name))
        elif own:
            raise NotImplementedError(f"nothing here fills the buffers {', '.join(own)}")


def _let_first_decide(model: Transformer, ranks: Ranks) -> None:
    """Let all processes see the first's logits, so that all choose the same tokens."""
    gathered = model.next_token_logits

    def next_token_logits(*arguments: Any, **named: Any) -> Tensor:  # noqa: ANN401 - the method's own
        logits_BV = gathered(*arguments, **named).contiguous()
        distributed.broadcast(logits_BV, 0)
        return logits_BV

    if ranks.count > 1:
        model.next_token_logits = next_token_logits  # type: ignore[method-assign]


def _mesh(tensor: Tensor) -> "DeviceMesh":
    return cast("DTensor", tensor).device_mesh


def _cut(whole: Tensor, mesh: "DeviceMesh") -> Tensor:
    part = _rows(whole, mesh)
    if part.is_meta:
        part = torch.empty(part.shape, dtype=part.dtype, device=mesh.device_type)
    else:
        part = part.to(mesh.device_type, copy=True)
    return _from_rows(part, whole, mesh)


def _rows(whole: Tensor, mesh: "DeviceMesh") -> Tensor:
    """This process's rows, as FSDP2 cuts them: as ``torch.chunk`` does."""
    chunks = whole.chunk(mesh.size())
    place = mesh.get_local_rank()
    return chunks[place] if place < len(chunks) else whole[:0]


def _from_rows(part: Tensor, whole: Tensor, mesh: "DeviceMesh") -> Tensor:
    from torch.distributed.tensor import DTensor, Shard

    return DTensor.from_local(
        part, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride()
    )
