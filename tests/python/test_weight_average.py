"""The average of the weights: what it is, where it is used, and that it disturbs nothing."""

from pathlib import Path

import pytest
import torch

from lmkit.lm.checkpoint import load_model, read_checkpoint
from lmkit.lm.weight_average import WeightAverage
from tiny_run import assert_same_checkpoints, assert_same_tensors, losses, resume, train

pytestmark = pytest.mark.usefixtures("on_one_thread")


def test_it_follows_the_weights_by_its_decay():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    average = WeightAverage(model, 0.75)
    for value in (2.0, 3.0):
        torch.nn.init.constant_(model.weight, value)
        average.update()
    # 0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 3
    assert average.state_dict()["weight"].item() == pytest.approx(1.6875)
    with average.in_place():
        assert model.weight.item() == pytest.approx(1.6875)
    assert model.weight.item() == 3.0
    average.restart()
    assert average.state_dict()["weight"].item() == 3.0


def test_the_run_evaluates_the_average_and_learns_as_without(
    inputs: dict[str, str], tmp_path: Path
):
    plain, averaged = tmp_path / "plain", tmp_path / "averaged"
    without = train(inputs, plain, max_iters=10)
    with_average = train(inputs, averaged, max_iters=10, ema_decay=0.9)
    assert losses(averaged) == losses(plain)
    val = [[r["val_loss"] for r in run if "val_loss" in r] for run in (without, with_average)]
    assert val[0] != val[1]
    state = read_checkpoint(averaged / "checkpoint_10.pt")
    model, _ = load_model(averaged / "checkpoint_10.pt")
    assert_same_tensors(dict(model.named_parameters()).keys(), state["average"].keys())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, state["average"][name])
        assert not torch.equal(parameter, state["model"][name])


def test_it_resumes_bit_for_bit(inputs: dict[str, str], tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    given = {"ema_decay": 0.9, "tie_embeddings": True}
    train(inputs, one, max_iters=8, **given)
    train(inputs, two, max_iters=5, **given)
    resume(two, max_iters=8)
    assert_same_checkpoints(one / "checkpoint_8.pt", two / "checkpoint_8.pt")
    states = [read_checkpoint(run / "checkpoint_8.pt")["average"] for run in (one, two)]
    assert_same_tensors(*states)
    model, _ = load_model(two)
    assert torch.equal(model.lm_head.weight, states[1]["token_embeddings.weight"])


def test_begun_later_it_begins_with_the_weights_of_then(inputs: dict[str, str], tmp_path: Path):
    run = tmp_path / "run"
    train(inputs, run, max_iters=5)
    resume(run, max_iters=6, ema_decay=0.5)
    before = read_checkpoint(run / "checkpoint_5.pt")["model"]
    after = read_checkpoint(run / "checkpoint_6.pt")
    for name, average in after["average"].items():
        expected = torch.lerp(before[name], after["model"][name], 0.5)
        torch.testing.assert_close(average, expected)
