"""A model's parameters to AdamW, and gradients to clipped ones."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lmkit.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Make AdamW as ``config`` says, fused into few kernels where torch has it for the device.

    Weight decay pulls the matrices only; with ``decay_all`` also norms and embeddings.
    """
    decayed, free = _split_by_decay(model, decay_all=config.decay_all)
    groups = [
        {"params": parameters, "weight_decay": decay}
        for parameters, decay in ((decayed, config.weight_decay), (free, 0.0))
        if parameters
    ]
    settings = {"lr": config.learning_rate, "betas": (config.beta1, config.beta2)}
    try:
        return torch.optim.AdamW(groups, **settings, fused=True)  # type: ignore[arg-type] # one dict of several types
    except RuntimeError:  # this device has no fused kernel
        return torch.optim.AdamW(groups, **settings)  # type: ignore[arg-type] # one dict of several types


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all groups this rate, for the updates to come."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def step_if_finite(optimizer: torch.optim.Optimizer, checked: Tensor) -> None:
    """Take the optimizer's step where all of ``checked`` is finite; else leave everything be.

    Fused kernels on an accelerator decide it there, and the host does not wait for the answer;
    elsewhere the host reads it.
    """
    if checked.device.type != "cpu" and all(g.get("fused") for g in optimizer.param_groups):
        # What torch.amp.GradScaler sets for the same kernels; a step they leave out is not counted.
        optimizer.found_inf = checked.isfinite().all().logical_not().float()  # type: ignore[attr-defined]
        optimizer.step()
    elif bool(checked.isfinite().all()):
        optimizer.step()


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float | None) -> Tensor:
    """Scale all gradients down together until their norm is at most ``max_norm``; None leaves them.

    Returns the norm they had, as a tensor on their device: reading it is what would make the host
    wait, so the caller chooses when.
    """
    parameters = list(parameters)
    if max_norm is not None:
        return nn.utils.clip_grad_norm_(parameters, max_norm)
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _split_by_decay(
    model: nn.Module, *, decay_all: bool
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
    }
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim > 1 and id(parameter) not in embeddings
        (decayed if decay_all or is_matrix else free).append(parameter)
    return decayed, free
