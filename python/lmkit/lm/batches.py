"""Tokens to (inputs, targets), where the targets are the inputs moved by one.

Batch k is a pure function of (seed, k): no state to save, none to disturb, and row i does not
depend on how many rows are asked for, nor on how the step is split into micro-batches. Windows are
read one by one with plain reads, so that memory is that of one batch whatever the file's size.

Windows of `DocumentTokens` hold one document each; one shorter than a window is padded, with
targets that no loss counts.

Axes: B batch, T time.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmkit.counted import counted
from lmkit.errors import UsageError
from lmkit.lm.cross_entropy import IGNORED
from lmkit.lm.documents import DocumentTokens, Spans, windows_around

Batch: TypeAlias = tuple[Tensor, Tensor]


@runtime_checkable
class TokenReader(Protocol):
    """What tokens are read from: `lmkit.token_file.TokenReader`, or anything that reads like it."""

    def __len__(self) -> int:
        """How many tokens there are."""
        ...

    def read(self, start: int, stop: int) -> NDArray[np.integer]:
        """The tokens from ``start`` up to ``stop``."""
        ...


Tokens: TypeAlias = NDArray[np.integer] | TokenReader


class Mixture:
    """Several token files, read as if one followed the other, windows drawn by weight.

    Args:
        parts: the files, arrays or readers.
        weights: how much each is drawn from; only their ratios count.
    """

    def __init__(self, parts: Sequence[Tokens], weights: Sequence[float]) -> None:
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in parts])
        self.shares = np.cumsum(weights) / np.sum(weights)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __repr__(self) -> str:
        shares = ", ".join(f"{share:.3g}" for share in np.diff(self.shares, prepend=0.0))
        return f"Mixture(tokens={len(self)}, parts={len(self.parts)}, shares=[{shares}])"

    def read(self, start: int, stop: int) -> NDArray[np.integer]:
        """The tokens from ``start`` up to ``stop``, which lie in one of the parts."""
        number = int(np.searchsorted(self.ends, start, side="right"))
        before = int(self.ends[number]) - len(self.parts[number])
        return _read(self.parts[number], start - before, stop - before)

    def places(self, raw: NDArray[np.uint64], places_of: Callable[[int], int]) -> NDArray[np.int64]:
        """Places drawn by two random words each: one for the place, one for the part.

        ``places_of`` tells in how many places of a part something may begin, by the part's length.
        """
        place_B, part_B = np.split(raw, 2)
        lengths = np.diff(self.ends, prepend=0)
        uniform_B = (part_B >> np.uint64(11)) * 2.0**-53
        number_B = np.searchsorted(self.shares, uniform_B, side="right")
        places = np.array([places_of(int(length)) for length in lengths])
        inside_B = (place_B % places.astype(np.uint64)[number_B]).astype(np.int64)
        return (self.ends - lengths)[number_B] + inside_B


def sample_batch(
    tokens: NDArray[np.integer],
    batch_size: int,
    context_length: int,
    device: str | torch.device,
    generator: np.random.Generator | None = None,
) -> Batch:
    """Draw windows of an array (a memmap will do) at random places, all equally likely.

    Returns inputs and targets, int64 of (B, T) on ``device``. Draws from ``generator``, or from
    fresh entropy. A training run takes `TokenBatches` instead, which repeats.
    """
    places = _places(len(tokens), context_length)
    starts_B = (generator or np.random.default_rng()).integers(places, size=batch_size)
    spans = spans_of(starts_B, context_length)
    return to_batch(read_windows(tokens, spans, context_length), torch.device(device))


class TokenBatches:
    """The batches of a training run: batch k is a pure function of (seed, k).

    Args:
        tokens: an array or a `TokenReader`; of `DocumentTokens` each window holds one document.
        batch_size: rows of one micro-batch.
        context_length: tokens of one row.
        seed: which order of the data; any integer from 0.
        grad_accum_steps: micro-batches of one step. 2 of 8 rows are the same 16 rows as 1 of 16.
        sampling: ``random``: windows at random places, all equally likely. ``epoch``: the windows
            of each epoch in an order of its own, every token once but a rest shorter than a window;
            of documents all windows there are.
        device: where the batches are wanted.
        rank: which share of each micro-batch `micro_batches` gives,
        ranks: of how many equal ones.
    """

    def __init__(
        self,
        tokens: Tokens,
        *,
        batch_size: int,
        context_length: int,
        seed: int = 0,
        grad_accum_steps: int = 1,
        sampling: str = "random",
        device: str | torch.device = "cpu",
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.tokens = tokens
        self.batch_size = batch_size
        self.context_length = context_length
        self.grad_accum_steps = grad_accum_steps
        self.device = torch.device(device)
        self._documents = tokens.documents if isinstance(tokens, DocumentTokens) else None
        self._mixture = _mixture_in(tokens)
        if self._mixture and sampling == "epoch":
            raise UsageError(
                "--sampling epoch takes one --train_data: several of different weights end at "
                "different times"
            )
        if not self._documents:
            for part in self._mixture.parts if self._mixture else [tokens]:
                _places(len(part), context_length)
        elif sampling == "epoch":
            self._documents.windows(context_length)
        self._last: tuple[int, Spans] | None = None
        self._seed = seed
        self._rank, self._ranks = rank, ranks
        self._by_epoch = sampling == "epoch"
        self._key = np.random.SeedSequence(seed).generate_state(2, np.uint64)

    def __repr__(self) -> str:
        return (
            f"TokenBatches(tokens={len(self.tokens)}, batch_size={self.batch_size}, "
            f"context_length={self.context_length}, grad_accum_steps={self.grad_accum_steps}, "
            f"sampling={'epoch' if self._by_epoch else 'random'!r}, device={str(self.device)!r})"
        )

    @property
    def tokens_per_step(self) -> int:
        """How many targets one step learns from, at most: the padding of documents is none."""
        return self.batch_size * self.grad_accum_steps * self.context_length

    def batch(self, step: int) -> Batch:
        """All rows of a step as one batch."""
        return self._rows(self.spans(step))

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """The same rows in ``grad_accum_steps`` parts of equal size, this rank's share of each."""
        for spans in self._shares(step):
            yield self._rows(spans)

    def divisors(self, step: int) -> list[float]:
        """By what the mean loss of each of `micro_batches` is divided to add up to the step's.

        The gradients of several ranks are averaged; each target of the step then counts the same.
        """
        if not self._documents:
            return [self.grad_accum_steps] * self.grad_accum_steps
        of_step = self.targets(step)
        mine = [int(spans.targets.sum()) for spans in self._shares(step)]
        return [of_step / (targets * self._ranks) for targets in mine]

    def targets(self, step: int) -> int:
        """How many targets a step learns from."""
        return int(self.spans(step).targets.sum()) if self._documents else self.tokens_per_step

    def starts(self, step: int) -> NDArray[np.int64]:
        """Where the rows of a step begin in the data."""
        return self.spans(step).starts

    def spans(self, step: int) -> Spans:
        """Where the rows of a step begin and end in the data.

        Philox is a counter turned into noise: the step is the counter's high word, so that no two
        steps share numbers. The raw words are promised never to change between numpy versions,
        unlike `Generator.integers`; the modulus favours no place by more than 2^-64 * places.
        """
        if self._last is None or self._last[0] != step:
            rows = self.batch_size * self.grad_accum_steps
            self._last = (
                step,
                self._by_epochs(step, rows)
                if self._by_epoch
                else self._at_random(
                    np.random.Philox(key=self._key, counter=[0, 0, 0, step]), rows
                ),
            )
        return self._last[1]

    def _at_random(self, noise: np.random.Philox, rows: int) -> Spans:
        """Windows at places that are all equally likely."""
        documents, context_length = self._documents, self.context_length

        def places_of(length: int) -> int:
            return length if documents else _places(length, context_length)

        if self._mixture:
            places_B = self._mixture.places(noise.random_raw(2 * rows), places_of)
        else:
            raw_B = noise.random_raw(rows)
            places_B = (raw_B % np.uint64(places_of(len(self.tokens)))).astype(np.int64)
        if documents:
            return windows_around(documents, places_B, context_length)
        return spans_of(places_B, context_length)

    def _by_epochs(self, step: int, rows: int) -> Spans:
        """The next windows of an order that every epoch has of its own.

        Windows share no target. What does not fill a window is left out, at the front or at the
        back as the epoch has it; documents have windows for all they hold.
        """
        rows_B = np.arange((step - 1) * rows, step * rows, dtype=np.int64)
        if self._documents:
            index = self._documents.windows(self.context_length)
            return index.spans(self._ordered(rows_B, len(index), 0)[0])
        windows, rest = divmod(len(self.tokens) - 1, self.context_length)
        places_B, offsets_B = self._ordered(rows_B, windows, rest)
        return spans_of(places_B * self.context_length + offsets_B, self.context_length)

    def _ordered(
        self, rows_B: NDArray[np.int64], windows: int, rest: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which windows rows have, counted from the run's first, and the offset of their epochs."""
        places_B, offsets_B = np.empty_like(rows_B), np.empty_like(rows_B)
        for epoch in np.unique(rows_B // windows).tolist():
            of_epoch_B = rows_B // windows == epoch
            order = Shuffle(windows, self._seed, epoch)
            places_B[of_epoch_B] = order(rows_B[of_epoch_B] % windows)
            offsets_B[of_epoch_B] = order.offset(rest)
        return places_B, offsets_B

    def _shares(self, step: int) -> list[Spans]:
        """This rank's rows of each micro-batch of a step."""
        spans = self.spans(step)
        rows = self.batch_size // self._ranks
        firsts = [
            part * self.batch_size + self._rank * rows for part in range(self.grad_accum_steps)
        ]
        return [spans[first : first + rows] for first in firsts]

    def _rows(self, spans: Spans) -> Batch:
        windows = read_windows(self.tokens, spans, self.context_length)
        return to_batch(windows, self.device, padded=self._documents is not None)


class Shuffle:
    """An order of ``0 .. size - 1`` by seed and epoch, any part of which is known without the rest.

    A Feistel network permutes the numbers of twice a few bits; numbers beyond ``size`` are sent
    round again, which happens less than three times on average. A shuffled list would be simpler,
    and take eight bytes a window.
    """

    ROUNDS = 6

    def __init__(self, size: int, seed: int, epoch: int) -> None:
        self.size = size
        self._half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        words = np.random.SeedSequence((seed, epoch)).generate_state(self.ROUNDS + 1, np.uint64)
        self._keys, self._rest_key = words[:-1], int(words[-1])

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """What stands at these places of the order."""
        found = self._permute(places.astype(np.uint64))
        while (outside := found >= self.size).any():
            found[outside] = self._permute(found[outside])
        return found.astype(np.int64)

    def offset(self, limit: int) -> int:
        """A number up to ``limit`` that goes with the order."""
        return self._rest_key % (limit + 1)

    def _permute(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        mask = (np.uint64(1) << self._half) - np.uint64(1)
        left, right = numbers >> self._half, numbers & mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return (left << self._half) | right


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Let every bit of a word depend on all (the finish of splitmix64); products wrap round."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def fixed_windows(n_tokens: int, context_length: int, limit: int | None) -> NDArray[np.int64]:
    """Starts of at most ``limit`` windows spread evenly over the data; they share no target.

    Without a limit, all windows; a rest shorter than a window is left out.
    """
    fitting = _places(n_tokens, context_length, what="validation data") - 1
    available = fitting // context_length + 1
    count = available if limit is None else min(limit, available)
    return np.arange(count, dtype=np.int64) * available // count * context_length


def evaluation_windows(tokens: Tokens, context_length: int, limit: int | None) -> Spans:
    """At most ``limit`` windows spread evenly over the data, all without a limit.

    They are those of `fixed_windows`; of `DocumentTokens` those of their documents.
    """
    if not isinstance(tokens, DocumentTokens):
        starts_B = fixed_windows(len(tokens), context_length, limit)
        return spans_of(starts_B, context_length)
    index = tokens.documents.windows(context_length)
    count = len(index) if limit is None else min(limit, len(index))
    return index.spans(np.arange(count, dtype=np.int64) * len(index) // count)


def spans_of(starts_B: NDArray[np.int64], context_length: int) -> Spans:
    """Whole windows, each with the token after it."""
    return Spans(starts_B, starts_B + context_length + 1)


def read_windows(tokens: Tokens, spans: Spans, context_length: int) -> NDArray[np.int64]:
    """Rows of T + 1 tokens, one of each span: the inputs, and the token after the last.

    A shorter span is padded with `IGNORED`. They are read in the data's order, so that each shard
    is gone to once.
    """
    windows = np.full((len(spans), context_length + 1), IGNORED, dtype=np.int64)
    starts, stops = spans.starts.tolist(), spans.stops.tolist()
    for row in np.argsort(spans.starts, kind="stable").tolist():
        windows[row, : stops[row] - starts[row]] = _read(tokens, starts[row], stops[row])
    return windows


def _read(tokens: Tokens, start: int, stop: int) -> NDArray[np.integer]:
    return tokens[start:stop] if isinstance(tokens, np.ndarray) else tokens.read(start, stop)


def to_batch(windows: NDArray[np.int64], device: torch.device, *, padded: bool = False) -> Batch:
    """Inputs and targets, on the device, of rows that `read_windows` made, ``padded`` or not.

    Padded inputs are some id or other: no position that counts looks at them.
    """
    rows = torch.from_numpy(windows)
    if device.type == "cuda" and torch.cuda.is_available():
        # From pinned memory the copy runs beside the computation; the host does not wait.
        rows = rows.pin_memory().to(device, non_blocking=True)
    else:
        rows = rows.to(device)
    return rows[:, :-1].clamp(min=0) if padded else rows[:, :-1], rows[:, 1:]


def _mixture_in(tokens: Tokens) -> Mixture | None:
    """The mixture that tokens are, as they are or as documents."""
    inner = tokens.tokens if isinstance(tokens, DocumentTokens) else tokens
    return inner if isinstance(inner, Mixture) else None


def _places(n_tokens: int, context_length: int, what: str = "data") -> int:
    """How many places a window may begin at; a window needs one token more than it is long."""
    if n_tokens <= context_length:
        raise UsageError(
            f"the {what} holds {counted(n_tokens, 'token')}, too few for one window of "
            f"--context_length {context_length} and the token after it",
            hint=f"pass more text or --context_length {n_tokens - 1} at most"
            if n_tokens > 1
            else "pass more text",
        )
    return n_tokens - context_length
