"""AdamW's groups, its update, and clipping."""

import numpy as np
import pytest
import torch

from lmkit.config import TrainConfig
from lmkit.lm import optimizer as optimizer_module
from lmkit.lm.model import Transformer
from lmkit.lm.muon import Float32Muon, GuardedMuon, orthogonalised
from lmkit.lm.optimizer import (
    MuonWithAdamW,
    clip_gradients,
    make_optimizer,
    set_learning_rate,
    step_if_finite,
)
from lmkit.model_config import ModelConfig

TINY = ModelConfig(vocab_size=11, d_model=8, n_layers=1, n_heads=2, max_seq_len=16, d_ff=12)


def names_by_decay(config: TrainConfig) -> dict[float, set[str]]:
    model = Transformer(TINY)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = make_optimizer(model, config).param_groups
    return {group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in groups}


def test_norms_and_embeddings_do_not_decay():
    groups = names_by_decay(TrainConfig(model=TINY, weight_decay=0.1, context_length=8))
    assert groups[0.0] == {
        "token_embeddings.weight",
        "layers.0.ln1.weight",
        "layers.0.ln2.weight",
        "ln_final.weight",
    }
    assert "lm_head.weight" in groups[0.1]
    assert "layers.0.attn.q_proj.weight" in groups[0.1]


def test_all_decay_when_asked():
    groups = names_by_decay(
        TrainConfig(model=TINY, weight_decay=0.1, context_length=8, decay_all=True)
    )
    assert set(groups) == {0.1}
    assert len(groups[0.1]) == len(list(Transformer(TINY).parameters()))


def test_an_update_is_adamws():
    layer = torch.nn.Linear(3, 2, bias=False)
    weight = layer.weight.detach().double().numpy().copy()
    optimizer = make_optimizer(layer, TrainConfig(weight_decay=0.1, beta1=0.8, beta2=0.9))
    set_learning_rate(optimizer, 0.05)
    first, second = np.zeros((2, 3)), np.zeros((2, 3))
    for step in range(1, 6):
        gradient = np.random.default_rng(step).normal(size=(2, 3))
        layer.weight.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
        first = 0.8 * first + 0.2 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        weight *= 1 - 0.05 * 0.1
        weight -= 0.05 * (first / (1 - 0.8**step)) / (np.sqrt(second / (1 - 0.9**step)) + 1e-8)
    np.testing.assert_allclose(layer.weight.detach(), weight, rtol=1e-5)


@pytest.mark.parametrize("limit", [None, 1.0, 1e6])
def test_clipping_returns_the_norm_before_and_keeps_directions(limit):
    parameters = [torch.nn.Parameter(torch.ones(4, 5)) for _ in range(3)]
    for seed, parameter in enumerate(parameters[:2]):  # the third has no gradient
        parameter.grad = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))
    before = torch.cat([parameter.grad.flatten() for parameter in parameters[:2]])
    norm = clip_gradients(iter(parameters), limit)
    after = torch.cat([parameter.grad.flatten() for parameter in parameters[:2]])
    torch.testing.assert_close(norm, before.norm())
    scale = 1.0 if limit is None else min(1.0, limit / (before.norm().item() + 1e-6))
    torch.testing.assert_close(after, before * scale)


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest(monkeypatch):
    monkeypatch.setattr(optimizer_module, "cpu_has_bfloat16", lambda: True)  # so torch's own
    config = TrainConfig(model=TINY, context_length=8, optimizer="muon", learning_rate=0.01)
    model = Transformer(TINY, torch.Generator().manual_seed(0))
    twin = Transformer(TINY, torch.Generator().manual_seed(0))
    optimizer = make_optimizer(model, config)
    matrices = {name for name, p in model.named_parameters() if "layers" in name and p.ndim == 2}
    named = dict(twin.named_parameters())
    muon = torch.optim.Muon(
        [named[name] for name in named if name in matrices],
        lr=0.01,
        weight_decay=0.01,
        adjust_lr_fn="match_rms_adamw",
    )
    others = [p for name, p in named.items() if name not in matrices]
    decay = {"lm_head.weight"}
    adamw = torch.optim.AdamW(
        [
            {"params": [named["lm_head.weight"]], "weight_decay": 0.01},
            {"params": [p for n, p in named.items() if n not in matrices | decay]},
        ],
        lr=0.01,
        weight_decay=0.0,
        fused=True,
    )
    assert len(others) == 5
    ids = torch.arange(9).reshape(1, 9)
    for _ in range(3):
        for one in (model, twin):
            one.zero_grad()
            one(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
        muon.step()
        adamw.step()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_the_rate_reaches_both_and_foreign_states_are_refused():
    config = TrainConfig(model=TINY, context_length=8, optimizer="muon")
    optimizer = make_optimizer(Transformer(TINY), config)
    set_learning_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}
    optimizer.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="not of Muon with AdamW"):
        optimizer.load_state_dict({"state": {}, "param_groups": []})


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)])
def test_muon_in_float32_is_torchs_own_but_for_its_rounding(shape):
    """And their states fit each other."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    settings = {"lr": 0.1, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    one, other = Float32Muon([ours], **settings), torch.optim.Muon([theirs], **settings)
    for _ in range(4):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    moved = (theirs.detach() - start).norm()
    assert (ours.detach() - theirs.detach()).norm() < 0.02 * moved
    other.load_state_dict(one.state_dict())
    one.load_state_dict(other.state_dict())
    assert torch.equal(one.state[ours]["momentum_buffer"], other.state[theirs]["momentum_buffer"])


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)])
def test_muon_for_accelerators_is_torchs_own_and_leaves_a_bad_step_out(shape):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    settings = {"lr": 0.1, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    one, other = GuardedMuon([ours], **settings), torch.optim.Muon([theirs], **settings)
    for step in range(5):
        gradient = torch.randn(shape, generator=generator)
        one.found_inf = torch.tensor(float(step % 2))
        ours.grad = torch.full(shape, float("nan")) if step % 2 else gradient
        one.step()
        if step % 2 == 0:
            theirs.grad = gradient
            other.step()
        assert torch.equal(ours, theirs), step
    buffers = [one.state[ours]["momentum_buffer"], other.state[theirs]["momentum_buffer"]]
    assert torch.equal(*buffers)
    other.load_state_dict(one.state_dict())


def test_on_an_accelerator_both_optimizers_decide_there(monkeypatch):
    """What the host is told on the meta device it cannot read: that would be an error."""
    config = TrainConfig(model=TINY, context_length=8, optimizer="muon")
    with torch.device("meta"):
        optimizer = make_optimizer(Transformer(TINY), config)
    assert isinstance(optimizer, MuonWithAdamW)
    assert type(optimizer.parts[0]) is GuardedMuon
    taken: list[str] = []
    monkeypatch.setattr(MuonWithAdamW, "step", lambda _: taken.append("step"))
    for group in optimizer.parts[1].param_groups:
        group["fused"] = True
    step_if_finite(optimizer, torch.zeros(2, device="meta"))
    assert taken == ["step"]
    assert all(part.found_inf.device.type == "meta" for part in optimizer.parts)


def test_orthogonalised_has_singular_values_near_one():
    matrix = torch.randn(12, 30, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrix, (3.4445, -4.775, 2.0315), 5, 1e-7))
    assert 0.6 < values.min() <= values.max() < 1.3


def test_a_cpu_that_emulates_bfloat16_is_spared_it(monkeypatch):
    config = TrainConfig(model=TINY, context_length=8, optimizer="muon")
    for units, kind in ((False, Float32Muon), (True, torch.optim.Muon)):
        monkeypatch.setattr(optimizer_module, "cpu_has_bfloat16", lambda units=units: units)
        assert type(make_optimizer(Transformer(TINY), config)._both["muon"]) is kind
