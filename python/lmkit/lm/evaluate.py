"""A model and tokens to its loss, perplexity and bits per byte, on windows that never change.

Nothing random is drawn and nothing of the model altered, so evaluating never disturbs a run. Cost:
one forward pass over the windows.

Axes: B batch, T time.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmkit.errors import MalformedError, UsageError
from lmkit.lm.batches import Tokens, fixed_windows, read_windows, to_batch
from lmkit.lm.device import Device
from lmkit.lm.distributed import Ranks
from lmkit.lm.model import Transformer
from lmkit.lm.sharding import is_cut, released

if TYPE_CHECKING:
    from lmkit.tokenizer import Tokenizer

Progress = Callable[[int, int, int], object]

# Asking the device for the losses makes the host wait, so they are asked for many at a time.
_LOSSES_AT_ONCE = 64
_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text.

    Attributes:
        loss: mean nats a token.
        perplexity: e to the loss: among how many equally likely tokens the model wavers.
        bits_per_byte: bits the model needs for a byte of the text; unlike the others it compares
            models of different vocabularies. None where no text was predicted.
        tokens: how many tokens were predicted.
        bytes: how many bytes of text they are; special tokens are none.
    """

    loss: float
    perplexity: float
    bits_per_byte: float | None
    tokens: int
    bytes: int


def evaluate(
    model: Transformer,
    tokenizer: "Tokenizer",
    tokens: Tokens,
    *,
    batch_size: int = 8,
    context_length: int | None = None,
    num_batches: int | None = None,
    device: Device | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Predict every token but the first once, or ``num_batches`` batches spread over the file.

    A window of ``context_length`` (the model's own unless given) sees nothing of the one before it.
    An id the model does not have is a `MalformedError` naming its index.
    """
    context_length = min(context_length or model.context_length, len(tokens) - 1)
    if context_length < 1:
        raise UsageError(f"{len(tokens)} tokens are too few to predict one from another")
    limit = None if num_batches is None else num_batches * batch_size
    starts = fixed_windows(len(tokens), context_length, limit)
    windows = _batches(starts, batch_size, context_length)
    covered = len(starts) * context_length
    if num_batches is None and covered < len(tokens) - 1:
        rest = len(tokens) - 1 - covered
        windows.append((np.array([covered]), rest))
    lengths = _byte_lengths(tokenizer, model.config.vocab_size)
    nats, n_tokens, n_bytes = 0.0, 0, 0
    for done, (loss, rows) in enumerate(_losses(model, tokens, windows, device), start=1):
        targets_BT = rows[:, 1:]
        nats += loss * targets_BT.size
        n_tokens += targets_BT.size
        n_bytes += int(lengths[targets_BT].sum())
        if progress is not None:
            progress(0, done, len(windows))
    loss = nats / n_tokens
    bits_per_byte = nats / math.log(2) / n_bytes if n_bytes else None
    return Evaluation(loss, _exp(loss), bits_per_byte, n_tokens, n_bytes)


def evaluate_loss(
    model: Transformer,
    tokens: Tokens,
    *,
    batch_size: int,
    context_length: int,
    num_batches: int | None = None,
    device: Device | None = None,
    give_up: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
) -> float | None:
    """Return the mean loss, in nats a token, on at most ``num_batches`` batches of fixed windows.

    The windows are spread evenly over the tokens; None takes all there are. ``give_up`` is asked
    before each batch; once it says so there is no result. Several ``ranks`` share the batches, and
    all get the result. Where the model is cut over them they stop together, each after as many
    batches as the others.
    """
    ranks = ranks or Ranks()
    limit = None if num_batches is None else num_batches * batch_size
    starts = fixed_windows(len(tokens), context_length, limit)
    windows = _batches(starts, batch_size, context_length)
    mine = windows[ranks.rank :: ranks.count]
    counted = len(mine)
    if is_cut(model):
        mine += windows[:1] * (math.ceil(len(windows) / ranks.count) - counted)
        give_up = partial(_any_gives_up, ranks, give_up)
    wanted = itertools.takewhile(lambda _: not give_up(), mine)
    nats, rows_done = 0.0, 0
    with released(model):
        for place, (loss, rows) in enumerate(_losses(model, tokens, wanted, device)):
            if place < counted:
                nats += loss * len(rows)
                rows_done += len(rows)
    all_nats, all_rows = ranks.sums(nats, rows_done)
    return all_nats / all_rows if all_rows == len(starts) else None


def bytes_per_token(
    tokenizer: "Tokenizer",
    tokens: Tokens,
    *,
    vocab_size: int,
    context_length: int,
    limit: int | None = None,
) -> float | None:
    """Bytes of text a token stands for, on the targets of at most ``limit`` fixed windows.

    They are the windows of `evaluate_loss`, so that its loss divided by this and by the logarithm
    of 2 is in bits a byte. Special tokens are no text. None where there is no text at all.
    """
    lengths = _byte_lengths(tokenizer, vocab_size)
    n_tokens, n_bytes = 0, 0
    for starts_B, length in _batches(
        fixed_windows(len(tokens), context_length, limit), _ROWS_AT_ONCE, context_length
    ):
        targets_BT = read_windows(tokens, starts_B, length)[:, 1:]
        n_tokens += targets_BT.size
        n_bytes += int(lengths[targets_BT].sum())
    return n_bytes / n_tokens if n_bytes else None


def bits_per_byte(loss: float, bytes_per_token: float | None) -> float | None:
    """A loss in nats a token as bits a byte, where it is known how many bytes a token has."""
    return None if bytes_per_token is None else loss / math.log(2) / bytes_per_token


def _any_gives_up(ranks: Ranks, give_up: Callable[[], bool]) -> bool:
    return ranks.highest(int(give_up()))[0] > 0


# Starts of a batch's rows, and their length.
_Windows = tuple[NDArray[np.int64], int]


def _batches(starts: NDArray[np.int64], batch_size: int, context_length: int) -> list[_Windows]:
    parts = range(0, len(starts), batch_size)
    return [(starts[part : part + batch_size], context_length) for part in parts]


@torch.no_grad()
def _losses(
    model: Transformer, tokens: Tokens, windows: Iterable[_Windows], device: Device | None
) -> Iterator[tuple[float, NDArray[np.int64]]]:
    """The mean loss of each batch with its rows, the model in evaluation mode meanwhile."""
    device = device or Device(model.lm_head.weight.device)
    was_training = model.training
    model.eval()
    try:
        waiting: list[tuple[Tensor, NDArray[np.int64]]] = []
        for starts_B, context_length in windows:
            rows = read_windows(tokens, starts_B, context_length)
            _check_ids(rows, starts_B, model.config.vocab_size)
            inputs_BT, targets_BT = to_batch(rows, device.device)
            with device.autocast():
                waiting.append((model(inputs_BT, targets_BT), rows))
            if len(waiting) == _LOSSES_AT_ONCE:
                yield from _fetched(waiting)
                waiting = []
        yield from _fetched(waiting)
    finally:
        model.train(was_training)


def _fetched(
    waiting: list[tuple[Tensor, NDArray[np.int64]]],
) -> Iterator[tuple[float, NDArray[np.int64]]]:
    if waiting:
        losses = torch.stack([loss for loss, _ in waiting]).tolist()
        yield from zip(losses, (rows for _, rows in waiting), strict=True)


def _check_ids(rows: NDArray[np.int64], starts_B: NDArray[np.int64], vocab_size: int) -> None:
    outside = (rows < 0) | (rows >= vocab_size)
    if outside.any():
        row, column = np.argwhere(outside)[0].tolist()
        raise MalformedError(
            f"token {int(starts_B[row]) + column:,} is {rows[row, column]}, outside the model's "
            f"vocabulary of {vocab_size:,}",
            hint="evaluate on tokens made with the tokenizer the model was trained with",
        )


def _byte_lengths(tokenizer: "Tokenizer", vocab_size: int) -> NDArray[np.int64]:
    """Bytes of each id's own text; none for special tokens and for ids that have no token."""
    lengths = np.zeros(vocab_size, dtype=np.int64)
    special = {token.encode() for token in tokenizer.special_tokens}
    for token_id, token in tokenizer.vocab.items():
        if token_id < vocab_size and token not in special:
            lengths[token_id] = len(token)
    return lengths


def _exp(loss: float) -> float:
    """The perplexity of a loss; beyond the floats it is infinite."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
