"""A token file to data that a run may trust: its ids fit the model, its tokenizer is the run's.

A data set of shards, here or far away, is read as one file. Text is taken too: it is tokenized
once, into a token file beside it that later runs find.
A sidecar that still describes its file answers at once; otherwise the file is read through, once,
before the first step, and what that finds (the largest id, a hash) is not written anywhere.
"""

import glob
import hashlib
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmkit.config import TrainConfig
from lmkit.errors import (
    LmkitError,
    MalformedError,
    MismatchError,
    MissingFileError,
    UsageError,
)
from lmkit.lm.batches import Mixture
from lmkit.lm.document_mask import end_of_document_id
from lmkit.lm.documents import (
    Documents,
    DocumentTokens,
    Tick,
    TokenSource,
    documents_of_file,
    joined,
)
from lmkit.lm.report import Report
from lmkit.shards.tokens import ShardedTokens, is_sharded
from lmkit.token_file import Sidecar, TokenFileWarning, TokenReader, sidecar_path
from lmkit.tokenize_files import tokenize
from lmkit.tokenizer import Tokenizer

OTHER_VOCABULARY = (
    "pass the --vocab_size of the tokenizer the file was made with, or a file made with this one"
)
TOKENS_AT_ONCE = 1 << 20
NPY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class TrainingData:
    """A checked token file, data set of shards, or mixture of them.

    Attributes:
        path: as typed.
        tokens: reads it.
        fingerprint: tells its content from any other's.
    """

    path: str
    tokens: TokenReader | ShardedTokens | Mixture | DocumentTokens
    fingerprint: str

    def identity(self) -> dict[str, Any]:
        """Which data this is, as plain values."""
        return {"path": self.path, "tokens": len(self.tokens), "fingerprint": self.fingerprint}


def open_all(typed: str, tokenizer: Tokenizer, config: TrainConfig, report: Report) -> TrainingData:
    """Open what ``--train_data`` names: one, or several with weights, ``a.npy=3,b/=1``."""
    parts = parse_weights(typed)
    opened = [open_data(path, tokenizer, config, report) for path, _ in parts]
    if len(parts) == 1:
        return opened[0]
    weights = [weight for _, weight in parts]
    known = [f"{one.fingerprint} {weight}" for one, weight in zip(opened, weights, strict=True)]
    digest = hashlib.sha256("\n".join(known).encode()).hexdigest()
    mixture = Mixture([_as_they_are(one.tokens) for one in opened], weights)
    documents = [one.tokens.documents for one in opened if isinstance(one.tokens, DocumentTokens)]
    tokens = DocumentTokens(mixture, joined(documents)) if documents else mixture
    return TrainingData(typed, tokens, f"mixture:{digest}")


def _as_they_are(tokens: TokenSource) -> TokenSource:
    return tokens.tokens if isinstance(tokens, DocumentTokens) else tokens


def parse_weights(typed: str) -> list[tuple[str, float]]:
    """The files of ``--train_data`` with their weights, 1 where none is given."""
    if "," not in typed or Path(typed).exists():
        return [(typed, 1.0)]
    found = []
    for part in typed.split(","):
        path, equals, weight = part.rpartition("=")
        try:
            found.append((path, float(weight)) if equals else (part, 1.0))
        except ValueError:
            raise UsageError(
                f"--train_data {part}: {weight!r} is no weight",
                hint="several files are given as books.npy=3,code.npy=1",
            ) from None
        if not 0 < found[-1][1] < math.inf:
            raise UsageError(f"--train_data {part}: a weight must be above 0, and finite")
    return found


def open_data(path: str, tokenizer: Tokenizer, config: TrainConfig, report: Report) -> TrainingData:
    """Open one of these, or say in one sentence why a model must not be trained on it."""
    vocab_size = config.model.vocab_size
    if is_sharded(path):
        return _open_shards(path, tokenizer, config, report)
    if not is_token_file(path):
        path = tokenized(path, tokenizer, report)
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
    if not config.respect_documents:
        return TrainingData(path, tokens, fingerprint)
    with report.progress(f"Finding documents in {path}", "tokens") as tick:
        return TrainingData(path, by_documents(tokens, tokenizer, tick), fingerprint)


def _open_shards(
    path: str, tokenizer: Tokenizer, config: TrainConfig, report: Report
) -> TrainingData:
    """Open a data set of shards; what its manifest says of the ids is checked as they are read."""
    tokens = ShardedTokens(
        path,
        cache_dir=config.data_cache_dir,
        cache_limit=config.data_cache_limit,
        notice=report.notice,
    )
    refuse_other_tokenizer(tokens, tokenizer, "the one given")
    manifest, limit = tokens.manifest, config.model.vocab_size
    for token_id in (manifest.smallest_id, manifest.largest_id):
        if token_id is not None and not 0 <= token_id < limit:
            raise MalformedError(
                f"{path} holds id {token_id}, outside --vocab_size {limit}", hint=OTHER_VOCABULARY
            )
    if not config.respect_documents:
        return TrainingData(path, tokens, tokens.fingerprint)
    parted = by_documents(tokens, tokenizer)
    if config.sampling == "epoch":
        with report.progress(f"Counting windows in {path}", "shards") as tick:
            parted.documents.windows(config.context_length, tick)
    return TrainingData(path, parted, tokens.fingerprint)


def by_documents(
    tokens: TokenReader | ShardedTokens, tokenizer: Tokenizer, tick: Tick = None
) -> DocumentTokens:
    """Part tokens into documents: as the files beside shards say, else by ``<|endoftext|>``.

    A file is read through for it, which ``tick`` is told of.
    """
    if isinstance(tokens, ShardedTokens):
        return DocumentTokens(tokens, Documents(tokens.shard_ends, tokens.document_ends))
    end_id = end_of_document_id(tokenizer, "--respect_documents")
    return DocumentTokens(tokens, documents_of_file(tokens, end_id, tick))


def is_token_file(path: str) -> bool:
    """Whether a path names token ids rather than text: by its ending, sidecar or first bytes."""
    if path.endswith((".npy", ".bin")) or sidecar_path(path).exists():
        return True
    try:
        with Path(path).open("rb") as file:
            return file.read(len(NPY_MAGIC)) == NPY_MAGIC
    except OSError:
        return False


def tokenized(path: str, tokenizer: Tokenizer, report: Report) -> str:
    """The token file beside a text that this tokenizer makes of it, made now or before."""
    if Path(path).is_dir():
        raise UsageError(
            f"{path} is a folder, and neither a data set of shards nor a token file nor a text",
            hint="make token files of what is in it with lmkit tokenize",
        )
    if not Path(path).exists() and not glob.has_magic(path):  # before it is called a text
        raise MissingFileError(f"{path}: no such file or folder")
    target = f"{path}.{tokenizer.fingerprint.removeprefix('sha256:')[:12]}.npy"
    if _is_current(Path(target), Path(path)):
        report.notice(f"{path} is text: taking {target}, which was made of it before")
        return target
    report.notice(f"{path} is text: tokenizing it into {target}, which later runs will find")
    with report.progress(f"Tokenizing {path}", "bytes") as tick:
        tokenize(path, target, tokenizer, force=True, progress=tick)
    return target


def _is_current(target: Path, text: Path) -> bool:
    """Whether a token file is whole, with its sidecar, and no older than its text."""
    try:
        if target.stat().st_mtime_ns < text.stat().st_mtime_ns:
            return False
        with TokenReader(target) as tokens:
            return tokens.sidecar is not None
    except (OSError, LmkitError):
        return False


def refuse_other_tokenizer(
    tokens: TokenReader | ShardedTokens, tokenizer: Tokenizer, whose: str
) -> None:
    """Raise where the tokens are known to be another tokenizer's than this one's."""
    if tokens.tokenizer not in (None, tokenizer.fingerprint):
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
            hint=OTHER_VOCABULARY,
        )
