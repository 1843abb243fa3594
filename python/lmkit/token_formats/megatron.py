r"""Megatron-LM's IndexedDataset: ``NAME.bin`` holds the ids, ``NAME.idx`` says what they are.

    bytes of .idx     content, little-endian
    0-8               MMIDIDX\0\0
    9-16              uint64: 1, the version
    17                uint8: a code of the ids' dtype (4 int32, 5 int64, 8 uint16, ...)
    18-25, 26-33      uint64: S sequences, D entries of the document index
    34-               S int32: how many ids each sequence has
                      S int64: where each begins in .bin, in bytes
                      D int64: of each document the number of sequences before it; then S

A document is one sequence unless its sentences were split. Both files are read and written in
blocks, however many documents there are.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lmkit.errors import MalformedError
from lmkit.token_formats.document_ends import DocumentEnds
from lmkit.token_formats.stretch import Stretch, head_of, size_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CODES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
WRITTEN = ("uint16", "int32")

_MAGIC = b"MMIDIDX\0\0"
_HEAD = struct.Struct("<QBQQ")
_HEADER_BYTES = len(_MAGIC) + _HEAD.size
_CHUNK = 1 << 16
_LONGEST = (1 << 31) - 1


def tokens_path(path: Path) -> Path:
    """The ``.bin`` of a data set, which is named by it, its ``.idx``, or the name of both."""
    return _stem(path).with_name(_stem(path).name + ".bin")


def index_path(path: Path) -> Path:
    """The ``.idx``, likewise."""
    return _stem(path).with_name(_stem(path).name + ".idx")


def _stem(path: Path) -> Path:
    return path.with_suffix("") if path.suffix in {".bin", ".idx"} else path


@dataclass(frozen=True)
class Index:
    """What an ``.idx`` holds; tells where documents end.

    Attributes:
        ids: the ids in ``.bin``.
        sizes: int32, one a sequence.
        pointers: int64, one a sequence.
        documents: int64: of each document how many sequences there are up to its end.
    """

    ids: Stretch
    sizes: Stretch
    pointers: Stretch
    documents: Stretch

    def count(self) -> int:
        """How many documents there are."""
        return self.documents.count

    def chunks(self) -> Iterator["npt.NDArray[np.int64]"]:
        """Where they end, int64, in order."""
        import numpy as np

        tokens, sequences = 0, 0
        for chunk in self.documents.blocks(_CHUNK):
            upto = int(chunk[-1])
            if (np.diff(chunk, prepend=sequences) < 0).any() or upto > self.sizes.count:
                raise MalformedError(f"{self.documents.path}: its document index falls")
            sizes = self.sizes.read(sequences, upto).astype(np.int64)
            ends = tokens + np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
            yield ends[chunk - sequences]
            tokens, sequences = int(ends[-1]), upto
        if sequences != self.sizes.count:
            raise MalformedError(
                f"{self.documents.path}: its documents have {sequences:,} of "
                f"{self.sizes.count:,} sequences"
            )

    def check_sequences(self) -> None:
        """That sequences follow one another in ``.bin`` without gaps, and fill it."""
        import numpy as np

        tokens, width = 0, self.ids.dtype.itemsize
        for sizes, pointers in zip(
            self.sizes.blocks(_CHUNK), self.pointers.blocks(_CHUNK), strict=True
        ):
            ends = tokens + np.cumsum(sizes, dtype=np.int64)
            if (sizes < 0).any() or ((ends - sizes) * width != pointers).any():
                raise MalformedError(
                    f"{self.sizes.path}: its sequences do not follow one another in "
                    f"{Path(self.ids.path).name}; only such data sets are read"
                )
            tokens = int(ends[-1])
        if tokens != self.ids.count:
            raise MalformedError(
                f"{self.sizes.path}: speaks of {tokens:,} tokens, "
                f"but {Path(self.ids.path).name} holds {self.ids.count:,}"
            )


def open_index(path: Path) -> Index:
    """The data set at ``path``, its parts of the right sizes.

    Raises:
        MissingFileError: one of the two files is not there.
        MalformedError: they are not Megatron's, or do not belong together.
    """
    import numpy as np

    place = index_path(path)
    head, size = head_of(place, _HEADER_BYTES), size_of(place)
    if not head.startswith(_MAGIC) or len(head) < _HEADER_BYTES:
        raise MalformedError(f"{place}: does not begin with Megatron's magic MMIDIDX")
    version, code, sequences, entries = _HEAD.unpack_from(head, len(_MAGIC))
    if version != 1 or code not in CODES:
        raise MalformedError(
            f"{place}: version {version}, dtype {code}; version 1 and "
            f"dtypes {', '.join(f'{n} ({name})' for n, name in CODES.items())} are known"
        )
    end = _HEADER_BYTES + 12 * sequences + 8 * entries
    if size not in {end, end + sequences} or entries == 0:  # a byte a sequence: its modality
        raise MalformedError(
            f"{place}: torn: its header speaks of {sequences:,} sequences and {entries:,} "
            f"documents, {end:,} bytes in all, but it has {size:,}"
        )
    ids, dtype = tokens_path(path), np.dtype(CODES[code]).newbyteorder("<")
    whole, rest = divmod(size_of(ids), dtype.itemsize)
    if rest:
        raise MalformedError(f"{ids}: torn: no whole number of {dtype.name} tokens")
    name, at = os.fspath(place), _HEADER_BYTES
    index = Index(
        Stretch(os.fspath(ids), dtype, 0, whole),
        Stretch(name, np.dtype("<i4"), at, sequences),
        Stretch(name, np.dtype("<i8"), at + 4 * sequences, sequences),
        Stretch(name, np.dtype("<i8"), at + 12 * sequences + 8, entries - 1),
    )
    if int(Stretch(name, np.dtype("<i8"), at + 12 * sequences, 1).read(0, 1)[0]) != 0:
        raise MalformedError(f"{place}: its document index does not begin at 0")
    index.check_sequences()
    return index


def write_index(file: BinaryIO, dtype: str, ends: DocumentEnds) -> None:
    """Write an ``.idx`` of documents that are one sequence each.

    Raises:
        MalformedError: a document has more tokens than an int32 counts.
    """
    import numpy as np

    code = next(number for number, name in CODES.items() if name == dtype)
    count = ends.count()
    file.write(_MAGIC + _HEAD.pack(1, code, count, count + 1))
    last, done = 0, 0
    for chunk in ends.chunks():
        sizes = np.diff(chunk, prepend=last)
        if (sizes > _LONGEST).any():
            place = int(np.argmax(sizes > _LONGEST))
            raise MalformedError(
                f"document {done + place} has {sizes[place]:,} tokens, and Megatron's index "
                f"counts up to {_LONGEST:,}",
                hint="--end_of_document names the token that ends a document",
            )
        file.write(sizes.astype("<i4").tobytes())
        last, done = int(chunk[-1]), done + len(chunk)
    width, begin = np.dtype(dtype).itemsize, 0
    for chunk in ends.chunks():
        begins = np.concatenate([np.array([begin], np.int64), chunk[:-1]])
        file.write((begins * width).astype("<i8").tobytes())
        begin = int(chunk[-1])
    starts = range(0, count + 1, _CHUNK)
    ranges = (np.arange(start, min(start + _CHUNK, count + 1), dtype="<i8") for start in starts)
    file.writelines(numbers.tobytes() for numbers in ranges)
