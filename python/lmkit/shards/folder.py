"""Where the files of a data set lie, here or far away, as files that can be read here.

A local folder gives its files as they are. A remote one (any address fsspec knows: ``s3://``,
``gs://``, ``https://``, ``memory://``) gives copies from a bounded local cache, each verified
against its checksum before it is used; without a cache it gives nothing but ranges of bytes, which
nobody can verify.
"""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lmkit.errors import LmkitError, MissingFileError, SystemRefusedError, UsageError
from lmkit.shards import json_file
from lmkit.shards.cache import ShardCache
from lmkit.shards.names import MANIFEST

Found = TypeVar("Found")

PAUSES = (0.5, 2.0, 5.0)  # seconds, before each further try to reach a remote file
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")


@dataclass(slots=True)
class Expected:
    """What a manifest says of a file.

    Attributes:
        name: in its folder.
        size: in bytes.
        header: how many bytes come before those that are summed up.
        checksum: ``xxh3-128:`` and 32 digits.
    """

    name: str
    size: int
    header: int
    checksum: str


class Folder(Protocol):
    """Files of one data set.

    Attributes:
        name: the folder as typed.
        verifies: whether the files it gives are verified already.
    """

    name: str
    verifies: bool

    def manifest(self) -> bytes:
        """The bytes of ``manifest.json``."""
        ...

    def fetch(self, file: Expected) -> str:
        """A path where the file can be opened now; it may be gone a moment later."""
        ...

    def where(self, name: str) -> str:
        """What errors call a file."""
        ...


class LocalFolder:
    """A folder of this machine."""

    verifies = False

    def __init__(self, path: str) -> None:
        self.name = path
        self._prefix = os.path.join(path, "")  # noqa: PTH118 - paths are slow, and shards are many

    def manifest(self) -> bytes:
        """The bytes of ``manifest.json``, or an error that says what is not there."""
        try:
            return json_file.read_bytes(Path(self._prefix + MANIFEST))
        except MissingFileError as error:
            raise MissingFileError(
                f"{self.name}: no {MANIFEST} in it: not a finished data set",
                hint="lmkit tokenize --finalize writes it when every shard is there",
            ) from error

    def fetch(self, file: Expected) -> str:
        """The file's own path."""
        return self._prefix + file.name

    def where(self, name: str) -> str:
        """The file's path."""
        return self._prefix + name


class RemoteFolder:
    """A folder at an address that fsspec knows."""

    verifies = True

    def __init__(self, address: str, cache: ShardCache | None) -> None:
        self.name = address
        self._cache = cache
        self._system, path = _file_system(address)
        self._path = path.rstrip("/")

    @property
    def is_cached(self) -> bool:
        """Whether files are fetched whole, rather than by ranges."""
        return self._cache is not None

    @property
    def cache_limit(self) -> int:
        """How many bytes of files are kept here at most."""
        return self._cache.limit if self._cache is not None else 0

    def manifest(self) -> bytes:
        """The bytes of ``manifest.json``."""
        return self._ask(MANIFEST, lambda path: bytes(self._system.cat_file(path)))

    def fetch(self, file: Expected) -> str:
        """The file's place in the cache, after it was downloaded and verified."""
        if self._cache is None:
            raise UsageError(
                f"{self.where(file.name)} is read whole, which needs a cache",
                hint="pass a --data_cache_limit above 0",
            )

        def download(target: Path) -> None:
            self._ask(file.name, lambda path: self._system.get_file(path, str(target)))

        where = self.where(file.name)
        return str(self._cache.fetch(where, file.size, file.header, file.checksum, download))

    def read(self, name: str, start: int, stop: int) -> bytes:
        """The bytes of a file from ``start`` up to ``stop``; fewer where it ends before."""
        return self._ask(
            name, lambda path: bytes(self._system.cat_file(path, start=start, end=stop))
        )

    def size(self, name: str) -> int:
        """How many bytes a file has."""
        return int(self._ask(name, self._system.size) or 0)

    def where(self, name: str) -> str:
        """The file's address."""
        return f"{self.name.rstrip('/')}/{name}"

    def _ask(self, name: str, question: Callable[[str], Found]) -> Found:
        """What the file system answers about a file; a network that fails is asked again."""
        path = f"{self._path}/{name}"
        for pause in (*PAUSES, None):
            try:
                return question(path)
            except FileNotFoundError as error:
                raise MissingFileError(f"{self.where(name)}: no such file") from error
            except LmkitError:
                raise
            except Exception as error:  # every file system raises its own
                refused = isinstance(error, PermissionError | NotImplementedError)
                if pause is None or refused:
                    raise SystemRefusedError(f"{self.where(name)}: {_said(error)}") from error
                time.sleep(pause)
        raise AssertionError  # the last try has no pause


def is_remote(typed: str) -> bool:
    """Whether this is an address rather than a path."""
    return _ADDRESS.match(typed) is not None


def _file_system(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path there."""
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise UsageError(f"{address} needs fsspec", hint="pip install 'lmkit[remote]'") from error
    try:
        system, path = url_to_fs(address)
    except ImportError as error:  # fsspec names the package that this kind of address needs
        raise UsageError(f"{address}: {_said(error)}", hint="install what it names") from error
    except ValueError as error:
        raise UsageError(f"{address}: {_said(error)}") from error
    except OSError as error:
        raise SystemRefusedError(f"{address}: {_said(error)}") from error
    return system, str(path)


def _said(error: Exception) -> str:
    """What an error of another package says, on one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
