"""Which of a tokenizer's tokens ends a text, and begins the next.

lmkit's own is ``<|endoftext|>``; tokenizers made elsewhere have other names for it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmkit.tokenizer import Tokenizer

END_OF_TEXT = "<|endoftext|>"
NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")


def end_of_text(tokenizer: "Tokenizer") -> tuple[str, int] | None:
    """The token that ends a text, and its id; None where no known one is in the vocabulary."""
    for name in NAMES:
        if name != END_OF_TEXT and name not in tokenizer.special_tokens:
            continue  # text such as "</s>" may be an ordinary token
        ids = list(tokenizer.encode(name))
        if len(ids) == 1:
            return name, ids[0]
    return None
