"""A row of ids within a file, read in blocks with plain reads; every format comes down to these."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmkit.errors import SystemRefusedError
from lmkit.token_file import open_to_read, read_numbers

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
        at = self.offset + start * self.dtype.itemsize
        return read_numbers(file, self.path, self.dtype, at, stop - start, "torn")


@contextmanager
def opened(path: str) -> Iterator[int]:
    """A file to read by position; what the system refuses becomes an error of ours."""
    file = open_to_read(path, path)
    try:
        yield file
    finally:
        os.close(file)


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
