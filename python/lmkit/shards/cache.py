"""Files of far-away data sets, kept here within a limit: verified, shared, the oldest leave first.

A file is kept under its checksum, so that data sets share what is equal and nothing stale is ever
taken. It appears there only when it is whole and its checksum was found right, and carries a fixed
time of change from then on: whoever alters it gives it another, and it is fetched anew. Its time of
access is that of its last use, set here whatever the file system is told about such times.

Several processes may share the folder. Each file is fetched by one of them while the others wait;
room is made under one lock, and a file being written counts with its whole size. What a reader has
open stays readable when it is put out of the folder.
"""

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmkit.errors import (
    LmkitError,
    MalformedError,
    MismatchError,
    SystemRefusedError,
    UsageError,
)
from lmkit.shards.verify import file_checksum

VERIFIED_NS = 1_000_000_000 * 10**9  # the time of change of what was verified: September 2001
LOCKS = 64  # files fetched at once at most, by all processes together
PARTIAL_SUFFIX = ".lmkit-tmp"
PAUSE = 0.1  # seconds, while the room is taken by what others are writing

_CHECKSUM = re.compile(r"xxh3-128:([0-9a-f]{32})")
# .KEY.PROCESS.SIZE.lmkit-tmp: the size it will have, whatever it has so far.
_PARTIAL = re.compile(rf"\..*\.(\d+){re.escape(PARTIAL_SUFFIX)}")


class ShardCache:
    """A folder of verified copies.

    Args:
        folder: made when it is first needed, and again when it vanishes.
        limit: how many bytes all copies together may have.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit

    def fetch(
        self,
        name: str,
        size: int,
        header: int,
        checksum: str,
        download: Callable[[Path], None],
    ) -> Path:
        """The place of a verified copy, which ``download`` writes if there is none yet.

        Args:
            name: what errors call the file.
            size: of the whole file, in bytes.
            header: how many bytes at its beginning the checksum leaves out.
            checksum: ``xxh3-128:`` and 32 digits.
            download: writes the file to a path.

        Raises:
            UsageError: the file alone is larger than the limit.
            MalformedError: what was downloaded has another size.
            MismatchError: it has another checksum.
            SystemRefusedError: the folder cannot be written to, or the disk is full.
        """
        if size > self.limit:
            raise UsageError(
                f"{name} has {size:,} bytes, more than the cache may hold ({self.limit:,})",
                hint="pass a larger --data_cache_limit, or 0 to read ranges without a cache",
            )
        digits = _CHECKSUM.fullmatch(checksum)
        if digits is None:
            raise MalformedError(f"{name}: {checksum!r} in its manifest is no checksum")
        place = self.folder / digits[1]
        try:
            if self._use(place, size):
                return place
            with self._locked(f".{int(place.name[:8], 16) % LOCKS:02}.lock"):
                if not self._use(place, size):  # another process may have been quicker
                    self._write(place, name, size, (header, checksum), download)
        except LmkitError:
            raise
        except OSError as error:
            raise SystemRefusedError(
                f"cannot keep {name} in the cache {self.folder}: {error.strerror or error}",
                hint="--data_cache_dir names another folder, --data_cache_limit another size",
            ) from error
        return place

    def _use(self, place: Path, size: int) -> bool:
        """Whether there is a verified copy; it becomes the one that was used last."""
        try:
            found = place.stat()
        except FileNotFoundError:
            return False
        if (found.st_size, found.st_mtime_ns) != (size, VERIFIED_NS):
            place.unlink(missing_ok=True)
            return False
        with suppress(OSError):  # a cache that may only be read serves as it is
            os.utime(place, ns=(time.time_ns(), VERIFIED_NS))
        return True

    def _write(
        self,
        place: Path,
        name: str,
        size: int,
        expected: tuple[int, str],
        download: Callable[[Path], None],
    ) -> None:
        partial = self.folder / f".{place.name}.{os.getpid()}.{size}{PARTIAL_SUFFIX}"
        file = self._reserve(partial, size)
        try:
            download(partial)
            _verify(partial, name, size, *expected)
            os.fsync(file)
            os.utime(partial, ns=(time.time_ns(), VERIFIED_NS))
            partial.replace(place)
        finally:
            os.close(file)  # its lock goes with it
            with suppress(OSError):
                partial.unlink()

    def _reserve(self, partial: Path, size: int) -> int:
        """Make room for ``size`` bytes; the open and locked file that takes it."""
        while True:
            with self._locked(".room.lock"):
                if self._make_room(size):
                    file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                    fcntl.flock(file, fcntl.LOCK_EX)
                    return file
            time.sleep(PAUSE)

    def _make_room(self, size: int) -> bool:
        """Remove what was not used for longest until ``size`` bytes more fit; whether they do."""
        copies, used = [], 0
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                if partial := _PARTIAL.fullmatch(entry.name):
                    if _is_abandoned(entry.path):
                        Path(entry.path).unlink()
                    else:
                        used += int(partial[1])
                elif not entry.name.startswith("."):
                    found = entry.stat()
                    used += found.st_size
                    copies.append((found.st_atime_ns, entry.path, found.st_size))
        for _, path, freed in sorted(copies):
            if used + size <= self.limit:
                break
            Path(path).unlink(missing_ok=True)
            used -= freed
        return used + size <= self.limit

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold a lock of the folder, which is made where it is not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)


def _verify(path: Path, name: str, size: int, header: int, checksum: str) -> None:
    found = path.stat().st_size
    if found != size:
        raise MalformedError(f"{name}: torn: it has {found:,} bytes instead of {size:,}")
    if file_checksum(path, begin=header) != checksum:
        raise MismatchError(
            f"{name}: its checksum is not the one in the manifest: the file was damaged or changed",
            hint="make this shard again, or copy it again from where it was made",
        )


def _is_abandoned(path: str) -> bool:
    """Whether the process that was writing a file is gone."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True
