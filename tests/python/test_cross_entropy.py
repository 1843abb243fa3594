"""The loss in chunks equals the loss of whole logits, and so do its gradients."""

import pytest
import torch
from torch.nn import functional

from lmkit.lm import cross_entropy
from lmkit.lm.cross_entropy import chunked_cross_entropy, head_cross_entropy


def inputs(n: int = 37, width: int = 16, vocab: int = 101, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, width, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(vocab, width, generator=generator, dtype=dtype).requires_grad_()
    return hidden, weight, torch.randint(vocab, (n,), generator=generator)


@pytest.mark.parametrize("rows", [1, 7, 36, 37, 1000])
def test_equals_the_plain_loss_and_gradients(rows):
    hidden, weight, targets = inputs(dtype=torch.float32)
    plain = functional.cross_entropy(hidden @ weight.T, targets)
    expected = torch.autograd.grad(plain * 3, (hidden, weight))
    chunked = chunked_cross_entropy(hidden, weight, targets, chunk_logits=rows * 101)
    got = torch.autograd.grad(chunked * 3, (hidden, weight))
    torch.testing.assert_close(chunked, plain)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(chunked_cross_entropy(hidden, weight, targets, 505), plain)


@pytest.mark.parametrize("tile", [1, 8, 64])
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_padded_vocabulary_is_the_same_loss_with_gradients_of_its_own_size(tile, z_loss, dtype):
    """Logits far below 0 let a padded one, which is 0, dominate any sum that takes it in."""
    hidden, weight, targets = inputs(dtype=torch.float32)
    hidden, weight = (one.detach().abs() for one in (hidden, weight))
    hidden, weight = hidden.to(dtype).requires_grad_(), (-weight).to(dtype).requires_grad_()
    exact = hidden.float() @ weight.float().T
    plain = functional.cross_entropy(exact, targets)
    pull = z_loss * exact.logsumexp(-1).square().mean()
    expected = torch.autograd.grad(plain + pull, (hidden, weight))
    loss = chunked_cross_entropy(hidden, weight, targets, 12 * 101, z_loss=z_loss, tile=tile)
    got = torch.autograd.grad(loss, (hidden, weight))
    close = {"atol": 1e-6, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.02, "rtol": 0.05}
    torch.testing.assert_close(loss, plain, atol=close["atol"], rtol=close["rtol"])
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, **close)
    with torch.no_grad():
        alone = chunked_cross_entropy(hidden, weight, targets, 12 * 101, tile=tile)
    torch.testing.assert_close(alone, loss.detach(), atol=close["atol"], rtol=close["rtol"])


def test_only_one_side_may_need_a_gradient():
    hidden, weight, targets = inputs(dtype=torch.float32)
    chunked_cross_entropy(hidden.detach(), weight, targets, 505).backward()
    assert hidden.grad is None
    assert weight.grad is not None


def test_extreme_logits_stay_finite():
    hidden, weight, targets = inputs(dtype=torch.float32)
    loss = chunked_cross_entropy(hidden * 1e4, weight, targets, 505)
    loss.backward()
    assert loss.isfinite()
    assert weight.grad.isfinite().all()


def test_under_autocast_it_is_as_exact_as_the_plain_loss():
    hidden, weight, targets = inputs(dtype=torch.float32)
    exact = functional.cross_entropy(hidden @ weight.T, targets)
    (exact_gradient,) = torch.autograd.grad(exact, weight, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunked_cross_entropy(hidden, weight, targets, 505)
    (gradient,) = torch.autograd.grad(loss, weight)
    assert loss.dtype == torch.float32
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(loss, exact, atol=0.05, rtol=0.01)
    torch.testing.assert_close(gradient, exact_gradient, atol=0.01, rtol=0.05)


def test_a_large_vocabulary_takes_the_chunks(monkeypatch):
    hidden, weight, targets = inputs(dtype=torch.float32)
    plain = head_cross_entropy(hidden.view(1, 37, 16), weight, targets.view(1, 37))
    monkeypatch.setattr(cross_entropy, "CHUNKED_FROM_LOGITS", 100)
    chunked = head_cross_entropy(hidden.view(1, 37, 16), weight, targets.view(1, 37))
    assert "Chunked" in type(chunked.grad_fn).__name__
    torch.testing.assert_close(chunked, plain)


@pytest.mark.parametrize("chunked_from", [100, 1 << 24], ids=["chunks", "whole"])
def test_z_loss_is_in_the_gradient_and_not_in_the_value(chunked_from, monkeypatch):
    hidden, weight, targets = inputs(dtype=torch.float32)
    plain = functional.cross_entropy(hidden @ weight.T, targets)
    pull = 0.1 * (hidden @ weight.T).logsumexp(-1).square().mean()
    expected = torch.autograd.grad(plain + pull, (hidden, weight))
    monkeypatch.setattr(cross_entropy, "CHUNKED_FROM_LOGITS", chunked_from)
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", 505)
    loss = head_cross_entropy(hidden, weight, targets, z_loss=0.1)
    torch.testing.assert_close(loss, plain)
    for one, other in zip(torch.autograd.grad(loss, (hidden, weight)), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
