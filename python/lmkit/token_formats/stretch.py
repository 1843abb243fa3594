"""A row of ids within a file, read in blocks with plain reads; every format comes down to these."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lmkit.errors import MalformedError, MissingFileError, SystemRefusedError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BLOCK = 1 << 18  # ids


@dataclass(frozen=True)
class Stretch:
    """Numbers of one kind in a row.

    Attributes:
        path: the file.
        dtype: of each.
        offset: of the first, in bytes.
        count: how many.
    """

    path: str
    dtype: "np.dtype[Any]"
    offset: int
    count: int

    def read(self, start: int, stop: int) -> "npt.NDArray[np.integer[Any]]":
        """The numbers from ``start`` up to ``stop``; the file is opened for this one read."""
        with opened(self.path) as file:
            return self._read(file, start, stop)

    def blocks(self, size: int = BLOCK) -> Iterator["npt.NDArray[np.integer[Any]]"]:
        """All of them, in blocks of at most ``size``.

        Raises:
            MissingFileError: the file has gone.
            MalformedError: it ends too early.
            SystemRefusedError: the system refused a read.
        """
        with opened(self.path) as file:
            for start in range(0, self.count, size):
                yield self._read(file, start, min(start + size, self.count))

    def _read(self, file: int, start: int, stop: int) -> "npt.NDArray[np.integer[Any]]":
        import numpy as np

        numbers = np.empty(stop - start, self.dtype)
        view = memoryview(cast("Any", numbers)).cast("B") if numbers.size else memoryview(b"")
        at = self.offset + start * self.dtype.itemsize
        while view:
            try:
                raw = os.pread(file, len(view), at)
            except OSError as error:
                raise SystemRefusedError(f"{self.path}: {error.strerror}") from error
            if not raw:
                raise MalformedError(f"{self.path}: torn: it ends at byte {at:,}")
            view[: len(raw)] = raw
            view, at = view[len(raw) :], at + len(raw)
        return numbers


class opened:  # noqa: N801 - a function in use
    """A file to read by position; what the system refuses becomes an error of ours."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = -1

    def __enter__(self) -> int:
        try:
            self._file = os.open(self._path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except FileNotFoundError as error:
            raise MissingFileError(f"{self._path}: no such file or folder") from error
        except OSError as error:
            raise SystemRefusedError(f"{self._path}: {error.strerror}") from error
        return self._file

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def head_of(path: str | Path, count: int) -> bytes:
    """The first ``count`` bytes of a file, or as many as it has."""
    with opened(os.fspath(path)) as file:
        try:
            return os.pread(file, count, 0)
        except OSError as error:
            raise SystemRefusedError(f"{path}: {error.strerror}") from error


def size_of(path: str | Path) -> int:
    """How many bytes a file has."""
    with opened(os.fspath(path)) as file:
        return os.fstat(file).st_size
