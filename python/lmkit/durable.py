"""Bytes to a file, or files to a folder, that is either whole or not there, whatever happens.

A file is written beside its final name, flushed, synced and renamed, and then its folder is synced,
so that a crash of the process or of the machine leaves the old file or the new one. The cost is two
disk syncs a file; for lines that are only ever appended (a log) it is the wrong tool.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lmkit.errors import SystemRefusedError
from lmkit.process import is_alive

TEMPORARY_SUFFIX = ".tmp"
OUTPUT_SUFFIX = ".lmkit-tmp"  # of what stands among files of others


@contextmanager
def durable_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write; it appears under ``path`` when the block ends without an error.

    What writers that were killed left of the same file is removed.
    """
    sweep_dead(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            yield file
            sync_open(file)
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and not isinstance(error, SystemRefusedError):
            raise refused("write", path, error) from error
        name_as_final(error, path)
        raise


def write_durably(path: Path, content: bytes) -> None:
    """Replace the file at ``path`` by ``content``."""
    with durable_file(path) as file:
        file.write(content)


@contextmanager
def durable_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it appears as ``path`` when the block ends without an error.

    What is at ``path`` already is replaced as a whole: whether it may be is the caller's to know.
    What writers that were killed left of the same folder is removed.
    """
    sweep_dead(path)
    partial, old = (beside(path, f"{os.getpid()}{end}") for end in ("", ".old"))
    try:
        partial.mkdir()
        yield partial
        for file in partial.iterdir():
            sync_file(file)
        sync_folder(partial)
        if path.exists():
            path.replace(old)
        partial.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        if old.exists() and not path.exists():
            old.replace(path)
        if isinstance(error, OSError) and not isinstance(error, SystemRefusedError):
            raise refused("write", path, error) from error
        name_as_final(error, path)
        raise
    finally:
        for folder in (partial, old):
            remove(folder)


def sweep_dead(path: Path) -> None:
    """Remove what killed writers of the file or folder ``path`` left beside it.

    One that was killed between its two renames left the old folder alone: it is put back.
    """
    name = _temporary(path)
    try:
        found = [(name.fullmatch(one.name), one) for one in path.parent.iterdir()]
    except OSError as error:
        raise refused("write", path, error) from error
    for match, left in found:
        if match is None or is_alive(int(match[1])):
            continue
        if match[2] and not path.exists():
            left.replace(path)
        else:
            remove(left)


def name_as_final(error: BaseException, path: Path) -> None:
    """Let what the system refused of an output be told by the name that it would have had."""
    if isinstance(error, SystemRefusedError):
        # A function, as a name may hold what stands for groups.
        error.args = (_temporary(path).sub(lambda _: path.name, str(error)),)


def _temporary(path: Path) -> re.Pattern[str]:
    """The names that an output has while it is not whole, with the process that writes it."""
    suffixes = "|".join(map(re.escape, (TEMPORARY_SUFFIX, OUTPUT_SUFFIX)))
    return re.compile(rf"\.{re.escape(path.name)}\.(\d+)(\.old)?({suffixes})")


def beside(path: Path, words: str) -> Path:
    """The temporary name of an output that is told from others of the same place by ``words``."""
    return path.with_name(f".{path.name}.{words}{OUTPUT_SUFFIX}")


def sync_open(file: BinaryIO) -> None:
    """Make what was written to an open file outlive a crash of the machine."""
    file.flush()
    os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Make the content of a file outlive a crash of the machine."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a crash of the machine."""
    if os.name == "nt":  # cannot open a folder; its renames are durable once the file is
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_temporaries(folder: Path) -> list[Path]:
    """Remove what killed writers left in a folder that no one else writes to; tell what it was."""
    stale = sorted(folder.glob(f".*{TEMPORARY_SUFFIX}"))
    for path in stale:
        remove(path)
    return stale


def remove(path: Path) -> None:
    """Remove a file or folder if the system lets us: it may be another user's.

    Ctrl-C that comes while a folder is being removed leaves nothing of it either.
    """
    if path.is_dir():
        try:
            shutil.rmtree(path, ignore_errors=True)
        except KeyboardInterrupt:
            shutil.rmtree(path, ignore_errors=True)
            raise
    else:
        with suppress(OSError):
            path.unlink()


def refused(verb: str, path: Path | str, error: OSError) -> SystemRefusedError:
    """What the system said, as an error that names the file."""
    return SystemRefusedError(f"cannot {verb} {path}: {error.strerror or error}")
