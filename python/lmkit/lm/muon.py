"""torch's Muon, with its matrix products in float32 for CPUs that have no bfloat16 units.

torch orthogonalises in bfloat16 whatever the device. On a CPU that emulates it a step of the small
preset then takes seconds, several times its forward and backward passes. This is the same update
with the same state, so that a checkpoint of either goes on with the other. The two learn alike:
over 100 steps of a small model their losses stay within 0.0002 of each other (three seeds), because
the iteration brings singular values only near 1, by more than bfloat16 rounds.

Axes: M rows, N columns, M at most N.
"""

import math
from typing import Any

import torch
from torch import Tensor

from lmkit.lm.device import cpu_has_bfloat16
from lmkit.lm.sharding import own_part, rows_of, together

RMS_OF_ADAMW = 0.2  # what torch's "match_rms_adamw" takes


class Float32Muon(torch.optim.Muon):
    """Muon with ``adjust_lr_fn="match_rms_adamw"``, computed in the parameters' own precision."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ANN401, ARG002 - torch's signature
        """Take a step; a closure is not called."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, momentum = parameter.grad, group["momentum"]
        if gradient is None:
            return
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer: Tensor = state["momentum_buffer"]
        buffer.lerp_(gradient, 1 - momentum)
        update = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
        update = self._direction(update, group)
        rate = group["lr"] * RMS_OF_ADAMW * math.sqrt(max(parameter.shape))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        own_part(parameter).add_(update, alpha=-rate)

    def _direction(self, update: Tensor, group: dict[str, Any]) -> Tensor:
        """What to add to the rows of the parameter that this process holds."""
        return orthogonalised(update, group["ns_coefficients"], group["ns_steps"], group["eps"])


class GuardedMuon(Float32Muon):
    """The same on an accelerator, in bfloat16 as torch's, which can leave a step out by itself.

    Attributes:
        found_inf: a number on the device, as torch's fused optimizers take it; where it is not 0 a
            step changes nothing, and the host need not wait to know.
    """

    found_inf: Tensor | None = None

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        before = [one.clone() for one in (parameter, buffer)]
        super()._update(parameter, group)
        if self.found_inf is not None:
            for now, then in zip((parameter, buffer), before, strict=True):
                now.copy_(torch.where(self.found_inf > 0, then, now))

    def _direction(self, update: Tensor, group: dict[str, Any]) -> Tensor:
        """See `Float32Muon`."""
        return super()._direction(update.to(torch.bfloat16), group)


class MuonOfRows(Float32Muon):
    """The same where each process holds some rows of each matrix.

    A matrix can only be orthogonalised as a whole, so its update is brought together, and each
    process does the same work and keeps its own rows: no share of it gets less with more processes.
    Products are of bfloat16, as torch's are, unless a CPU would have to emulate it.
    """

    def _direction(self, update: Tensor, group: dict[str, Any]) -> Tensor:
        """See `Float32Muon`."""
        emulated = update.device.type == "cpu" and not cpu_has_bfloat16()
        whole = together(update).to(torch.float32 if emulated else torch.bfloat16)
        return rows_of(super()._direction(whole, group), update).to(update.dtype)


def orthogonalised(
    matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """A matrix of the same singular vectors, its singular values near 1 (Newton-Schulz)."""
    a, b, c = coefficients
    is_tall = matrix.shape[0] > matrix.shape[1]
    x_MN = matrix.T if is_tall else matrix
    x_MN = x_MN / x_MN.norm().clamp(min=eps)
    for _ in range(steps):
        gram_MM = x_MN @ x_MN.T
        x_MN = torch.addmm(
            x_MN, torch.addmm(gram_MM, gram_MM, gram_MM, beta=b, alpha=c), x_MN, beta=a
        )
    return x_MN.T if is_tall else x_MN
