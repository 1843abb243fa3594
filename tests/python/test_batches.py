"""Batches: the windows, their order, and what they do not depend on."""

import numpy as np
import pytest
import torch

from lmkit.errors import UsageError
from lmkit.lm.batches import (
    Mixture,
    Shuffle,
    TokenBatches,
    fixed_windows,
    sample_batch,
    to_batch,
)
from lmkit.lm.prefetch import Prefetch

TOKENS = np.arange(1000, dtype=np.int32)


class Reader:
    """Reads like a token file, and counts what is read."""

    def __init__(self, tokens):
        self.tokens, self.largest = tokens, 0

    def __len__(self):
        return len(self.tokens)

    def read(self, start, stop):
        self.largest = max(self.largest, stop - start)
        return self.tokens[start:stop].copy()


def batches(**options):
    return TokenBatches(TOKENS, **{"batch_size": 4, "context_length": 16, "seed": 7} | options)


def test_targets_are_the_inputs_moved_by_one():
    for inputs, targets in (batches().batch(3), sample_batch(TOKENS, 5, 16, "cpu")):
        assert inputs.dtype == targets.dtype == torch.int64
        assert torch.equal(targets, inputs + 1)
        assert inputs.shape[1] == 16


def test_a_batch_depends_on_seed_and_step_alone():
    one, other = batches(), batches()
    other.batch(99)
    np.random.random(5)  # noqa: NPY002 - the global generator must not matter
    torch.rand(5)
    assert torch.equal(one.batch(3)[0], other.batch(3)[0])
    assert not torch.equal(one.batch(3)[0], one.batch(4)[0])
    assert not torch.equal(one.batch(3)[0], batches(seed=8).batch(3)[0])


def test_the_order_of_the_data_is_the_same_in_every_version():
    # Written down once: a run must resume into the same order after an upgrade.
    assert batches().starts(0).tolist() == [758, 693, 363, 926]
    assert batches().starts(10**9).tolist() == [962, 760, 692, 944]


def test_micro_batches_are_slices_of_the_step():
    whole = batches(batch_size=12).batch(5)
    for parts in (1, 2, 3, 4, 6, 12):
        split = batches(batch_size=12 // parts, grad_accum_steps=parts)
        rows = [inputs for inputs, _ in split.micro_batches(5)]
        assert len(rows) == parts
        assert torch.equal(torch.cat(rows), whole[0])
        assert split.tokens_per_step == 12 * 16


class Noting:
    """Micro-batches that are only their names, and notes of what was read."""

    def __init__(self, device):
        self.device, self.read = torch.device(device), []

    def micro_batches(self, step):
        for part in range(3):
            self.read.append((step, part))
            yield step, part


@pytest.mark.parametrize("asked", [5, 6])
def test_what_is_read_ahead_is_what_would_be_read(asked):
    """Whichever step is asked for next."""
    batches = Noting("cuda")
    prefetch = Prefetch(batches)
    prefetch.read_ahead(5)
    assert batches.read == [(5, 0)]
    assert list(prefetch.micro_batches(asked)) == [(asked, part) for part in range(3)]
    assert list(prefetch.micro_batches(7)) == [(7, part) for part in range(3)]
    assert batches.read.count((5, 0)) == 1


def test_on_a_cpu_nothing_is_read_ahead():
    batches = Noting("cpu")
    Prefetch(batches).read_ahead(5)
    assert batches.read == []


def test_for_cuda_rows_are_pinned_and_copied_without_waiting(monkeypatch):
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda rows: asked.append("pinned") or rows)

    def moved(rows, device, *, non_blocking=False):
        asked.append((device.type, non_blocking))
        return rows

    monkeypatch.setattr(torch.Tensor, "to", moved)
    to_batch(np.arange(10).reshape(2, 5), torch.device("cuda"))
    assert asked == ["pinned", ("cuda", True)]


def test_places_are_equally_likely_and_all_reached():
    tokens = np.arange(20, dtype=np.uint16)
    starts = TokenBatches(tokens, batch_size=5000, context_length=9).starts(0)
    counts = np.bincount(starts, minlength=11)
    assert len(counts) == 11  # a window and its last target fit at 0 to 10
    assert counts.min() > 350
    assert counts.max() < 560


def test_only_windows_are_read():
    reader = Reader(TOKENS)
    read = TokenBatches(reader, batch_size=4, context_length=16, seed=7)
    assert torch.equal(read.batch(2)[1], batches().batch(2)[1])
    assert reader.largest == 17


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.uint32, np.int64, ">i4"])
def test_any_integer_dtype_will_do(dtype):
    tokens = TokenBatches(TOKENS.astype(dtype), batch_size=4, context_length=16, seed=7)
    assert torch.equal(tokens.batch(0)[0], batches().batch(0)[0])


def test_one_window_is_enough_and_less_is_an_error():
    inputs, targets = TokenBatches(TOKENS[:17], batch_size=2, context_length=16).batch(0)
    assert inputs[1].tolist() == list(range(16))
    assert targets[1].tolist() == list(range(1, 17))
    for count, told in ((16, "16 tokens"), (1, "1 token"), (0, "0 tokens")):
        with pytest.raises(UsageError, match=f"holds {told}, too few for one window"):
            TokenBatches(TOKENS[:count], batch_size=2, context_length=16)
        with pytest.raises(UsageError, match="too few"):
            sample_batch(TOKENS[:count], 2, 16, "cpu")


def test_sampling_follows_its_generator():
    draws = [sample_batch(TOKENS, 3, 8, "cpu", np.random.default_rng(s))[0] for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_fixed_windows_are_spread_and_share_nothing():
    assert fixed_windows(101, 10, None).tolist() == list(range(0, 100, 10))
    assert fixed_windows(100, 10, None).tolist() == list(range(0, 90, 10))
    assert fixed_windows(101, 10, 5).tolist() == [0, 20, 40, 60, 80]
    assert fixed_windows(101, 10, 1000).tolist() == list(range(0, 100, 10))
    assert fixed_windows(11, 10, 3).tolist() == [0]
    with pytest.raises(UsageError, match="the validation data holds 10 tokens"):
        fixed_windows(10, 10, None)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, 1000, 4097])
def test_a_shuffle_has_every_number_once(size):
    order = Shuffle(size, seed=3, epoch=0)
    found = order(np.arange(size))
    assert sorted(found.tolist()) == list(range(size))
    assert order(np.array([size - 1])).tolist() == [found[-1]]
    if size > 7:
        assert found.tolist() != Shuffle(size, seed=3, epoch=1)(np.arange(size)).tolist()
        assert found.tolist() != Shuffle(size, seed=4, epoch=0)(np.arange(size)).tolist()


def test_a_shuffle_favours_no_place():
    """Where number 0 comes, over many epochs, is spread evenly: chi-squared within six sigma."""
    size, epochs = 16, 4000
    places = [Shuffle(size, 0, epoch)(np.arange(size)).argmin() for epoch in range(epochs)]
    counts = np.bincount(places, minlength=size)
    expected = epochs / size
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert chi_squared < size - 1 + 6 * (2 * (size - 1)) ** 0.5


def test_an_epoch_takes_every_window_once_whatever_the_batch():
    tokens = np.arange(1003, dtype=np.int32)
    one = TokenBatches(tokens, batch_size=5, context_length=10, seed=1, sampling="epoch")
    starts = np.concatenate([one.starts(step) for step in range(1, 41)])
    first, second = starts[:100], starts[100:]
    for epoch in (first, second):
        # 1,002 targets make 100 windows of 10; 2 are left out, at an end.
        assert len(set(epoch.tolist())) == 100
        assert len(set((epoch % 10).tolist())) == 1
        assert epoch.min() in {0, 1, 2}
        assert epoch.max() == epoch.min() + 990
    assert first.tolist() != second.tolist()
    # The order is a function of seed and row alone.
    other = TokenBatches(
        tokens, batch_size=2, context_length=10, seed=1, grad_accum_steps=2, sampling="epoch"
    )
    assert np.concatenate([other.starts(step) for step in range(1, 51)]).tolist() == starts.tolist()


def test_an_epoch_of_one_window():
    batches = TokenBatches(np.arange(11), batch_size=2, context_length=10, sampling="epoch")
    assert batches.starts(7).tolist() == [0, 0]


def test_a_mixture_draws_by_weight_and_never_across_an_edge():
    parts = [np.arange(500), Reader(np.arange(1000, 1100)), np.arange(2000, 2011)]
    mixture = Mixture(parts, [2, 1, 1])
    assert len(mixture) == 611
    batches = TokenBatches(mixture, batch_size=64, context_length=10, seed=1)
    rows = np.concatenate([batches.batch(step)[0].numpy() for step in range(1, 33)])
    assert (np.diff(rows) == 1).all()
    shares = np.bincount(rows[:, 0] // 1000, minlength=3) / len(rows)
    assert np.abs(shares - [0.5, 0.25, 0.25]).max() < 6 * 0.5 / len(rows) ** 0.5
    assert set(rows[rows[:, 0] >= 2000][:, 0]) == {2000}
    again = TokenBatches(mixture, batch_size=16, context_length=10, seed=1, grad_accum_steps=4)
    assert torch.equal(again.batch(5)[0], batches.batch(5)[0])


def test_a_mixture_refuses_a_part_too_short_and_epochs():
    with pytest.raises(UsageError, match="holds 10 tokens, too few"):
        TokenBatches(
            Mixture([np.arange(99), np.arange(10)], [1, 1]), batch_size=1, context_length=10
        )
    mixture = Mixture([np.arange(99), np.arange(99)], [1, 1])
    with pytest.raises(UsageError, match="--sampling epoch takes one"):
        TokenBatches(mixture, batch_size=1, context_length=10, sampling="epoch")
