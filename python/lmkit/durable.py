"""Bytes to a file that is either whole or not there, whatever happens meanwhile.

A file is written beside its final name, flushed, synced and renamed, and then its folder is synced,
so that a crash of the process or of the machine leaves the old file or the new one. The cost is two
disk syncs a file; for lines that are only ever appended (a log) it is the wrong tool.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lmkit.errors import SystemRefusedError

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def durable_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write; it appears under ``path`` when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and not isinstance(error, SystemRefusedError):
            raise refused("write", path, error) from error
        raise


def write_durably(path: Path, content: bytes) -> None:
    """Replace the file at ``path`` by ``content``."""
    with durable_file(path) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_temporaries(folder: Path) -> list[Path]:
    """Remove what killed writers left in a folder that no one else writes to; tell what it was."""
    stale = sorted(folder.glob(f".*{TEMPORARY_SUFFIX}"))
    for path in stale:
        path.unlink(missing_ok=True)
    return stale


def refused(verb: str, path: Path | str, error: OSError) -> SystemRefusedError:
    """What the system said, as an error that names the file."""
    return SystemRefusedError(f"cannot {verb} {path}: {error.strerror or error}")
