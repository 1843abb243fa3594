"""Loss, perplexity and bits per byte: of which tokens, and disturbing nothing."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from byte_tokenizer import END, ByteTokenizer
from lmkit.errors import MalformedError, UsageError
from lmkit.lm.batches import TokenBatches
from lmkit.lm.evaluate import evaluate, evaluate_loss
from lmkit.lm.model import Transformer
from lmkit.model_config import ModelConfig

TOKENIZER = ByteTokenizer()
TOKENS = np.random.default_rng(0).integers(0, 256, 203).astype(np.int32)
CONFIG = ModelConfig(vocab_size=300, d_model=16, n_layers=2, n_heads=2, d_ff=24, max_seq_len=20)


@pytest.fixture
def model() -> Transformer:
    return Transformer(CONFIG, torch.Generator().manual_seed(0))


def plain_nats(model: Transformer, windows: list[np.ndarray]) -> float:
    total = 0.0
    for window in windows:
        ids = torch.from_numpy(window.astype(np.int64))
        logits = model(ids[None, :-1])[0]
        total += functional.cross_entropy(logits, ids[1:], reduction="sum").item()
    return total


def test_every_token_but_the_first_is_predicted_once(model):
    windows = [TOKENS[start : start + 21] for start in range(0, 202, 20)]
    assert len(windows[-1]) == 3
    result = evaluate(model, TOKENIZER, TOKENS, batch_size=4)
    assert result.tokens == result.bytes == 202
    assert result.loss == pytest.approx(plain_nats(model, windows) / 202, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert result.bits_per_byte == pytest.approx(result.loss / math.log(2))


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_changes_nothing(model, batch_size):
    expected = evaluate(model, TOKENIZER, TOKENS, batch_size=4)
    assert evaluate(model, TOKENIZER, TOKENS, batch_size=batch_size).loss == pytest.approx(
        expected.loss, rel=1e-5
    )


def test_bytes_are_those_of_the_tokens_own_text(model):
    tokenizer = ByteTokenizer()
    tokenizer.vocab[65] = b"three bytes or more"
    tokens = np.array([1, 65, 257, 66, 65], dtype=np.int32)
    result = evaluate(model, tokenizer, tokens)
    assert (
        result.bytes == 2 * 19 + 1
    )  # the first token is not predicted, special tokens are no text
    assert result.bits_per_byte == pytest.approx(result.loss * 4 / math.log(2) / 39)
    only_ends = evaluate(model, tokenizer, np.array([257, 257, 257]))
    assert only_ends.bits_per_byte is None
    assert END in tokenizer.special_tokens


def test_fixed_windows_give_the_same_loss_every_time_and_disturb_nothing(model):
    model.train()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    batches = TokenBatches(TOKENS, batch_size=2, context_length=8)
    before = batches.batch(5)[0]
    options = {"batch_size": 2, "context_length": 8, "num_batches": 3}
    losses = {evaluate_loss(model, TOKENS, **options) for _ in range(3)}
    assert len(losses) == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(batches.batch(5)[0], before)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_limited_evaluation_is_the_mean_over_its_windows(model):
    loss = evaluate_loss(model, TOKENS, batch_size=2, context_length=8, num_batches=3)
    starts = np.arange(6) * 25 // 6 * 8
    windows = [TOKENS[start : start + 9] for start in starts]
    assert loss == pytest.approx(plain_nats(model, windows) / 48, rel=1e-5)
    result = evaluate(model, TOKENIZER, TOKENS, batch_size=2, context_length=8, num_batches=3)
    assert result.loss == pytest.approx(loss, rel=1e-6)
    assert result.tokens == 48


def test_many_batches_are_fetched_together_and_all_counted(model, monkeypatch):
    monkeypatch.setattr("lmkit.lm.evaluate._LOSSES_AT_ONCE", 4)
    done = []
    evaluate(
        model, TOKENIZER, TOKENS, batch_size=1,
        progress=lambda *progress: done.append(progress),
    )  # fmt: skip
    assert done == [(0, number, 11) for number in range(1, 12)]


def test_a_text_shorter_than_a_window_will_do(model):
    result = evaluate(model, TOKENIZER, TOKENS[:5])
    assert result.tokens == 4
    for few in (TOKENS[:1], TOKENS[:0]):
        with pytest.raises(UsageError, match="too few to predict"):
            evaluate(model, TOKENIZER, few)


def test_an_id_the_model_does_not_have_is_named_with_its_place(model):
    tokens = TOKENS.copy()
    tokens[150] = 300
    with pytest.raises(MalformedError, match="token 150 is 300, outside the model's vocabulary"):
        evaluate(model, TOKENIZER, tokens)
    assert model.training


def test_an_infinite_perplexity_is_said_to_be_so(model):
    with torch.no_grad():
        model.lm_head.weight.mul_(1e6)
    assert evaluate(model, TOKENIZER, TOKENS).perplexity == math.inf
