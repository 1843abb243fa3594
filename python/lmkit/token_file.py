"""Token files: a row of token ids on disk, read as an array.

`map_token_file` maps one for looking at; `TokenReader` reads parts of it with plain reads, which
training uses, so that a file that shrinks meanwhile is an error and not the death of the process.
Header, size and sidecar are checked when a file is opened, the ids themselves are not: the sidecar
says how large they get, and is believed only about a file that has not changed since.
"""

import ast
import json
import os
import struct
import warnings
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

from lmkit.errors import MalformedError, MissingFileError, SystemRefusedError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FilePath: TypeAlias = str | os.PathLike[str]

_MAGIC = b"\x93NUMPY"
_HEADER_BYTES = 128
_LONGEST_HEADER = 1 << 16
_DESCR = {"int32": "<i4", "uint16": "<u2", "uint32": "<u4", "int64": "<i8"}
_SHRUNK = "the file has shrunk while it was read"
_DTYPES = ("int32", "uint16", "uint32")


class TokenFileWarning(UserWarning):
    """Something about a token file had to be assumed."""


@dataclass(frozen=True)
class Sidecar:
    """What `lmkit tokenize` knows about a token file, from the JSON file beside it.

    Attributes:
        dtype: ``"int32"``, ``"uint16"`` or ``"uint32"``.
        tokens: how many there are.
        documents: how many documents the text had.
        text_bytes: how long the text was.
        smallest_id: None where there are no tokens, or the file has changed since.
        largest_id: as ``smallest_id``.
        checksum: of the ids' bytes, ``"xxh3-128:..."``.
        tokenizer: the tokenizer's fingerprint.
        vocab_size: the tokenizer's.
        inputs: what the text was read from.
        modified_ns: the token file's time of change when it was written.
        lmkit: the version that wrote it.
    """

    dtype: str
    tokens: int
    documents: int | None = None
    text_bytes: int | None = None
    smallest_id: int | None = None
    largest_id: int | None = None
    checksum: str = ""
    tokenizer: str | None = None
    vocab_size: int | None = None
    inputs: list[str] = field(default_factory=list)
    modified_ns: int | None = None
    lmkit: str | None = None


_SIDECAR_FIELDS = tuple(entry.name for entry in fields(Sidecar))


def sidecar_path(path: FilePath) -> Path:
    """Where the sidecar of the token file ``path`` is: its name and ``.json``."""
    return Path(os.fspath(path) + ".json")


def read_sidecar(path: FilePath) -> Sidecar | None:
    """The sidecar of the token file ``path``; None where there is none.

    Raises:
        MalformedError: there is one, but it is not what `lmkit tokenize` writes.
    """
    place = f"{os.fspath(path)}.json"
    try:
        with open(place, "rb") as file:  # noqa: PTH123 - paths are slow, and shards are many
            raw = json.loads(file.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SystemRefusedError(f"{place}: {error.strerror}") from error
    except ValueError as error:
        raise MalformedError(f"{place}: not JSON: {error}") from error
    try:
        sidecar = Sidecar(**{name: raw[name] for name in _SIDECAR_FIELDS if name in raw})
        checked = [sidecar.tokens, sidecar.smallest_id or 0, sidecar.largest_id or 0]
        usable = sidecar.dtype in _DTYPES and all(isinstance(number, int) for number in checked)
    except (TypeError, AttributeError):
        usable = False
    if not usable:
        raise MalformedError(
            f"{place}: not the sidecar of a token file",
            hint="make the token file again, or remove its sidecar",
        )
    return sidecar


@dataclass(frozen=True)
class _Layout:
    """Where in a file which numbers are."""

    dtype: "np.dtype[Any]"
    offset: int
    tokens: int


class TokenReader:
    """Reads stretches of a token file with plain reads; any integer dtype.

    Args:
        path: a ``.npy`` of one dimension, or a ``.bin``.
        known: what is known of it already; its sidecar is read unless given.
        called: what errors call it; ``path`` unless given.

    Attributes:
        path: as given, or what it is called.
        dtype: of the ids in the file.
        modified_ns: the file's time of change, in nanoseconds.
        sidecar: what the sidecar says, or None. Its smallest and largest id are None unless the
            file's time and size are those it was written with.

    Raises:
        MissingFileError: there is no such file.
        MalformedError: it is no token file, or is not as long as header or sidecar say.

    Examples:
        >>> with TokenReader("train.npy") as reader:
        ...     reader.read(0, 4).shape
        (4,)
    """

    def __init__(
        self, path: FilePath, known: Sidecar | None = None, *, called: str | None = None
    ) -> None:
        self.path = called or os.fspath(path)
        self._file = open_to_read(os.fspath(path), self.path)
        try:
            stat = os.fstat(self._file)
            self.modified_ns = stat.st_mtime_ns
            self.sidecar = _believed(read_sidecar(path), stat) if known is None else known
            self._layout = _layout(self.path, self._file, stat.st_size, self.sidecar)
            _compare(
                self._layout, self.sidecar, self.path, "sidecar" if known is None else "data set"
            )
        except BaseException:
            os.close(self._file)
            self._file = -1
            raise
        self.dtype = self._layout.dtype

    def __len__(self) -> int:
        return self._layout.tokens

    @property
    def tokenizer(self) -> str | None:
        """The fingerprint of the tokenizer the ids are of, as far as its sidecar says."""
        return None if self.sidecar is None else self.sidecar.tokenizer

    def read(self, start: int, stop: int) -> "npt.NDArray[np.integer[Any]]":
        """The ids from ``start`` up to ``stop``, in the file's dtype.

        Raises:
            UsageError: the file does not reach so far.
            MalformedError: the file has shrunk since it was opened.
        """
        if not 0 <= start <= stop <= len(self):
            raise UsageError(f"{self.path}: no tokens {start} to {stop} among {len(self)}")
        at = self._layout.offset + start * self.dtype.itemsize
        return read_numbers(self._file, self.path, self.dtype, at, stop - start, _SHRUNK)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            self.close()

    def __repr__(self) -> str:
        return f"TokenReader({self.path!r}, tokens={len(self)}, dtype={self.dtype})"


def map_token_file(path: FilePath) -> "np.memmap[Any, np.dtype[np.integer[Any]]]":
    """Map a token file as a read-only array; header, size and sidecar are checked.

    A ``.bin`` without a sidecar is taken as int32, with a `TokenFileWarning`. An empty file gives
    an empty array (which is not a map, since nothing can be mapped).

    Args:
        path: a ``.npy`` of one dimension and any integer dtype, or a ``.bin``.

    Raises:
        MissingFileError: there is no such file.
        MalformedError: it is no token file, or is not as long as header or sidecar say.
    """
    import numpy as np

    with TokenReader(path) as reader:
        layout = reader._layout
        if layout.tokens == 0:
            empty = np.empty(0, layout.dtype)
            empty.flags.writeable = False
            return cast("np.memmap[Any, np.dtype[np.integer[Any]]]", empty)
        return np.memmap(
            path, dtype=layout.dtype, mode="r", offset=layout.offset, shape=(layout.tokens,)
        )


def open_to_read(path: str, called: str) -> int:
    """The descriptor of a file, which errors call ``called``."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise MissingFileError(f"{called}: no such file or folder") from error
    except OSError as error:
        raise SystemRefusedError(f"{called}: {error.strerror}") from error
    return file


def read_numbers(
    file: int, path: str, dtype: "np.dtype[Any]", at: int, count: int, short: str
) -> "npt.NDArray[np.integer[Any]]":
    """The ``count`` numbers of an open file from byte ``at`` on, by plain reads.

    Errors name ``path``, and where it ends before the numbers do they say ``short``.
    """
    import numpy as np

    numbers = np.empty(count, dtype)
    view = memoryview(cast("Any", numbers)).cast("B") if count else memoryview(b"")
    while view:
        try:
            raw = os.pread(file, len(view), at)
        except OSError as error:
            raise SystemRefusedError(f"{path}: {error.strerror}") from error
        if not raw:
            raise MalformedError(f"{path}: {short}: it ends at byte {at:,}")
        view[: len(raw)] = raw
        view, at = view[len(raw) :], at + len(raw)
    return numbers


def _believed(sidecar: Sidecar | None, stat: os.stat_result) -> Sidecar | None:
    """The sidecar, without what it says about ids that may have changed since."""
    if sidecar is None or sidecar.modified_ns == stat.st_mtime_ns:
        return sidecar
    return replace(sidecar, smallest_id=None, largest_id=None)


def _layout(path: str, file: int, size: int, sidecar: Sidecar | None) -> _Layout:
    try:
        head = os.pread(file, _HEADER_BYTES, 0)
        if sidecar is not None and head == _header(sidecar):
            return _npy_as_told(path, sidecar, size)
        head += os.pread(file, _LONGEST_HEADER, _HEADER_BYTES)
    except IsADirectoryError as error:
        raise UsageError(
            f"{path}: a folder, not a token file",
            hint="lmkit tokenize makes a token file, or a folder of shards, of the text in it",
        ) from error
    except OSError as error:
        raise SystemRefusedError(f"{path}: {error.strerror}") from error
    if head.startswith(_MAGIC):
        layout = _npy_layout(path, head, size)
    elif path.endswith(".npy"):
        raise MalformedError(f"{path}: not a .npy file: it does not start with its magic bytes")
    else:
        layout = _bin_layout(path, size, sidecar)
    return layout


def _compare(layout: _Layout, known: Sidecar | None, path: str, whose: str) -> None:
    """Raise where a file is not what is known of it."""
    if known is None or (known.tokens, known.dtype) == (layout.tokens, layout.dtype.name):
        return
    raise MalformedError(
        f"{path}: holds {layout.tokens:,} tokens of {layout.dtype}, but its {whose} speaks of "
        f"{known.tokens:,} of {known.dtype}",
        hint="make the token file again, or remove its sidecar if the file is right"
        if whose == "sidecar"
        else "make this shard again, or copy it again from where it was made",
    )


def _header(known: Sidecar) -> bytes:
    """The header that lmkit, and numpy, write for this; parsing others takes ten times as long."""
    shape = f"{{'descr': '{_DESCR.get(known.dtype)}', 'fortran_order': False, "
    shape += f"'shape': ({known.tokens},), }}"
    return _MAGIC + b"\x01\x00v\x00" + shape.encode().ljust(_HEADER_BYTES - 11) + b"\n"


def _npy_layout(path: str, head: bytes, size: int) -> _Layout:
    import numpy as np

    try:
        version = head[6]
        start = {1: 10, 2: 12, 3: 12}[version]
        (length,) = struct.unpack_from("<H" if version == 1 else "<I", head, 8)
        if start + length > len(head):
            raise ValueError("it is cut off")  # noqa: TRY301 - told with the others below
        entries = ast.literal_eval(head[start : start + length].decode("latin-1"))
        dtype = np.dtype(entries["descr"])
        shape = entries["shape"]
    except (KeyError, ValueError, TypeError, SyntaxError, IndexError, struct.error) as error:
        raise MalformedError(f"{path}: damaged .npy header: {error}") from error
    if dtype.kind not in "iu" or not isinstance(shape, tuple) or len(shape) != 1:
        raise MalformedError(
            f"{path}: holds {dtype} of shape {shape}; a token file holds integers in one dimension"
        )
    return _npy_of_size(path, start + length, shape[0], dtype, size)


def _npy_as_told(path: str, known: Sidecar, size: int) -> _Layout:
    """The layout of a file whose header is the one that is known to be, byte by byte."""
    import numpy as np

    dtype = np.dtype(known.dtype).newbyteorder("<")
    return _npy_of_size(path, _HEADER_BYTES, known.tokens, dtype, size)


def _npy_of_size(path: str, offset: int, tokens: int, dtype: "np.dtype[Any]", size: int) -> _Layout:
    if size != offset + tokens * dtype.itemsize:
        raise MalformedError(
            f"{path}: torn: its header speaks of {tokens:,} tokens of {dtype}, "
            f"{offset + tokens * dtype.itemsize:,} bytes in all, but it has {size:,}"
        )
    return _Layout(dtype, offset, tokens)


_WITHOUT_A_SIDECAR = {
    True: "a file of uint16 needs its sidecar, which says so",
    False: "text becomes a token file with lmkit tokenize",
}


def _bin_layout(path: str, size: int, sidecar: Sidecar | None) -> _Layout:
    import numpy as np

    if sidecar is None:
        warnings.warn(
            f"{path} has no sidecar: its tokens are taken as int32", TokenFileWarning, stacklevel=5
        )
    dtype = np.dtype(sidecar.dtype if sidecar else "int32").newbyteorder("<")
    if size % dtype.itemsize:
        raise MalformedError(
            f"{path}: {size:,} bytes are no whole number of {dtype.name} tokens",
            hint=None if sidecar else _WITHOUT_A_SIDECAR[path.endswith(".bin")],
        )
    return _Layout(dtype, 0, size // dtype.itemsize)
