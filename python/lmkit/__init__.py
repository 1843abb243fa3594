"""From raw text to a language model of your own.

    import lmkit

    tok = lmkit.Tokenizer.train("raw_text.txt", vocab_size=10_000)
    lmkit.tokenize("raw_text.txt", "train_data.npy", tok)
    tokens = lmkit.open_tokens("train_data.npy")

``lmkit.lm`` holds the model and the training loop. Importing lmkit loads neither torch nor numpy
nor click; each is loaded by the first call that needs it.
"""

from typing import TYPE_CHECKING

from lmkit._core import __version__
from lmkit.errors import (
    LmkitError,
    MalformedError,
    MismatchError,
    MissingFileError,
    SystemRefusedError,
    TrainingError,
    UsageError,
)
from lmkit.tokenizer import Tokenizer

if TYPE_CHECKING:
    from lmkit.tokenize_files import tokenize
    from lmkit.tokens import open_tokens

__all__ = [
    "LmkitError",
    "MalformedError",
    "MismatchError",
    "MissingFileError",
    "SystemRefusedError",
    "Tokenizer",
    "TrainingError",
    "UsageError",
    "__version__",
    "open_tokens",
    "tokenize",
]

_LAZY = {"open_tokens": "lmkit.tokens", "tokenize": "lmkit.tokenize_files"}


def __getattr__(name: str) -> object:
    """Load ``open_tokens`` and ``tokenize``, which need numpy, when they are first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'lmkit' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
