"""A token file to data that a run may trust: its ids fit the model, its tokenizer is the run's.

A sidecar that still describes its file answers at once; otherwise the file is read through, once,
before the first step, and what that finds (the largest id, a hash) is not written anywhere.
"""

import hashlib
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmkit.errors import MalformedError, MismatchError
from lmkit.lm.report import Report
from lmkit.token_file import Sidecar, TokenFileWarning, TokenReader
from lmkit.tokenizer import Tokenizer

TOKENS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class TrainingData:
    """A checked token file.

    Attributes:
        path: the file as typed.
        tokens: reads it.
        fingerprint: tells its content from any other's.
    """

    path: str
    tokens: TokenReader
    fingerprint: str

    def identity(self) -> dict[str, Any]:
        """Which data this is, as plain values."""
        return {"path": self.path, "tokens": len(self.tokens), "fingerprint": self.fingerprint}


def open_data(path: str, tokenizer: Tokenizer, vocab_size: int, report: Report) -> TrainingData:
    """Open a token file, or say in one sentence why a model must not be trained on it."""
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always", TokenFileWarning)
        tokens = TokenReader(path)
    for remark in remarks:
        report.notice(str(remark.message))
    refuse_other_tokenizer(tokens, tokenizer, "the one given")
    sidecar = tokens.sidecar
    if sidecar is not None and _fits(sidecar, vocab_size):
        fingerprint = sidecar.checksum
    else:
        fingerprint = _read_through(path, tokens, vocab_size, report)
    return TrainingData(path, tokens, fingerprint)


def refuse_other_tokenizer(tokens: TokenReader, tokenizer: Tokenizer, whose: str) -> None:
    """Raise where the sidecar of a token file names another tokenizer than this one."""
    sidecar = tokens.sidecar
    if sidecar is not None and sidecar.tokenizer not in (None, tokenizer.fingerprint):
        raise MismatchError(
            f"{tokens.path} was made with another tokenizer than {whose}",
            hint="tokenize the text with the tokenizer of the model",
        )


def _fits(sidecar: Sidecar, vocab_size: int) -> bool:
    """Whether a sidecar that still describes its file says that all ids lie inside."""
    ends = (sidecar.smallest_id, sidecar.largest_id)
    inside = all(end is not None and 0 <= end < vocab_size for end in ends)
    return inside and bool(sidecar.checksum)


def _read_through(path: str, tokens: TokenReader, vocab_size: int, report: Report) -> str:
    """Check every id; a hash of them all."""
    digest = hashlib.sha256()
    with report.progress(f"Checking {path}", "tokens") as tick:
        for start in range(0, len(tokens), TOKENS_AT_ONCE):
            ids = tokens.read(start, min(start + TOKENS_AT_ONCE, len(tokens)))
            _refuse_outside(ids, start, path, vocab_size)
            digest.update(ids.astype("<i8", copy=False).tobytes())
            if tick is not None:
                tick(0, start + len(ids), len(tokens))
    return f"sha256:{digest.hexdigest()}"


def _refuse_outside(ids: NDArray[np.integer], start: int, path: str, vocab_size: int) -> None:
    outside = (ids < 0) | (ids >= vocab_size)
    if outside.any():
        index = int(np.argmax(outside))
        raise MalformedError(
            f"token {start + index:,} of {path} is {ids[index]}, outside --vocab_size {vocab_size}",
            hint="pass the --vocab_size of the tokenizer the file was made with, or a file made "
            "with this one",
        )
