"""The Transformer: shapes, names, causality, positions, the cache, initialisation."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from lmkit.errors import UsageError
from lmkit.lm.model import Attention, RMSNorm, RotaryEmbedding, Transformer
from lmkit.model_config import ModelConfig

SMALL = ModelConfig(
    vocab_size=61, d_model=32, n_layers=3, n_heads=4, max_seq_len=24, rope_theta=10_000.0, d_ff=48
)


def small_model(seed: int = 0) -> Transformer:
    return Transformer(SMALL, torch.Generator().manual_seed(seed))


def some_ids(*shape: int) -> torch.Tensor:
    return torch.randint(SMALL.vocab_size, shape, generator=torch.Generator().manual_seed(1))


def test_logits_are_float32_one_row_a_position():
    logits = small_model()(some_ids(2, 9))
    assert logits.shape == (2, 9, 61)
    assert logits.dtype == torch.float32


def test_parameter_names_are_the_courses():
    expected = {"token_embeddings.weight", "ln_final.weight", "lm_head.weight"}
    for n in range(3):
        parts = ["attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.output_proj", "ln1"]
        parts += ["ffn.w1", "ffn.w2", "ffn.w3", "ln2"]
        expected |= {f"layers.{n}.{part}.weight" for part in parts}
    assert set(small_model().state_dict()) == expected


def test_no_position_sees_a_later_one():
    model, ids = small_model(), some_ids(1, 12)
    changed = ids.clone()
    changed[0, 7:] = (changed[0, 7:] + 1) % 61
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_rotary_positions_turn_adjacent_pairs():
    rope = RotaryEmbedding(d_head=6, max_seq_len=16, theta=100.0)
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([3, 0, 15, 7, 1])
    for row in range(2):
        for place, position in enumerate(positions.tolist()):
            for pair in range(3):
                angle = position * 100.0 ** (-2 * pair / 6)
                a, b = x[row, place, 2 * pair : 2 * pair + 2].tolist()
                turned = [
                    a * math.cos(angle) - b * math.sin(angle),
                    a * math.sin(angle) + b * math.cos(angle),
                ]
                got = rope(x, positions)[row, place, 2 * pair : 2 * pair + 2]
                np.testing.assert_allclose(got.detach(), turned, atol=1e-5)


def test_eager_and_compiled_code_turn_alike(monkeypatch):
    rope, x = RotaryEmbedding(8, 16), torch.randn(2, 3, 5, 8, requires_grad=True)
    positions = torch.arange(4, 9)
    results = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        turned = rope(x, positions)
        results.append((turned, *torch.autograd.grad(turned.square().sum(), x)))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(eager, compiled, atol=1e-6, rtol=1e-6)


def test_each_row_may_have_positions_of_its_own():
    attention = Attention(8, 2, RotaryEmbedding(4, 32))
    x = torch.randn(2, 5, 8)
    positions = torch.tensor([[0, 1, 2, 3, 4], [9, 10, 11, 12, 13]])
    together = attention(x, positions)
    for row in range(2):
        torch.testing.assert_close(together[row], attention(x[row], positions[row]))
    # Only distances matter.
    torch.testing.assert_close(attention(x, positions), attention(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cuts", [[1] * 12, [5] + [1] * 7, [5, 4, 3], [12]])
def test_the_cache_gives_what_full_recomputation_gives(cuts):
    model, ids = small_model(), some_ids(2, 12)
    full = model(ids)
    cache, start = model.new_cache(), 0
    for length in cuts:
        part = model(ids[:, start : start + length], cache=cache)
        torch.testing.assert_close(part, full[:, start : start + length], atol=1e-5, rtol=1e-4)
        start += length
    assert cache[0].length == 12


def test_next_token_logits_are_the_last_rows():
    model, ids = small_model(), some_ids(2, 12)
    cache = model.new_cache()
    torch.testing.assert_close(model.next_token_logits(ids[:, :11], cache), model(ids)[:, 10])
    torch.testing.assert_close(
        model.next_token_logits(ids[:, 11:], cache), model(ids)[:, 11], atol=1e-5, rtol=1e-4
    )


def test_a_sequence_beyond_max_seq_len_is_refused():
    model = small_model()
    with pytest.raises(UsageError, match="a sequence of 25 tokens is longer than max_seq_len 24"):
        model(some_ids(1, 25))
    cache = model.new_cache()
    model(some_ids(1, 20), cache=cache)
    with pytest.raises(UsageError, match="25 tokens"):
        model(some_ids(1, 5), cache=cache)


def test_the_norm_computes_in_float32():
    norm = RMSNorm(64)
    x = torch.randn(3, 64) * 300
    low = norm(x.to(torch.float16))  # squares of 300 overflow float16
    assert low.dtype == torch.float16
    torch.testing.assert_close(low.float(), norm(x), atol=5e-3, rtol=5e-3)


def test_initial_loss_is_that_of_a_uniform_guess():
    loss = small_model()(some_ids(8, 24), some_ids(8, 24))
    assert abs(loss.item() - math.log(61)) < 0.1


def test_what_writes_to_the_stream_starts_smaller():
    state = Transformer(
        ModelConfig(vocab_size=500, d_model=128, n_layers=8, n_heads=4, max_seq_len=8, d_ff=256)
    ).state_dict()
    for name, value in state.items():
        if value.ndim == 1:
            assert (value == 1).all()
            continue
        writes = name.endswith(("output_proj.weight", "w2.weight"))
        assert value.std().item() == pytest.approx(0.02 / (4 if writes else 1), rel=0.05), name


def test_weights_follow_from_the_generator():
    one, same, other = small_model(3), small_model(3), small_model(4)
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_counts_of_the_originals_first_model():
    config = ModelConfig(vocab_size=10_000, d_model=64, n_layers=2, n_heads=4, d_ff=96)
    with torch.device("meta"):
        model = Transformer(config)
    matrices = 2 * (4 * 64 * 64 + 3 * 64 * 96) + 10_000 * 64
    norms = 5 * 64
    assert model.parameter_count() == 10_000 * 64 + matrices + norms
    assert model.flops_per_token(256) == 6 * matrices + 12 * 2 * 64 * 256


def test_a_shape_that_cannot_be_is_refused():
    with pytest.raises(UsageError, match="d_model 10 is not divisible by n_heads 4"):
        Attention(10, 4)
    with pytest.raises(UsageError, match="head width of 5 is odd"):
        RotaryEmbedding(5, 8)


def test_shared_keys_and_values_equal_heads_that_are_copies():
    """Grouped-query attention is attention whose key and value heads repeat."""
    torch.manual_seed(0)
    shared = Attention(32, 4, RotaryEmbedding(8, 24), n_kv_heads=2)
    whole = Attention(32, 4, RotaryEmbedding(8, 24))
    state = shared.state_dict()
    for name in ("k_proj.weight", "v_proj.weight"):
        assert state[name].shape == (16, 32)
        state[name] = state[name].unflatten(0, (2, 8)).repeat_interleave(2, 0).flatten(0, 1)
    whole.load_state_dict(state)
    x = torch.randn(2, 9, 32)
    torch.testing.assert_close(shared(x), whole(x))


def test_normalised_queries_and_keys_do_not_depend_on_their_size():
    torch.manual_seed(0)
    attention = Attention(32, 4, RotaryEmbedding(8, 24), qk_norm=True)
    assert attention.q_norm.weight.shape == (8,)
    x = torch.randn(2, 9, 32)
    before = attention(x)
    with torch.no_grad():
        attention.q_proj.weight.mul_(50)
        attention.k_proj.weight.mul_(7)
    torch.testing.assert_close(attention(x), before, atol=1e-4, rtol=1e-3)


def test_tied_embeddings_are_one_tensor_that_counts_once():
    tied = dataclasses.replace(SMALL, tie_embeddings=True)
    model, untied = Transformer(tied), small_model()
    assert model.lm_head.weight is model.token_embeddings.weight
    assert model.parameter_count() == untied.parameter_count() - 61 * 32
    assert model.flops_per_token(24) == untied.flops_per_token(24)


def test_the_cache_serves_shared_and_normalised_heads_too():
    config = dataclasses.replace(SMALL, n_kv_heads=2, qk_norm=True, tie_embeddings=True)
    model, ids = Transformer(config, torch.Generator().manual_seed(0)), some_ids(2, 9)
    cache = model.new_cache()
    steps = [model.next_token_logits(ids[:, :4], cache)]
    steps += [model.next_token_logits(ids[:, n : n + 1], cache) for n in range(4, 9)]
    torch.testing.assert_close(torch.stack(steps, 1), model(ids)[:, 3:])


def test_heads_that_cannot_be_shared_are_refused():
    with pytest.raises(UsageError, match="--n_heads 4 is not divisible by --n_kv_heads 3"):
        dataclasses.replace(SMALL, n_kv_heads=3)


def test_heads_may_be_wider_than_the_model_divides():
    config = dataclasses.replace(SMALL, n_heads=3, head_dim=16, qk_norm=True)
    model = Transformer(config, torch.Generator().manual_seed(0))
    assert config.d_head == 16
    assert model.layers[0].attn.q_proj.weight.shape == (48, 32)
    assert model.layers[0].attn.output_proj.weight.shape == (32, 48)
    assert model.layers[0].attn.q_norm.weight.shape == (16,)
    assert model(some_ids(2, 9)).shape == (2, 9, 61)
    equal = dataclasses.replace(SMALL, head_dim=8)
    assert torch.equal(
        Transformer(equal, torch.Generator().manual_seed(0))(some_ids(1, 5)),
        small_model()(some_ids(1, 5)),
    )
    with pytest.raises(UsageError, match="--head_dim 7 is odd"):
        dataclasses.replace(SMALL, head_dim=7)


def test_slow_pairs_turn_slower_as_llama_3_has_it():
    config = dataclasses.replace(SMALL, head_dim=64, max_seq_len=2, rope_scaling="8,1,4,8192")
    assert config.scaling.original_max_position_embeddings == 8192
    plain = [10_000.0 ** (-2 * pair / 64) for pair in range(32)]
    expected = []
    for frequency in plain:
        wavelength = 2 * math.pi / frequency
        if wavelength < 8192 / 4:
            expected.append(frequency)
        elif wavelength > 8192 / 1:
            expected.append(frequency / 8)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            expected.append((1 - smooth) * frequency / 8 + smooth * frequency)
    assert len({round(a / b, 6) for a, b in zip(plain, expected, strict=True)}) > 3
    rope = Transformer(config).layers[0].attn.rope
    np.testing.assert_allclose(rope.sin[1], np.sin(expected), rtol=1e-6)
    for bad in ("8,1,4", "8,4,1,8192", "0.5,1,4,8192", "8,1,4,0", "a,b,c,d", "8,1,4,9.5"):
        with pytest.raises(UsageError, match="--rope_scaling"):
            dataclasses.replace(SMALL, rope_scaling=bad)


def test_every_norm_takes_the_epsilon_of_the_config():
    model = Transformer(dataclasses.replace(SMALL, norm_eps=1e-3, qk_norm=True))
    norms = [module.eps for module in model.modules() if isinstance(module, RMSNorm)]
    assert norms == [1e-3] * (4 * 3 + 1)
