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
from lmkit.lm.batches import Tokens, evaluation_windows, read_windows, spans_of, to_batch
from lmkit.lm.cross_entropy import IGNORED
from lmkit.lm.device import Device
from lmkit.lm.distributed import Ranks
from lmkit.lm.documents import DocumentTokens, Spans
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
    spans = evaluation_windows(tokens, context_length, limit)
    windows = _batches(spans, batch_size, context_length)
    covered = len(spans) * context_length
    one_by_one = isinstance(tokens, DocumentTokens)
    if num_batches is None and covered < len(tokens) - 1 and not one_by_one:
        rest = len(tokens) - 1 - covered
        windows.append((spans_of(np.array([covered]), rest), rest))
    lengths = _byte_lengths(tokenizer, model.config.vocab_size)
    nats, n_tokens, n_bytes = 0.0, 0, 0
    for done, (loss, rows) in enumerate(_losses(model, tokens, windows, device), start=1):
        targets_N = _targets(rows)
        nats += loss * targets_N.size
        n_tokens += targets_N.size
        n_bytes += int(lengths[targets_N].sum())
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
    spans = evaluation_windows(tokens, context_length, limit)
    windows = _batches(spans, batch_size, context_length)
    mine = windows[ranks.rank :: ranks.count]
    counted = len(mine)
    if is_cut(model):
        mine += windows[:1] * (math.ceil(len(windows) / ranks.count) - counted)
        give_up = partial(_any_gives_up, ranks, give_up)
    wanted = itertools.takewhile(lambda _: not give_up(), mine)
    nats, targets, rows_done = 0.0, 0, 0
    with released(model):
        for place, (loss, rows) in enumerate(_losses(model, tokens, wanted, device)):
            if place < counted:
                n_targets = _targets(rows).size
                nats += loss * n_targets
                targets += n_targets
                rows_done += len(rows)
    all_nats, all_targets, all_rows = ranks.sums(nats, targets, rows_done)
    return all_nats / all_targets if all_rows == len(spans) else None


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
    for spans, length in _batches(
        evaluation_windows(tokens, context_length, limit), _ROWS_AT_ONCE, context_length
    ):
        targets_N = _targets(read_windows(tokens, spans, length))
        n_tokens += targets_N.size
        n_bytes += int(lengths[targets_N].sum())
    return n_bytes / n_tokens if n_bytes else None


def bits_per_byte(loss: float, bytes_per_token: float | None) -> float | None:
    """A loss in nats a token as bits a byte, where it is known how many bytes a token has."""
    return None if bytes_per_token is None else loss / math.log(2) / bytes_per_token


def _any_gives_up(ranks: Ranks, give_up: Callable[[], bool]) -> bool:
    return ranks.highest(int(give_up()))[0] > 0


# Where a batch's rows are, and how many inputs each has.
_Windows = tuple[Spans, int]


def _batches(spans: Spans, batch_size: int, context_length: int) -> list[_Windows]:
    parts = range(0, len(spans), batch_size)
    return [(spans[part : part + batch_size], context_length) for part in parts]


def _targets(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The targets of rows that count."""
    targets_BT = rows[:, 1:]
    return np.extract(targets_BT != IGNORED, targets_BT)


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
        padded = isinstance(tokens, DocumentTokens)
        for spans, context_length in windows:
            rows = read_windows(tokens, spans, context_length)
            _check_ids(rows, spans, model.config.vocab_size)
            inputs_BT, targets_BT = to_batch(rows, device.device, padded=padded)
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


def _check_ids(rows: NDArray[np.int64], spans: Spans, vocab_size: int) -> None:
    outside = (rows < 0) | (rows >= vocab_size)
    outside &= np.arange(rows.shape[1]) < (spans.stops - spans.starts)[:, None]  # no padding
    if outside.any():
        row, column = np.argwhere(outside)[0].tolist()
        place = int(spans.starts[row]) + column
        raise MalformedError(
            f"token {place:,} is {rows[row, column]}, outside the model's vocabulary of "
            f"{vocab_size:,}",
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
