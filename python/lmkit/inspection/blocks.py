"""A file's bytes, block by block, with progress and errors of ours."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from lmkit import _core
from lmkit.errors import SystemRefusedError
from lmkit.inspection.report import Ask

_BLOCK = 1 << 22


def blocks(path: str | Path, ask: Ask, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The bytes from ``begin`` up to ``end``, or the file's end."""
    try:
        with Path(path).open("rb", buffering=0) as file:
            left = (Path(path).stat().st_size if end is None else end) - begin
            done, total = 0, left
            file.seek(begin)
            while left > 0 and (block := file.read(min(_BLOCK, left))):
                yield block
                left -= len(block)
                done += len(block)
                if ask.tick is not None:
                    ask.tick(done, total)
    except OSError as error:
        raise SystemRefusedError(f"{path}: {error.strerror}") from error


def checksum(path: str | Path, ask: Ask, begin: int = 0, end: int | None = None) -> str:
    """The XXH3-128 of these bytes: ``xxh3-128:`` and 32 digits."""
    summed = _core.Checksum()
    for block in blocks(path, ask, begin, end):
        summed.update(block)
    return summed.text()


def sha256(path: str | Path, ask: Ask) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    summed = hashlib.sha256()
    for block in blocks(path, ask):
        summed.update(block)
    return summed.hexdigest()
