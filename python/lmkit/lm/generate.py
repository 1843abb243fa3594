"""A prompt to text, piece by piece as it comes.

Each new token costs one pass over one position, the keys and values before it being kept. The wrong
tool for serving many prompts at once: samples are made one after another.

Axes: V vocabulary.
"""

import codecs
import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from lmkit.errors import LmkitError, MismatchError, UsageError
from lmkit.lm.document_mask import last_document
from lmkit.lm.end_of_text import END_OF_TEXT, end_of_text
from lmkit.lm.model import Transformer
from lmkit.sampling_config import SamplingConfig

if TYPE_CHECKING:
    from lmkit.tokenizer import Tokenizer


class Piece(str):
    """A piece of generated text, never ending within a character.

    Attributes:
        sample: the number of the sample it belongs to, from 0.
    """

    __slots__ = ("sample",)

    sample: int

    def __new__(cls, text: str, sample: int) -> Self:
        """Make a piece of sample number ``sample``."""
        piece = super().__new__(cls, text)
        piece.sample = sample
        return piece


def generate(
    model: Transformer,
    tokenizer: "Tokenizer",
    prompt: str = "",
    *,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    num_samples: int = 1,
) -> Iterator[Piece]:
    """Continue ``prompt``; yields the new text in pieces, one sample after another.

    A sample ends at ``<|endoftext|>`` (or what a tokenizer made elsewhere has for it), which is not
    part of it, or after ``max_new_tokens``. An empty prompt begins a text as those of the training
    data did, after such a token. When the model's ``context_length`` is full, it goes on from the
    last half of it.

    Args:
        model: a trained model; nothing of it is altered.
        tokenizer: the tokenizer it was trained with.
        prompt: where to start; special tokens in it count as such.
        max_new_tokens: the most tokens a sample gets.
        temperature: below 1 for the likely, above 1 for variety; 0 always takes the likeliest.
        top_k: choose among the k likeliest tokens only.
        top_p: choose among the fewest likeliest tokens that have this probability together.
        seed: the same seed gives the same samples; None gives new ones each time. Sample i does not
            depend on how many there are.
        num_samples: how many texts to make.

    Raises:
        UsageError: an argument is out of range, or the prompt is empty and nothing begins a text.
        MismatchError: the tokenizer is not the model's.

    Examples:
        >>> from lmkit.lm import load_model
        >>> model, tokenizer = load_model("checkpoints/")
        >>> pieces = generate(model, tokenizer, "Once", max_new_tokens=8, temperature=0.8, seed=1)
        >>> text = "Once" + "".join(pieces)
        >>> again = generate(model, tokenizer, "Once", max_new_tokens=8, temperature=0.8, seed=1)
        >>> "Once" + "".join(again) == text
        True
    """
    SamplingConfig(  # names the flag that is out of its range
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        num_samples=num_samples,
    )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise MismatchError(
            f"the tokenizer has {tokenizer.vocab_size:,} ids, the model only "
            f"{model.config.vocab_size:,}: they do not belong together"
        )
    end = end_of_text(tokenizer)
    end_id = None if end is None else end[1]
    prompt_ids = first_ids(tokenizer, prompt, "--prompt")
    choice = _Choice(temperature, top_k, top_p, _known_ids(tokenizer, model.config.vocab_size))
    seeds = np.random.SeedSequence(seed).spawn(num_samples)

    # What is wrong with the arguments was said above, at the call; the pieces come when asked for.
    def pieces() -> Iterator[Piece]:
        for sample, seed_sequence in enumerate(seeds):
            generator = torch.Generator().manual_seed(int(seed_sequence.generate_state(1)[0]))
            new_ids = _new_ids(model, prompt_ids, choice, generator)
            texts = _texts(tokenizer, itertools.islice(new_ids, max_new_tokens), end_id)
            yield from (Piece(text, sample) for text in texts)

    return pieces()


def first_ids(tokenizer: "Tokenizer", prompt: str, flag: str) -> list[int]:
    """The ids that a text begins with; ``flag`` gave the prompt.

    Raises:
        UsageError: the prompt is empty and nothing begins a text.
    """
    ids = list(tokenizer.encode(prompt))
    if ids:
        return ids
    end = end_of_text(tokenizer)
    if end is None:
        raise UsageError(
            f"an empty {flag} needs {END_OF_TEXT} in the vocabulary to start from",
            hint=f"pass a {flag}",
        )
    return [end[1]]


def _texts(tokenizer: "Tokenizer", ids: Iterator[int], end_id: int | None) -> Iterator[str]:
    """The text of the ids before ``end_id``, half a character held back until it is whole."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token_id in itertools.takewhile(lambda token_id: token_id != end_id, ids):
        if text := decoder.decode(tokenizer.decode_bytes([token_id])):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


@torch.no_grad()
def _new_ids(
    model: Transformer, prompt_ids: list[int], choice: "_Choice", generator: torch.Generator
) -> Iterator[int]:
    """What the model says after the prompt, without end."""
    limit, device = model.context_length, model.lm_head.weight.device
    if model.document_end is not None:
        prompt_ids = last_document(prompt_ids, model.document_end)
    ids, cache = prompt_ids[-limit:], model.new_cache()
    unseen = ids
    while True:
        if cache[0].length + len(unseen) > limit:
            unseen, cache = ids[-max(1, limit // 2) :], model.new_cache()
        logits_V = model.next_token_logits(torch.tensor([unseen], device=device), cache)[0]
        unseen = [choice.pick(logits_V, generator)]
        ids = ids + unseen if len(ids) < limit else ids[1:] + unseen
        yield unseen[0]


class _Choice:
    """The rule by which logits become one id; only ``known_V`` ids are ever taken."""

    def __init__(
        self, temperature: float, top_k: int | None, top_p: float | None, known_V: Tensor
    ) -> None:
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.unknown_V = ~known_V

    def pick(self, logits_V: Tensor, generator: torch.Generator) -> int:
        # On the CPU, where the same seed draws the same numbers whatever device the model is on.
        logits_V = logits_V.cpu()
        if not logits_V.isfinite().all():
            raise LmkitError(
                "the model's output is not finite: its weights are damaged or diverged"
            )
        logits_V = logits_V.masked_fill(self.unknown_V, -math.inf)
        if self.temperature == 0:
            return int(logits_V.argmax())
        sorted_V, id_V = logits_V.sort(descending=True, stable=True)
        # The largest becomes 0, so that no temperature overflows.
        scaled_V = (sorted_V - sorted_V[0]) / self.temperature
        probability_V = scaled_V[: self.top_k].softmax(-1)
        if self.top_p is not None:
            before_V = probability_V.cumsum(-1) - probability_V
            probability_V = probability_V.masked_fill(before_V >= self.top_p, 0.0)
        return int(id_V[torch.multinomial(probability_V, 1, generator=generator)])


def _known_ids(tokenizer: "Tokenizer", vocab_size: int) -> Tensor:
    """Which of the model's ids have a token; a vocabulary may have gaps, and a model spare ids."""
    known_V = torch.zeros(vocab_size, dtype=torch.bool)
    known_V[list(tokenizer.vocab)] = True
    return known_V
