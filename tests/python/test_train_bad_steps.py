"""A loss that is no number: its update is skipped and counted, and too many of them end the run."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lmkit.errors import TrainingError
from lmkit.lm.bad_steps import SPIKE_NEEDS, BadSteps, SpikeWatch
from lmkit.lm.checkpoint import checkpoints_in, read_checkpoint
from lmkit.lm.optimizer import step_if_finite
from lmkit.lm.readings import Readings
from lmkit.lm.stepper import Stepper
from lmkit.lm.trainer import Trainer
from lmkit.lm.validation import Validation
from tiny_run import assert_same_checkpoints, losses, records, resume, settings, train

pytestmark = pytest.mark.usefixtures("on_one_thread")

Spoil = Callable[[Callable[[int], bool]], None]


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Spoil:
    """Make the loss of some batches NaN; of whichever the function says so."""

    def spoil(is_bad: Callable[[int], bool]) -> None:
        backward = Stepper.backward

        def spoilt(self: Stepper, batch: int) -> torch.Tensor:
            loss = backward(self, batch)
            return loss * math.nan if is_bad(batch) else loss

        monkeypatch.setattr(Stepper, "backward", spoilt)

    return spoil


def test_a_bad_update_is_skipped_counted_and_told(
    inputs: dict[str, str], tmp_path: Path, spoil: Spoil, capsys: pytest.CaptureFixture[str]
):
    spoil(lambda batch: batch in {3, 4, 6})
    run = tmp_path / "run"
    train(inputs, run, max_iters=8, save_interval=8, log_interval=3)
    printed = capsys.readouterr()
    assert "Iter      3 | Loss: nan | " in printed.out
    assert (
        "note: the loss became nan at iteration 4: its update is skipped, 2 in a row "
        "(--max_bad_steps 5)" in printed.err
    )
    skipped = [record for record in records(run) if "skipped" in record]
    assert [record["iter"] for record in skipped] == [3, 4, 6]
    told = {name: skipped[0][name] for name in ("iter", "lr", "skipped", "tokens")}
    assert told == {"iter": 3, "lr": 0.01, "skipped": "loss became nan", "tokens": 3 * 64}
    assert list(losses(run)) == [1, 2, 5, 7, 8]
    assert all(math.isfinite(loss) for loss in losses(run).values())
    state = read_checkpoint(run / "checkpoint_8.pt")
    assert state["bad_steps"] == {"in_a_row": 0, "skipped": 3}
    assert {int(one["step"]) for one in state["optimizer"]["state"].values()} == {5}


def test_a_run_interrupted_among_bad_steps_goes_on_as_if_it_had_not_been(
    inputs: dict[str, str], tmp_path: Path, spoil: Spoil
):
    spoil(lambda batch: 3 <= batch <= 7)
    straight, run = tmp_path / "straight", tmp_path / "run"
    train(inputs, straight, max_iters=10)
    train(inputs, run, max_iters=5)
    resume(run, max_iters=10)
    assert losses(run) == losses(straight)
    assert_same_checkpoints(run / "checkpoint_10.pt", straight / "checkpoint_10.pt")


def test_too_many_in_a_row_end_the_run_also_over_an_interruption(
    inputs: dict[str, str], tmp_path: Path, spoil: Spoil
):
    spoil(lambda batch: batch >= 3)
    run = tmp_path / "run"
    train(inputs, run, max_iters=5, max_bad_steps=3)
    with pytest.raises(TrainingError) as caught:
        resume(run, max_iters=10)
    assert str(caught.value) == (
        "the loss was not a number at iteration 3, and the 3 updates after it had to be skipped "
        f"too (--max_bad_steps 3); the last checkpoint before it is {run}/checkpoint_5.pt"
    )


def test_none_borne_ends_it_at_the_first(inputs: dict[str, str], tmp_path: Path, spoil: Spoil):
    spoil(lambda batch: batch == 3)
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match="the loss became nan at iteration 3; no checkpoint"):
        train(inputs, run, max_iters=5, max_bad_steps=0)
    assert [step for step, _ in checkpoints_in(run)] == [2]
    assert read_checkpoint(run / "checkpoint_2.pt")["data"]["next_batch"] == 3


def test_the_checkpoint_before_the_bad_steps_is_named_also_when_it_was_just_written(
    inputs: dict[str, str], tmp_path: Path, spoil: Spoil
):
    spoil(lambda batch: batch > 5)
    with pytest.raises(TrainingError, match=r"the last checkpoint before it is .*checkpoint_5\.pt"):
        train(inputs, tmp_path / "run", max_iters=9, save_interval=5, max_bad_steps=1)


def test_no_checkpoint_is_made_among_bad_steps(
    inputs: dict[str, str], tmp_path: Path, spoil: Spoil
):
    spoil(lambda batch: batch in {4, 5})
    run = tmp_path / "run"
    train(inputs, run, max_iters=8, save_interval=4)
    assert [step for step, _ in checkpoints_in(run)] == [8, 6]


def test_going_back_continues_past_the_bad_batches(
    inputs: dict[str, str], tmp_path: Path, spoil: Spoil, capsys: pytest.CaptureFixture[str]
):
    spoil(lambda batch: 7 <= batch <= 12)
    run, reference = tmp_path / "run", tmp_path / "reference"
    rules = {"max_bad_steps": 2, "on_bad_steps": "rollback", "save_interval": 5}
    history = train(inputs, run, max_iters=12, **rules)
    # Back to 5 at step 9; then batches 10 to 12 are bad as steps 6 to 8: back again, to batch 13.
    assert "going on from there with batch 13, past the bad ones" in capsys.readouterr().err
    assert [record["iter"] for record in history if "loss" in record] == list(range(1, 13))
    assert not [record for record in history if "skipped" in record]
    state = read_checkpoint(run / "checkpoint_12.pt")
    assert state["data"]["next_batch"] == 20
    assert state["bad_steps"]["skipped"] == 0

    # The same weights as learning from batches 1 to 5 and 13 to 19, and it resumes so.
    train(inputs, reference, max_iters=5)
    path = reference / "checkpoint_5.pt"
    state = torch.load(path, weights_only=True)
    state["data"]["next_batch"] = 13
    torch.save(state, path)
    (reference / "checkpoint_5.pt.json").unlink()
    resume(reference, max_iters=9)
    resume(reference, max_iters=12)
    assert losses(run) == losses(reference)
    assert_same_checkpoints(run / "checkpoint_12.pt", reference / "checkpoint_12.pt")


def test_going_back_to_a_best_that_was_written_since_goes_to_where_that_stands(
    inputs: dict[str, str], tmp_path: Path, spoil: Spoil, monkeypatch: pytest.MonkeyPatch
):
    """A run that was resumed from best.pt has that name alone until its next numbered one."""
    falling = iter(range(9, 0, -1))
    monkeypatch.setattr(Validation, "loss", lambda *_: float(next(falling)))
    run, best = tmp_path / "run", str(tmp_path / "run" / "best.pt")
    train(inputs, run, max_iters=5)
    spoil(lambda batch: 12 <= batch <= 14)
    rules = {"max_bad_steps": 2, "on_bad_steps": "rollback", "max_iters": 15, "save_interval": 99}
    history = resume(run, **rules, load_checkpoint=best)
    assert [record["iter"] for record in history if "loss" in record] == list(range(1, 16))


def test_going_back_in_vain_ends_the_run(inputs: dict[str, str], tmp_path: Path, spoil: Spoil):
    spoil(lambda batch: batch > 5)
    run = tmp_path / "run"
    rules = {"max_bad_steps": 1, "on_bad_steps": "rollback", "save_interval": 5}
    with pytest.raises(TrainingError, match=r"the last checkpoint before it is .*checkpoint_5\.pt"):
        train(inputs, run, max_iters=100, **rules)
    assert [step for step, _ in checkpoints_in(run)] == [5]


def test_nowhere_to_go_back_to(inputs: dict[str, str], tmp_path: Path, spoil: Spoil):
    spoil(lambda batch: batch > 1)
    rules = {"max_bad_steps": 1, "on_bad_steps": "rollback"}
    with pytest.raises(TrainingError, match="no checkpoint came before it"):
        train(inputs, tmp_path / "run", max_iters=9, **rules)


@pytest.mark.parametrize("wrong", [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_what_is_no_number_in_loss_or_gradient_touches_nothing(wrong: tuple[float, float]):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.full((2,), math.nan)
    step_if_finite(optimizer, torch.tensor(wrong))
    assert weight.tolist() == [1.0, 1.0]
    assert not optimizer.state[weight]
    weight.grad = torch.ones(2)
    step_if_finite(optimizer, torch.tensor((1.0, 1.0)))
    assert weight[0] < 1.0


def test_the_fused_kernel_leaves_a_step_out_that_it_is_told_was_infinite():
    """What accelerators are relied on for, tried where every machine can: steps not counted."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.grad = torch.ones(2)
    optimizer.step()
    before = weight.detach().clone()
    weight.grad = torch.full((2,), math.nan)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(weight, before)
    assert float(optimizer.state[weight]["step"]) == 1.0


def test_losses_read_late_count_as_if_read_at_once():
    bad = BadSteps(2)
    for iteration, loss in enumerate([1.0, math.nan, math.nan, 1.0, math.nan], start=1):
        bad.take(iteration, loss, 1.0)
    assert (bad.in_a_row, bad.skipped, bad.first) == (1, 3, (5, "loss became nan"))
    assert not bad.too_many


def test_a_spike_is_far_above_what_came_before():
    watch = SpikeWatch()
    quiet = [3.0 + 0.01 * (step % 3) for step in range(SPIKE_NEEDS)]
    assert [watch.take(loss) for loss in quiet] == [None] * SPIKE_NEEDS
    assert watch.take(3.03) is None
    deviations = watch.take(4.0)
    assert deviations is not None
    assert deviations > 50
    # A watch that goes on from the history finds the same.
    assert SpikeWatch([*quiet, 3.03]).take(4.0) == deviations


def test_spikes_are_in_the_metrics_also_after_an_interruption(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    keep = Readings._keep

    def spiking(self: Readings, step, loss: float, norm: float) -> None:
        keep(self, step, 50.0 if step.iteration == 20 else loss, norm)

    monkeypatch.setattr(Readings, "_keep", spiking)
    straight, run = tmp_path / "straight", tmp_path / "run"
    train(inputs, straight, max_iters=20)
    train(inputs, run, max_iters=18)
    resume(run, max_iters=20)
    for folder in (straight, run):
        spikes = [record for record in records(folder) if "spike" in record]
        assert [record["iter"] for record in spikes] == [20]
    assert [r.get("spike") for r in records(run)][-3:] == [
        r.get("spike") for r in records(straight)
    ][-3:]


def test_a_history_with_bad_steps_trains_on(inputs: dict[str, str], tmp_path: Path, spoil: Spoil):
    """``Trainer`` returns the skipped steps with the others."""
    spoil(lambda batch: batch == 2)
    history = Trainer(settings(inputs, tmp_path / "run", max_iters=3)).train()
    assert [record["iter"] for record in history if "lr" in record] == [1, 2, 3]
