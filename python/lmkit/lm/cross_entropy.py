"""Hidden states, the head's weight and targets to the mean loss, all logits never held at once.

With a vocabulary of 50,000 the logits, their softmax and its gradient are most of a small model's
memory. The loss needs a few rows of them at a time, and their gradient is known as soon as they
are: so both are made chunk by chunk in the forward pass. The wrong tool where logits are wanted.

Accelerators multiply matrices whose sides are multiples of 64 faster, and few vocabularies are: the
head's weight is padded with rows of zeros for the time of a pass. The parameter never is, nor what
is saved of it, and no padded logit counts in the loss.

Axes: E model width, N tokens, C tokens of one chunk, V vocabulary, P vocabulary with padding.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

# The target of a position that does not count: torch's own choice.
IGNORED = -100
# Below this many logits their memory is no burden. Above it chunks took, in CPU time of one thread
# with AVX-512, 4,096 rows, forward and backward, 0.8 of what whole logits do at 10,000 tokens where
# nothing is compiled; compiled, 1.05 there and 1.1 at 50,000. benches/python/train_head.py tells.
CHUNKED_FROM_LOGITS = 1 << 24
# Logits of one chunk: 64 MiB in float32. At 50,000 tokens 2^23 took a tenth longer, as each chunk
# goes over the weight's whole gradient; 2^25 and 2^26 were no faster.
CHUNK_LOGITS = 1 << 24
# Accelerators want taller matrix products than cores do,
ACCELERATOR_CHUNK_LOGITS = 1 << 26
# with sides of whole tiles.
ACCELERATOR_TILE = 64


def head_cross_entropy(
    hidden: Tensor, weight_VE: Tensor, targets: Tensor, *, z_loss: float = 0.0
) -> Tensor:
    """Return the mean loss, in nats and float32, of ``hidden @ weight.T`` against ``targets``.

    ``hidden`` is (..., E), ``targets`` (...). The gradient, not the value, also has ``z_loss``
    times the mean squared logarithm of the softmax's normalisers, which keeps logits from drifting.
    Positions whose target is `IGNORED` count in neither.
    """
    hidden_NE, targets_N = hidden.flatten(0, -2), targets.flatten()
    if targets_N.numel() * weight_VE.shape[0] < CHUNKED_FROM_LOGITS:
        logits_NV = functional.linear(hidden_NE, weight_VE).float()
        loss = functional.cross_entropy(logits_NV, targets_N)
        if z_loss:
            squares_N = torch.where(targets_N == IGNORED, 0.0, logits_NV.logsumexp(-1).square())
            pull = z_loss * squares_N.sum() / _counted(targets_N)
            loss = loss + (pull - pull.detach())
        return loss
    return chunked_cross_entropy(hidden_NE, weight_VE, targets_N, z_loss=z_loss)


def _counted(targets_N: Tensor) -> Tensor:
    """How many targets count; 1 where none does, so that a mean over them is 0."""
    return (targets_N != IGNORED).sum().clamp(min=1)


def logits_held(tokens: int, vocab_size: int, device_type: str) -> int:
    """How many logits, with those of their copies and gradients, are in memory at once."""
    if tokens * vocab_size < CHUNKED_FROM_LOGITS:
        return 3 * tokens * vocab_size
    return min(tokens * vocab_size, _chunk_logits(device_type))


def _chunk_logits(device_type: str) -> int:
    return CHUNK_LOGITS if device_type == "cpu" else ACCELERATOR_CHUNK_LOGITS


def chunked_cross_entropy(
    hidden_NE: Tensor,
    weight_VE: Tensor,
    targets_N: Tensor,
    chunk_logits: int | None = None,
    *,
    z_loss: float = 0.0,
    tile: int | None = None,
) -> Tensor:
    """Do as `head_cross_entropy` with at most ``chunk_logits`` logits, or one row, at a time.

    The vocabulary is padded to a multiple of ``tile``, and chunks have a multiple of it in rows
    where they have as many; 1 leaves both be. What is not given is what suits the device.
    """
    device = hidden_NE.device.type
    if chunk_logits is None:
        chunk_logits = _chunk_logits(device)
    if tile is None:
        tile = 1 if device == "cpu" else ACCELERATOR_TILE
    dtype = (
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_NE.dtype
    )
    vocab_size = weight_VE.shape[0]
    rows = max(1, chunk_logits // vocab_size)
    rows -= rows % tile if rows > tile else 0
    hidden_NE, weight_PE = hidden_NE.to(dtype), weight_VE.to(dtype)
    if vocab_size % tile:
        weight_PE = functional.pad(weight_PE, (0, 0, 0, -vocab_size % tile))
    if torch.is_grad_enabled() and (hidden_NE.requires_grad or weight_VE.requires_grad):
        loss: Any = _ChunkedLoss.apply(hidden_NE, weight_PE, targets_N, vocab_size, rows, z_loss)
        return cast("Tensor", loss)
    return _loss_alone(hidden_NE, weight_PE, targets_N, vocab_size, rows)


def _loss_alone(
    hidden_NE: Tensor, weight_PE: Tensor, targets_N: Tensor, vocab_size: int, rows: int
) -> Tensor:
    total = torch.zeros((), device=hidden_NE.device)
    for hidden_CE, targets_C in zip(
        torch.split(hidden_NE, rows), torch.split(targets_N, rows), strict=True
    ):
        logits_CV = (hidden_CE @ weight_PE.T)[:, :vocab_size].float()
        total += functional.cross_entropy(logits_CV, targets_C, reduction="sum")
    return total / _counted(targets_N)


class _ChunkedLoss(torch.autograd.Function):
    """The loss with its gradients made beside it; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's context has no public type
        hidden_NE: Tensor,
        weight_PE: Tensor,
        targets_N: Tensor,
        vocab_size: int,
        rows: int,
        z_loss: float,
    ) -> Tensor:
        total, counted = torch.zeros((), device=hidden_NE.device), _counted(targets_N)
        hidden_gradient_NE = torch.empty_like(hidden_NE)
        weight_gradient_PE = torch.zeros_like(weight_PE, dtype=torch.float32)
        chunks = zip(
            torch.split(hidden_NE, rows),
            torch.split(targets_N, rows),
            torch.split(hidden_gradient_NE, rows),
            strict=True,
        )
        for hidden_CE, targets_C, hidden_gradient_CE in chunks:
            logits_CP = (hidden_CE @ weight_PE.T).float()
            normaliser_C1 = logits_CP[:, :vocab_size].logsumexp(-1, keepdim=True)
            ignored_C1 = (targets_C == IGNORED).unsqueeze(-1)
            targets_C1 = targets_C.unsqueeze(-1).clamp(min=0)
            losses_C1 = normaliser_C1 - logits_CP.gather(-1, targets_C1)
            total += torch.where(ignored_C1, 0.0, losses_C1).sum()
            # The gradient of the mean loss: (softmax - one at the target) / how many count.
            gradient_CP = logits_CP.sub_(normaliser_C1).exp_()
            gradient_CP[:, vocab_size:] = 0.0
            if z_loss:  # d(z * n^2) = 2 z n dn, and dn is the softmax
                gradient_CP.mul_(1 + 2 * z_loss * normaliser_C1)
            # Not scatter_add_, which has no deterministic kernel on every device; a row has one
            # target, so that nothing can meet.
            gradient_CP.scatter_(-1, targets_C1, gradient_CP.gather(-1, targets_C1) - 1.0)
            divisor_C1 = torch.where(ignored_C1, math.inf, counted.float())
            gradient_CP = gradient_CP.div_(divisor_C1).to(weight_PE.dtype)
            torch.mm(gradient_CP, weight_PE, out=hidden_gradient_CE)
            if weight_PE.dtype == torch.float32:
                weight_gradient_PE.addmm_(gradient_CP.T, hidden_CE)
            else:
                weight_gradient_PE += gradient_CP.T @ hidden_CE
        ctx.save_for_backward(hidden_gradient_NE, weight_gradient_PE.to(weight_PE.dtype))
        return total / counted

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 - torch's context has no public type
        loss_gradient: Tensor,
    ) -> tuple[Tensor, Tensor, None, None, None, None]:
        hidden_gradient_NE, weight_gradient_PE = (
            gradient * loss_gradient for gradient in ctx.saved_tensors
        )
        return hidden_gradient_NE, weight_gradient_PE, None, None, None, None
