"""What a run notes of itself in metrics.jsonl, and that it goes on counting when resumed."""

import math
from pathlib import Path

import pytest

from tiny_run import records, resume, train

pytestmark = pytest.mark.usefixtures("on_one_thread")

TOKENS_PER_STEP = 4 * 16
STEADY = ("iter", "begun", "loss", "val_loss", "bits_per_byte", "tokens", "sample", "prompt")


def steady(run: Path, *, sittings: bool = False) -> list[dict[str, object]]:
    """What does not depend on the machine's mood, of every record that holds more than that."""
    kept = [{name: one[name] for name in STEADY if name in one} for one in records(run)]
    return [one for one in kept if len(one) > 1 and (sittings or "begun" not in one)]


def test_a_resumed_run_notes_what_an_uninterrupted_one_does(inputs: dict[str, str], tmp_path: Path):
    """Also where steps beyond the checkpoint are cut away; tokens and seconds count on."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train(inputs, straight, max_iters=20, sample_prompt="2 times")
    train(inputs, broken, max_iters=15, sample_prompt="2 times")
    (broken / "checkpoint_15.pt").unlink()
    before = [one for one in records(broken) if one["iter"] == 10][-1]
    resume(broken, max_iters=20)
    assert steady(broken) == steady(straight)
    begun = [one for one in steady(broken, sittings=True) if "begun" in one]
    assert [(one["iter"], one["begun"]) for one in begun] == [(0, "new"), (10, "resumed")]
    assert begun[1]["tokens"] == 10 * TOKENS_PER_STEP
    assert before["iter"] == 10
    for run in (straight, broken):
        seconds = [one["seconds"] for one in records(run) if "seconds" in one]
        assert seconds == sorted(seconds)
        assert seconds[0] == 0


def test_every_step_and_evaluation_has_its_tokens(inputs: dict[str, str], tmp_path: Path):
    history = train(inputs, tmp_path / "run", max_iters=10, sample_prompt="3 times")
    steps = [one for one in history if "loss" in one]
    assert [one["tokens"] for one in steps] == [n * TOKENS_PER_STEP for n in range(1, 11)]
    evaluations = [one for one in history if "val_loss" in one]
    assert [one["tokens"] for one in evaluations] == [5 * TOKENS_PER_STEP, 10 * TOKENS_PER_STEP]
    paces = [one["tokens_per_second"] for one in history if "tokens_per_second" in one]
    assert len(paces) == 2
    assert min(paces) > 0
    samples = [one for one in history if "sample" in one]
    assert [one["iter"] for one in samples] == [5, 10]
    assert all(one["sample"].startswith("3 times") for one in samples)


def test_bits_a_byte_are_those_of_the_text(inputs: dict[str, str], tmp_path: Path):
    """With a tokenizer of bytes each token is one, so only the logarithm's base differs."""
    history = train(inputs, tmp_path / "run", max_iters=5)
    mixture = {**inputs, "train_data": f"{inputs['train_data']}=3,{inputs['val_data']}=1"}
    mixed = train(mixture, tmp_path / "mixed", max_iters=1)
    start, evaluation = history[0], next(one for one in history if "val_loss" in one)
    assert (start["train_bytes_per_token"], start["val_bytes_per_token"]) == (1.0, 1.0)
    assert evaluation["bits_per_byte"] == pytest.approx(evaluation["val_loss"] / math.log(2))
    assert mixed[0]["train_bytes_per_token"] == pytest.approx(1.0)


def test_a_run_without_validation_data_has_no_bytes_of_it(inputs: dict[str, str], tmp_path: Path):
    alone = {name: value for name, value in inputs.items() if name != "val_data"}
    history = train(alone, tmp_path / "run", max_iters=1)
    assert history[0]["val_bytes_per_token"] is None
    assert history[0]["tokens_per_step"] == TOKENS_PER_STEP
