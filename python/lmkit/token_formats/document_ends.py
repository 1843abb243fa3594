"""Where documents end: rising positions, each the number of ids up to and with its last one."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lmkit.errors import MalformedError
from lmkit.token_formats.stretch import Stretch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_CHUNK = 1 << 16


class DocumentEnds(Protocol):
    """The ends of some documents."""

    def count(self) -> int:
        """How many there are."""
        ...

    def chunks(self) -> Iterator["npt.NDArray[np.int64]"]:
        """Their ends, int64, in order."""
        ...


class StoredEnds:
    """Ends in files of int64 (``NAME.docs.npy``), of files whose ids follow one another.

    Args:
        parts: of each file its ends, and how many ids it has.
    """

    def __init__(self, parts: list[tuple[Stretch, int]]) -> None:
        self._parts = parts

    def count(self) -> int:
        """How many there are."""
        return sum(stored.count for stored, _ in self._parts)

    def chunks(self) -> Iterator["npt.NDArray[np.int64]"]:
        """Their ends, int64, in order."""
        import numpy as np

        base = 0
        for stored, ids in self._parts:
            last = 0
            for chunk in stored.blocks(_CHUNK):
                rising = np.diff(chunk.astype(np.int64), prepend=last)
                if (rising < 0).any():
                    raise MalformedError(f"{stored.path}: document ends that fall")
                last = int(chunk[-1])
                yield chunk.astype(np.int64) + base
            if last != ids:
                raise MalformedError(
                    f"{stored.path}: the last document ends at token {last:,} of {ids:,}"
                )
            base += ids


class OneDocument:
    """All of it is one document; nothing is none."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def count(self) -> int:
        """One, or none."""
        return int(self._tokens > 0)

    def chunks(self) -> Iterator["npt.NDArray[np.int64]"]:
        """The one end."""
        import numpy as np

        if self._tokens:
            yield np.array([self._tokens], np.int64)


class EndsAfter:
    """Documents end after each id of one value, and with the last id. Ends are kept in a file.

    Args:
        end_id: that value.
        folder: where the file may be; it has no name, and goes when this does.
    """

    def __init__(self, end_id: int, folder: Path) -> None:
        self.end_id = end_id
        self._spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as this
        self._count = self._seen = self._last = 0

    def close(self) -> None:
        """Drop them."""
        self._spool.close()

    def look_at(self, ids: "npt.NDArray[np.integer]") -> None:
        """Take note of the ends in ``ids``, which follow those seen before."""
        import numpy as np

        self._add(np.flatnonzero(ids == self.end_id).astype(np.int64) + (self._seen + 1))
        self._seen += len(ids)

    def finish(self) -> None:
        """All ids were seen."""
        import numpy as np

        if self._last < self._seen:
            self._add(np.array([self._seen], np.int64))

    def _add(self, ends: "npt.NDArray[np.int64]") -> None:
        if len(ends):
            self._spool.write(ends.tobytes())
            self._count, self._last = self._count + len(ends), int(ends[-1])

    def count(self) -> int:
        """How many there are."""
        return self._count

    def chunks(self) -> Iterator["npt.NDArray[np.int64]"]:
        """Their ends, int64, in order."""
        import numpy as np

        self._spool.seek(0)
        while raw := self._spool.read(8 * _CHUNK):
            yield np.frombuffer(raw, np.int64)
