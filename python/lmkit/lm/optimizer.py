"""A model's parameters to an optimizer, and gradients to clipped ones."""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lmkit.config import TrainConfig
from lmkit.lm.device import cpu_has_bfloat16
from lmkit.lm.muon import Float32Muon, GuardedMuon, MuonOfRows
from lmkit.lm.sharding import is_cut, together

MATRIX_AXES = 2


class Optimizer(Protocol):
    """What a run asks of an optimizer; those of ``torch.optim`` have it."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of parameters with their settings."""
        ...

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        ...

    def step(self) -> Any:  # noqa: ANN401 - torch's returns what a closure did
        """Take a step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put such a state back."""
        ...


def make_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """Make the optimizer that ``config`` names.

    Weight decay pulls the matrices only; with ``decay_all`` also norms and embeddings. Muon takes
    the matrices of the blocks, and AdamW what is left: norms, embeddings and the head.
    """
    decayed, free = _split_by_decay(model, decay_all=config.decay_all)
    if config.optimizer == "adamw":
        return _adamw(decayed, free, config)
    head = {id(one.weight) for one in (getattr(model, "lm_head", None),) if one is not None}
    embeddings = _embeddings(model)
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in decayed:
        is_block = parameter.ndim == MATRIX_AXES and id(parameter) not in head | embeddings
        (matrices if is_block else rest).append(parameter)
    emulated = any(one.device.type == "cpu" for one in matrices) and not cpu_has_bfloat16()
    kind: type[torch.optim.Muon] = Float32Muon if emulated else torch.optim.Muon
    if any(one.device.type != "cpu" for one in matrices):
        kind = GuardedMuon
    if is_cut(model):
        kind = MuonOfRows
    muon = kind(
        matrices,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",  # so that rates tuned for AdamW fit
    )
    return MuonWithAdamW(muon, _adamw(rest, free, config))


class MuonWithAdamW:
    """Two optimizers that take their steps together, with what `Optimizer` asks for."""

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        self._both: dict[str, torch.optim.Optimizer] = {"muon": muon, "adamw": adamw}

    @property
    def parts(self) -> list[torch.optim.Optimizer]:
        """The two."""
        return list(self._both.values())

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both."""
        return [group for one in self._both.values() for group in one.param_groups]

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for one in self._both.values():
            one.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """Take a step with both."""
        for one in self._both.values():
            one.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both, by name."""
        return {name: one.state_dict() for name, one in self._both.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put both back; a ValueError where the state is another optimizer's."""
        if state.keys() != self._both.keys():
            raise ValueError("it is not of Muon with AdamW")
        for name, one in self._both.items():
            one.load_state_dict(state[name])


def _adamw(
    decayed: list[nn.Parameter], free: list[nn.Parameter], config: TrainConfig
) -> torch.optim.AdamW:
    """AdamW, fused into few kernels where torch has it for the device."""
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


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Give all groups this rate, for the updates to come."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def decides_itself(optimizer: Optimizer) -> bool:
    """Whether an optimizer takes ``found_inf``, and then decides on the device."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return fused or isinstance(optimizer, GuardedMuon)


def step_if_finite(optimizer: Optimizer, checked: Tensor) -> None:
    """Take the optimizer's step where all of ``checked`` is finite; else leave everything be.

    Fused kernels on an accelerator decide it there, and the host does not wait for the answer;
    elsewhere the host reads it.
    """
    parts = optimizer.parts if isinstance(optimizer, MuonWithAdamW) else [optimizer]
    if checked.device.type != "cpu" and all(map(decides_itself, parts)):
        # What torch.amp.GradScaler sets for the same kernels; a step they leave out is not counted.
        found_inf = checked.isfinite().all().logical_not().float()
        for part in parts:
            part.found_inf = found_inf  # type: ignore[union-attr]
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
    norm = together(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def _embeddings(model: nn.Module) -> set[int]:
    """The identities of the embeddings' weights."""
    return {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}


def _split_by_decay(
    model: nn.Module, *, decay_all: bool
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    embeddings = _embeddings(model)
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim > 1 and id(parameter) not in embeddings
        (decayed if decay_all or is_matrix else free).append(parameter)
    return decayed, free
