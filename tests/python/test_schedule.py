"""The learning rate of each update."""

import math

import pytest

from lmkit.config import TrainConfig
from lmkit.lm.schedule import constant, cosine, learning_rate, wsd


def test_cosine_as_the_course_defines_it():
    # Warm-up of 7, cosine over 21: the course's own example values.
    rates = [cosine(step, 1.0, 0.1, 7, 21) for step in range(25)]
    assert rates[0] == 0
    assert rates[1] == pytest.approx(1 / 7)
    assert rates[7] == 1.0
    assert rates[14] == pytest.approx(0.55)
    assert rates[21:] == [0.1] * 4
    assert rates[10] == pytest.approx(0.1 + 0.5 * (1 + math.cos(math.pi * 3 / 14)) * 0.9)
    assert rates[7:22] == sorted(rates[7:22], reverse=True)


def test_wsd_warms_up_stays_and_decays_over_the_last_fifth():
    rates = [wsd(step, 1.0, 0.2, 10, 100) for step in range(120)]
    assert rates[5] == 0.5
    assert set(rates[10:81]) == {1.0}
    assert rates[90] == pytest.approx(0.6)
    assert set(rates[100:]) == {0.2}


def test_constant_warms_up_and_stays():
    assert [constant(step, 2.0, 4) for step in (0, 1, 4, 1000)] == [0, 0.5, 2.0, 2.0]
    assert constant(0, 2.0) == 2.0


@pytest.mark.parametrize("warmup", [0, 1, 5, 10])
@pytest.mark.parametrize("total", [10, 11])
def test_all_warm_up_and_no_decay_is_no_division_by_zero(warmup, total):
    for schedule in (cosine, wsd):
        rates = [schedule(step, 1.0, 0.0, warmup, total) for step in range(15)]
        assert all(0 <= rate <= 1 for rate in rates)


def test_the_first_update_moves_and_the_last_takes_the_lowest_rate():
    config = TrainConfig(
        learning_rate=1e-3, min_lr=1e-4, warmup_iters=4, max_iters=20, lr_schedule="cosine"
    )
    assert learning_rate(1, config) == pytest.approx(2.5e-4)
    assert learning_rate(4, config) == 1e-3
    assert learning_rate(20, config) == 1e-4


def test_a_longer_run_keeps_the_schedules_length():
    config = TrainConfig(max_iters=100, lr_decay_iters=50, lr_schedule="wsd")
    assert learning_rate(50, config) == 0
    assert learning_rate(40, config) == 3e-4


def test_default_is_constant():
    assert {learning_rate(step, TrainConfig()) for step in (1, 10, 10**6)} == {3e-4}
