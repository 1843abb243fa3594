"""The building blocks fit the adapters of Stanford's CS336, assignment 1, in one line each.

The first half is what a student writes into the course's ``adapters.py``; the second half checks
each adapter against the plain definition, written out here in NumPy or a few lines of torch.
"""

import io
import math

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn import functional

from lmkit.lm.batches import sample_batch
from lmkit.lm.checkpoint import load_checkpoint, save_checkpoint
from lmkit.lm.model import Attention, Block, RMSNorm, RotaryEmbedding, SwiGLU, Transformer
from lmkit.lm.optimizer import clip_gradients
from lmkit.lm.schedule import cosine
from lmkit.model_config import ModelConfig

# --- the adapters -------------------------------------------------------------------------------


def run_linear(d_in, d_out, weights, in_features):
    return functional_call(
        torch.nn.Linear(d_in, d_out, bias=False), {"weight": weights}, in_features
    )


def run_embedding(vocab_size, d_model, weights, token_ids):
    return functional_call(torch.nn.Embedding(vocab_size, d_model), {"weight": weights}, token_ids)


def run_swiglu(d_model, d_ff, w1_weight, w2_weight, w3_weight, in_features):
    weights = {"w1.weight": w1_weight, "w2.weight": w2_weight, "w3.weight": w3_weight}
    return functional_call(SwiGLU(d_model, d_ff), weights, in_features)


def run_scaled_dot_product_attention(q, k, v, mask=None):
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attention_weights(q, k, v, o):
    return {
        "q_proj.weight": q,
        "k_proj.weight": k,
        "v_proj.weight": v,
        "output_proj.weight": o,
    }


def run_multihead_self_attention(d_model, num_heads, q, k, v, o, in_features):
    return functional_call(
        Attention(d_model, num_heads), attention_weights(q, k, v, o), in_features
    )


def run_multihead_self_attention_with_rope(
    d_model, num_heads, max_seq_len, theta, q, k, v, o, in_features, token_positions=None
):
    attention = Attention(
        d_model, num_heads, RotaryEmbedding(d_model // num_heads, max_seq_len, theta)
    )
    return functional_call(attention, attention_weights(q, k, v, o), (in_features, token_positions))


def run_rope(d_k, theta, max_seq_len, in_query_or_key, token_positions):
    return RotaryEmbedding(d_k, max_seq_len, theta)(in_query_or_key, token_positions)


def run_transformer_block(d_model, num_heads, d_ff, max_seq_len, theta, weights, in_features):
    rope = RotaryEmbedding(d_model // num_heads, max_seq_len, theta)
    return functional_call(Block(d_model, num_heads, d_ff, rope), weights, in_features)


def run_transformer_lm(
    vocab_size, context_length, d_model, num_layers, num_heads, d_ff, rope_theta, weights, indices
):
    config = ModelConfig(
        vocab_size, d_model, num_layers, num_heads, context_length, rope_theta, d_ff
    )
    return functional_call(Transformer(config), weights, indices)


def run_rmsnorm(d_model, eps, weights, in_features):
    return functional_call(RMSNorm(d_model, eps), {"weight": weights}, in_features)


def run_silu(in_features):
    return functional.silu(in_features)


def run_get_batch(dataset, batch_size, context_length, device):
    return sample_batch(dataset, batch_size, context_length, device)


def run_softmax(in_features, dim):
    return functional.softmax(in_features, dim)


def run_cross_entropy(inputs, targets):
    return functional.cross_entropy(inputs, targets)


def run_gradient_clipping(parameters, max_l2_norm):
    clip_gradients(parameters, max_l2_norm)


def get_adamw_cls():
    return torch.optim.AdamW


def run_get_lr_cosine_schedule(
    it, max_learning_rate, min_learning_rate, warmup_iters, cosine_cycle_iters
):
    return cosine(it, max_learning_rate, min_learning_rate, warmup_iters, cosine_cycle_iters)


def run_save_checkpoint(model, optimizer, iteration, out):
    save_checkpoint(model, optimizer, iteration, out)


def run_load_checkpoint(src, model, optimizer):
    return load_checkpoint(src, model, optimizer)


# --- plain definitions --------------------------------------------------------------------------

B, T, E, H, F, V, LAYERS, MAX_T, THETA = 2, 7, 16, 4, 24, 33, 3, 12, 10_000.0


def tensor(*shape, seed=0):
    values = np.random.default_rng([seed, *shape]).normal(size=shape)
    return torch.tensor(values, dtype=torch.float32)


def close(got, expected, atol=1e-5):
    np.testing.assert_allclose(got.detach().numpy(), expected, atol=atol, rtol=1e-4)


def softmax(x, axis=-1):
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def norm(x, weight, eps=1e-5):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def swiglu(x, w1, w2, w3):
    gate = x @ w1.T
    return (gate * sigmoid(gate) * (x @ w3.T)) @ w2.T


def rope(x, positions, theta=THETA):
    """Each pair as a complex number, turned."""
    width = x.shape[-1]
    angles = np.asarray(positions)[..., None] * theta ** (-np.arange(0, width, 2) / width)
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    out = np.empty_like(x)
    out[..., 0::2], out[..., 1::2] = turned.real, turned.imag
    return out


def attend(q, k, v, mask):
    scores = np.where(mask, q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1]), -np.inf)
    return softmax(scores) @ v


def attention(x, q, k, v, o, heads, positions=None):
    """One row and one head at a time."""
    width = x.shape[-1] // heads
    out = np.empty_like(x)
    for row in range(x.shape[0]):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            queries, keys, values = (x[row] @ w[part].T for w in (q, k, v))
            if positions is not None:
                queries, keys = rope(queries, positions), rope(keys, positions)
            causal = np.tril(np.ones((x.shape[1], x.shape[1]), dtype=bool))
            out[row, :, part] = attend(queries, keys, values, causal)
    return out @ o.T


def block(x, w):
    names = ("q_proj", "k_proj", "v_proj", "output_proj")
    projections = [w[f"attn.{name}.weight"] for name in names]
    x = x + attention(norm(x, w["ln1.weight"]), *projections, H, np.arange(x.shape[1]))
    matrices = [w[f"ffn.{name}.weight"] for name in ("w1", "w2", "w3")]
    return x + swiglu(norm(x, w["ln2.weight"]), *matrices)


def block_weights(seed=0):
    shapes = {f"attn.{name}_proj": (E, E) for name in ("q", "k", "v", "output")}
    shapes |= {"ln1": (E,), "ln2": (E,), "ffn.w1": (F, E), "ffn.w2": (E, F), "ffn.w3": (F, E)}
    return {
        f"{name}.weight": tensor(*shape, seed=seed * 100 + number) * 0.3
        for number, (name, shape) in enumerate(shapes.items())
    }


def model_weights():
    weights = {
        "token_embeddings.weight": tensor(V, E),
        "ln_final.weight": tensor(E, seed=1),
        "lm_head.weight": tensor(V, E, seed=2),
    }
    for layer in range(LAYERS):
        weights |= {f"layers.{layer}.{n}": w for n, w in block_weights(layer + 1).items()}
    return weights


def as_numpy(weights):
    return {name: weight.double().numpy() for name, weight in weights.items()}


# --- the checks ---------------------------------------------------------------------------------


def test_linear_and_embedding():
    w, x = tensor(F, E), tensor(B, T, E)
    close(run_linear(E, F, w, x), x.numpy() @ w.numpy().T)
    ids = torch.tensor([[3, 0], [32, 3]])
    close(run_embedding(V, E, tensor(V, E), ids), tensor(V, E).numpy()[ids.numpy()])


def test_swiglu_and_silu():
    x, w1, w2, w3 = tensor(B, T, E), tensor(F, E), tensor(E, F), tensor(F, E, seed=1)
    expected = swiglu(*(part.double().numpy() for part in (x, w1, w2, w3)))
    close(run_swiglu(E, F, w1, w2, w3, x), expected, atol=1e-4)
    close(run_silu(x), x.numpy() * sigmoid(x.numpy()))


@pytest.mark.parametrize("leading", [(), (B,), (B, H)])
def test_scaled_dot_product_attention(leading):
    q, k, v = tensor(*leading, T, 8), tensor(*leading, 5, 8), tensor(*leading, 5, 8, seed=1)
    mask = torch.tensor(np.random.default_rng(0).random((*leading, T, 5)) < 0.7)
    mask[..., 0] = True
    got = run_scaled_dot_product_attention(q, k, v, mask)
    close(got, attend(q.numpy(), k.numpy(), v.numpy(), mask.numpy()))


def test_multihead_self_attention_without_and_with_positions():
    x, weights = tensor(B, T, E), [tensor(E, E, seed=s) * 0.5 for s in range(4)]
    plain = [w.numpy() for w in weights]
    close(
        run_multihead_self_attention(E, H, *weights, x), attention(x.numpy(), *plain, H), atol=1e-4
    )
    positions = torch.tensor([4, 5, 6, 8, 9, 10, 11])
    expected = attention(x.numpy(), *plain, H, positions.numpy())
    for given in (positions, positions[None], positions.expand(B, T)):
        got = run_multihead_self_attention_with_rope(E, H, MAX_T, THETA, *weights, x, given)
        close(got, expected, atol=1e-4)
    got = run_multihead_self_attention_with_rope(E, H, MAX_T, THETA, *weights, x)
    close(got, attention(x.numpy(), *plain, H, np.arange(T)), atol=1e-4)


def test_rope():
    x, positions = tensor(B, T, 8), torch.arange(T)
    close(run_rope(8, THETA, MAX_T, x, positions), rope(x.numpy(), positions.numpy()))
    by_row = torch.stack([positions, positions + 4])
    close(run_rope(8, THETA, MAX_T, x, by_row), rope(x.numpy(), by_row.numpy()))


def test_rmsnorm():
    x, w = tensor(B, T, E), tensor(E)
    for eps in (1e-5, 0.1):
        close(run_rmsnorm(E, eps, w, x), norm(x.numpy(), w.numpy(), eps))


def test_transformer_block():
    x, weights = tensor(B, T, E), block_weights()
    got = run_transformer_block(E, H, F, MAX_T, THETA, weights, x)
    close(got, block(x.double().numpy(), as_numpy(weights)), atol=1e-4)


@pytest.mark.parametrize("length", [1, T, MAX_T])
def test_transformer_lm(length):
    weights = model_weights()
    ids = torch.tensor(np.random.default_rng(0).integers(0, V, (B, length)))
    got = run_transformer_lm(V, MAX_T, E, LAYERS, H, F, THETA, weights, ids)
    plain = as_numpy(weights)
    x = plain["token_embeddings.weight"][ids.numpy()]
    for layer in range(LAYERS):
        prefix = f"layers.{layer}."
        x = block(x, {n[len(prefix) :]: w for n, w in plain.items() if n.startswith(prefix)})
    expected = norm(x, plain["ln_final.weight"]) @ plain["lm_head.weight"].T
    close(got, expected, atol=1e-3)
    model = Transformer(ModelConfig(V, E, LAYERS, H, MAX_T, THETA, F))
    assert not any(model.load_state_dict(weights))  # nothing missing, nothing unexpected


def test_get_batch():
    dataset = np.arange(100)
    starts = []
    for _ in range(200):
        inputs, targets = run_get_batch(dataset, 32, 7, "cpu")
        assert inputs.shape == targets.shape == (32, 7)
        assert torch.equal(targets, inputs + 1)
        starts += inputs[:, 0].tolist()
    counts = np.bincount(starts)
    assert len(counts) == 93
    assert abs(counts - 6400 / 93).max() < 5 * math.sqrt(6400 / 93)
    if not torch.cuda.is_available():
        with pytest.raises((RuntimeError, AssertionError), match=r"CUDA|NVIDIA"):
            run_get_batch(dataset, 32, 7, "cuda:99")


def test_softmax_and_cross_entropy():
    x = tensor(8, V)
    targets = torch.arange(8)
    for shift in (0.0, 100.0):
        close(run_softmax(x + shift, dim=-1), softmax(x.numpy()))
    expected = -np.log(softmax(x.double().numpy())[np.arange(8), targets.numpy()]).mean()
    assert run_cross_entropy(x, targets).item() == pytest.approx(expected, rel=1e-5)
    assert run_cross_entropy(1000 * x, targets).isfinite()


def test_gradient_clipping():
    parameters = [torch.nn.Parameter(tensor(5, 5, seed=s)) for s in range(4)]
    parameters[-1].requires_grad_(False)
    sum((p**2).sum() for p in parameters[:-1]).backward()
    before = [p.grad.clone() for p in parameters[:-1]]
    total = math.sqrt(sum(float((gradient**2).sum()) for gradient in before))
    run_gradient_clipping(parameters, 0.01)
    for parameter, gradient in zip(parameters, before, strict=False):
        close(parameter.grad, gradient.numpy() * 0.01 / (total + 1e-6), atol=1e-8)


def test_adamw():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2, bias=False)
    optimizer = get_adamw_cls()(
        model.parameters(), lr=1e-3, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8
    )
    weight = model.weight.detach().double().numpy().copy()
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step in range(1, 30):
        x = tensor(4, 3, seed=step)
        optimizer.zero_grad()
        (model(x) ** 2).sum().backward()
        gradient = model.weight.grad.double().numpy()
        optimizer.step()
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        rate = 1e-3 * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        weight = weight * (1 - 1e-3 * 0.01)
        weight -= rate * first / (np.sqrt(second) + 1e-8)
    close(model.weight, weight, atol=1e-5)


def test_cosine_schedule():
    got = [run_get_lr_cosine_schedule(it, 1.0, 0.1, 7, 21) for it in range(25)]
    rise = [it / 7 for it in range(7)]
    fall = [0.1 + 0.45 * (1 + math.cos(math.pi * (it - 7) / 14)) for it in range(7, 22)]
    assert got == pytest.approx(rise + fall + [0.1] * 3)


@pytest.mark.parametrize("to", ["path", "file"])
def test_checkpoint_round_trip(to, tmp_path):
    def fresh():
        net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        return net, get_adamw_cls()(net.parameters(), lr=1e-2)

    def advance(net, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            (net(tensor(6, 4, seed=step)) ** 2).mean().backward()
            optimizer.step()

    net, optimizer = fresh()
    advance(net, optimizer, range(5))
    out = tmp_path / "checkpoint.pt" if to == "path" else io.BytesIO()
    run_save_checkpoint(net, optimizer, 5, out)
    advance(net, optimizer, range(5, 8))
    if to == "file":
        out.seek(0)
    again, its_optimizer = fresh()
    assert run_load_checkpoint(out, again, its_optimizer) == 5
    advance(again, its_optimizer, range(5, 8))
    for one, other in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
