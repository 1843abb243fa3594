"""What there is to write: ids in a row → the files of one format."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lmkit import _core
from lmkit.errors import MalformedError
from lmkit.token_file import sidecar_path
from lmkit.token_formats import llmc, megatron
from lmkit.token_formats.document_ends import DocumentEnds
from lmkit.token_formats.outputs import Outputs
from lmkit.token_formats.sources import ends_path

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lmkit.tokenizer import Tokenizer


@dataclass(frozen=True)
class Facts:
    """What is known of all ids once they were seen, for a sidecar.

    Attributes:
        documents: how many, or None.
        text_bytes: of what they stand for, or None.
        smallest_id: None where there are no ids.
        largest_id: None where there are no ids.
        tokenizer: its fingerprint, or None.
        vocab_size: the tokenizer's, or None.
        inputs: where they come from.
    """

    documents: int | None
    text_bytes: int | None
    smallest_id: int | None
    largest_id: int | None
    tokenizer: str | None
    vocab_size: int | None
    inputs: list[str]


class Sink(Protocol):
    """Takes ids in order, in the dtype that it was made for."""

    def write(self, ids: "npt.NDArray[np.integer[Any]]") -> None:
        """Append ``ids``."""
        ...

    def finish(self, ends: DocumentEnds | None, facts: Facts) -> None:
        """All ids were written."""
        ...


def files_of(target: Path, format: str, parts: int, *, numbered: bool) -> Sequence[Path]:  # noqa: A002
    """The files that writing ``format`` to ``target`` makes, sidecars left out."""
    if format == "megatron":
        return [megatron.tokens_path(target), megatron.index_path(target)]
    if format == "llmc":
        return llmc.file_names(target, parts, numbered=numbered)
    return [target]


class ArraySink:
    """lmkit's own ``.npy`` or ``.bin``, its sidecar, and ``NAME.docs.npy`` where ends are known."""

    def __init__(self, outputs: Outputs, path: Path, dtype: str, tokens: int) -> None:
        self._outputs, self._path, self._dtype = outputs, path, dtype
        self._sidecar = outputs.create(sidecar_path(path))
        self._tokens = tokens
        self._header = npy_header(dtype, tokens) if path.suffix == ".npy" else b""
        self._checksum = _core.Checksum()
        # After its sidecar and document ends: it is what readers look for.
        self._file = outputs.create(path, last=True)
        self._file.write(self._header)

    def write(self, ids: "npt.NDArray[np.integer[Any]]") -> None:
        """Append ``ids``."""
        raw = ids.tobytes()
        self._checksum.update(raw)
        self._file.write(raw)

    def finish(self, ends: DocumentEnds | None, facts: Facts) -> None:
        """Describe what was written."""
        self._file.flush()
        stat = os.fstat(self._file.fileno())
        told = {
            "format": 1,
            "dtype": self._dtype,
            "tokens": self._tokens,
            "documents": facts.documents,
            "text_bytes": facts.text_bytes,
            "smallest_id": facts.smallest_id,
            "largest_id": facts.largest_id,
            "checksum": self._checksum.text(),
            "file_bytes": stat.st_size,
            "modified_ns": stat.st_mtime_ns,
            "tokenizer": facts.tokenizer,
            "vocab_size": facts.vocab_size,
            "inputs": facts.inputs,
            "lmkit": _core.__version__,
        }
        self._sidecar.write(json.dumps(told, indent=2, ensure_ascii=False).encode() + b"\n")
        if ends is not None:
            file = self._outputs.create(ends_path(self._path))
            file.write(npy_header("int64", ends.count()))
            for chunk in ends.chunks():
                file.write(chunk.astype("<i8").tobytes())


class RawSink:
    """nanoGPT's ``.bin``: ids alone."""

    def __init__(self, outputs: Outputs, path: Path) -> None:
        self._file = outputs.create(path)

    def write(self, ids: "npt.NDArray[np.integer[Any]]") -> None:
        """Append ``ids``."""
        self._file.write(ids.tobytes())

    def finish(self, ends: DocumentEnds | None, facts: Facts) -> None:
        """Nothing else is written."""


class LlmcSink:
    """llm.c's files, each of at most ``most`` ids; one is open at a time."""

    def __init__(
        self, outputs: Outputs, paths: Sequence[Path], dtype: str, tokens: int, most: int
    ) -> None:
        self._outputs, self._dtype = outputs, dtype
        self._most, self._left = most, tokens
        self._paths = iter(paths)
        self._begin()

    def write(self, ids: "npt.NDArray[np.integer[Any]]") -> None:
        """Append ``ids``."""
        while len(ids):
            if not self._room:
                self._outputs.close(self._file)
                self._begin()
            part, ids = ids[: self._room], ids[self._room :]
            self._file.write(part.tobytes())
            self._room -= len(part)

    def finish(self, ends: DocumentEnds | None, facts: Facts) -> None:
        """Nothing else is written."""

    def _begin(self) -> None:
        self._room = min(self._most, self._left)
        self._left -= self._room
        self._file = self._outputs.create(next(self._paths))
        self._file.write(llmc.header(self._dtype, self._room))


class MegatronSink:
    """Megatron's ``.bin``, and its ``.idx`` at the end."""

    def __init__(self, outputs: Outputs, target: Path, dtype: str) -> None:
        self._dtype = dtype
        self._tokens = outputs.create(megatron.tokens_path(target))
        # Renamed after it: who reads looks for the index.
        self._index = outputs.create(megatron.index_path(target), last=True)

    def write(self, ids: "npt.NDArray[np.integer[Any]]") -> None:
        """Append ``ids``."""
        self._tokens.write(ids.tobytes())

    def finish(self, ends: DocumentEnds | None, facts: Facts) -> None:  # noqa: ARG002 - a Sink's
        """Write the index."""
        if ends is None:
            raise AssertionError("asked for before anything is written")
        megatron.write_index(self._index, self._dtype, ends)


class TextSink:
    """The bytes that the ids stand for."""

    def __init__(self, outputs: Outputs, path: Path, tokenizer: "Tokenizer", source: str) -> None:
        self._file = outputs.create(path)
        self._tokenizer, self._source = tokenizer, source
        self._done = 0

    def write(self, ids: "npt.NDArray[np.integer[Any]]") -> None:
        """Append what ``ids`` stand for."""
        try:
            self._file.write(self._tokenizer.decode_bytes(ids))
        except MalformedError as error:
            raise self._unknown(ids) or error from error
        self._done += len(ids)

    def _unknown(self, ids: "npt.NDArray[np.integer[Any]]") -> MalformedError | None:
        """The error of the first id without a token, with its place among all."""
        known = self._tokenizer.vocab
        for place, token_id in enumerate(ids.tolist()):
            if token_id not in known:
                return MalformedError(
                    f"{self._source}: id {token_id} at index {self._done + place:,} is not in the "
                    f"tokenizer's vocabulary of {len(known):,}",
                    hint="the ids were made with another tokenizer",
                )
        return None

    def finish(self, ends: DocumentEnds | None, facts: Facts) -> None:
        """Nothing else is written."""


def npy_header(dtype: str, count: int) -> bytes:
    """The 128 bytes of NumPy's format 1.0 before ``count`` numbers in a row."""
    import numpy as np

    descr = np.dtype(dtype).newbyteorder("<").str
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({count},), }}"
    return b"\x93NUMPY\x01\x00v\x00" + text.encode().ljust(117) + b"\n"
