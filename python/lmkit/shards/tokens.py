"""A folder of shards to one row of token ids: a virtual concatenation, read shard by shard.

Opening reads the manifest alone. A token costs a search for its shard and, where that is not open,
a few system calls; memory is some bytes a shard, whatever they hold, and at most `OPEN_FILES` are
open. What is read of a shard is what the manifest speaks of: header, size and sidecar are checked
when it is first opened, and where its time of change is not the one its sidecar knows (a copy), its
checksum too, once. The wrong tool for reading all of a set in order: that wants larger reads.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

import numpy as np

from lmkit.byte_size import byte_size
from lmkit.errors import MalformedError, MismatchError, MissingFileError, UsageError
from lmkit.shards.cache import ShardCache
from lmkit.shards.folder import Expected, Folder, LocalFolder, RemoteFolder, is_remote
from lmkit.shards.manifest import Manifest, parse_manifest
from lmkit.shards.names import MANIFEST, PLAN, SUFFIXES
from lmkit.shards.receipt import HEADER_BYTES
from lmkit.shards.verify import file_checksum
from lmkit.token_file import Sidecar, TokenReader, read_sidecar

if TYPE_CHECKING:
    import numpy.typing as npt

Notice = Callable[[str], object]

OPEN_FILES = 128  # of shards, and as many of document ends
CACHE_LIMIT = "20G"
END_BYTES = 8
TRIES = 5  # to open what another process may put out of the cache meanwhile
AT_ONCE = 1 << 20


class _Reader(Protocol):
    """An open shard."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> "npt.NDArray[np.integer[Any]]": ...

    def close(self) -> None: ...


OneReader = TypeVar("OneReader", bound=_Reader)


class ShardedTokens:
    """The ids of a data set, as if its shards were one file; read-only.

    ``len``, single ids and slices work as with an array: ``tokens[10:20]`` is a new int32 array,
    ``tokens[3]`` an int. Not for several threads at once.

    Args:
        path: a folder of shards, its ``manifest.json``, or the address of either.
        cache_dir: where copies of remote shards are kept; `default_cache_dir` unless given.
        cache_limit: how large they may get together, in bytes or as ``"20G"``; 0 reads ranges of
            remote shards and keeps nothing, which leaves their checksums unverified.
        notice: told what the user should know, a sentence at a time.

    Attributes:
        path: as given.
        manifest: what the data set says of itself.
        dtype: of single ids and slices: int32.
        shape: ``(len(tokens),)``.

    Raises:
        MissingFileError: there is no such data set.
        MalformedError: its manifest is none, or one of a newer lmkit.
        UsageError: the address needs a package that is not installed.
    """

    dtype = np.dtype(np.int32)
    ndim = 1

    def __init__(
        self,
        path: str,
        *,
        cache_dir: str | None = None,
        cache_limit: str | int = CACHE_LIMIT,
        notice: Notice | None = None,
    ) -> None:
        self.path = path
        self._notice = notice or (lambda _: None)
        self._folder = _folder(path, cache_dir, cache_limit)
        where = self._folder.where(MANIFEST)
        self.manifest: Manifest = parse_manifest(self._folder.manifest(), where)
        shards = self.manifest.shards
        self._ends = np.cumsum(
            np.fromiter((shard.tokens for shard in shards), np.int64, len(shards))
        )
        self._file_dtype = np.dtype(self.manifest.dtype)
        self.shape = (self.manifest.tokens,)
        self._tokens: _OpenFiles[_Reader] = _OpenFiles(self._open_shard)
        self._document_ends: _OpenFiles[TokenReader] = _OpenFiles(self._open_document_ends)
        self._trusted: set[tuple[str, int]] = set()
        self._has_told = False
        self._tell_of_reading()

    def __len__(self) -> int:
        return self.manifest.tokens

    @property
    def tokenizer(self) -> str | None:
        """The fingerprint of the tokenizer the ids are of."""
        return self.manifest.tokenizer

    @property
    def fingerprint(self) -> str:
        """Tells its content from any other's: a hash of its shards' checksums, in order."""
        shards = self.manifest.shards
        said = [f"{self.manifest.dtype} {len(shards)}"]
        said += [f"{shard.tokens} {shard.checksum} {shard.documents_checksum}" for shard in shards]
        digest = hashlib.sha256("\n".join(said).encode()).hexdigest()
        return f"shards:{digest}"

    @property
    def shard_ends(self) -> "npt.NDArray[np.int64]":
        """How many tokens the shards up to and with each one hold."""
        return self._ends

    def read(self, start: int, stop: int) -> "npt.NDArray[np.integer[Any]]":
        """The ids from ``start`` up to ``stop``, in the shards' dtype.

        Raises:
            UsageError: there are not so many.
            MalformedError: a shard is torn.
            MismatchError: a shard, or its sidecar, is not what the manifest says.
            MissingFileError: a shard is not there.
        """
        if not 0 <= start <= stop <= len(self):
            raise UsageError(f"{self.path}: no tokens {start} to {stop} among {len(self)}")
        ids = np.empty(stop - start, self._file_dtype)
        number = int(np.searchsorted(self._ends, start, side="right"))
        done = 0
        while done < len(ids):
            end = int(self._ends[number])
            reader = self._tokens.get(number)
            first = start + done - (end - len(reader))
            last = min(len(reader), first + len(ids) - done)
            ids[done : done + last - first] = reader.read(first, last)
            done += last - first
            number += 1
        return ids

    def document_ends(self, number: int) -> TokenReader:
        """Reads where the documents of shard ``number`` end: int64, counted from its beginning.

        Raises:
            MissingFileError: the shard has no file of document ends.
            MalformedError: it does not fit the shard or the manifest.
        """
        return self._document_ends.get(number)

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> "npt.NDArray[np.int32]": ...

    def __getitem__(self, index: int | slice) -> "int | npt.NDArray[np.int32]":
        if not isinstance(index, slice):
            place = range(len(self))[index]
            return int(self.read(place, place + 1)[0])
        start, stop, step = index.indices(len(self))
        places = range(start, stop, step)
        if not places:
            return np.empty(0, np.int32)
        low, high = min(places[0], places[-1]), max(places[0], places[-1])
        ids = self.read(low, high + 1).astype(np.int32, copy=False)
        return ids[:: abs(step)] if step > 0 else ids[::-1][:: abs(step)]

    def __array__(
        self, dtype: "npt.DTypeLike | None" = None, copy: bool | None = None
    ) -> "npt.NDArray[Any]":
        if copy is False:
            raise ValueError("the ids of several files become an array by copying only")
        return self[:].astype(dtype or self.dtype, copy=False)

    def close(self) -> None:
        """Close all files."""
        self._tokens.close()
        self._document_ends.close()

    def __repr__(self) -> str:
        shards = len(self.manifest.shards)
        return f"ShardedTokens({self.path!r}, tokens={len(self)}, shards={shards})"

    def _open_shard(self, number: int) -> _Reader:
        shard = self.manifest.shards[number]
        known = Sidecar(self.manifest.dtype, shard.tokens, checksum=shard.checksum)
        name = self.manifest.token_file(shard)
        if isinstance(self._folder, RemoteFolder) and not self._folder.is_cached:
            return _RangeReader(self._folder, name, shard.file_bytes, known, self.manifest)
        header = shard.file_bytes - shard.tokens * self._file_dtype.itemsize
        file = Expected(name, shard.file_bytes, header, shard.checksum)
        return self._open(number, file, known)

    def _open_document_ends(self, number: int) -> TokenReader:
        shard = self.manifest.shards[number]
        size = HEADER_BYTES + END_BYTES * shard.documents
        name = self.manifest.document_ends_file(shard)
        file = Expected(name, size, HEADER_BYTES, shard.documents_checksum)
        is_new = (name, number) not in self._trusted
        reader = self._open(number, file, Sidecar("int64", shard.documents))
        if is_new:
            self._check_document_ends(reader, number)
        return reader

    def _open(self, number: int, file: Expected, known: Sidecar) -> TokenReader:
        """Open a file that the folder gives, and check it if it is opened for the first time."""
        where = self._folder.where(file.name)
        for tries_left in reversed(range(TRIES)):
            path = self._folder.fetch(file)
            try:
                reader = TokenReader(path, known, called=where)
            except MissingFileError:
                if self._folder.verifies and tries_left:
                    continue  # another process needed the room
                raise
            if not self._folder.verifies and (file.name, number) not in self._trusted:
                try:
                    self._check(path, file, known, reader)
                except BaseException:
                    reader.close()
                    raise
            self._trusted.add((file.name, number))
            return reader
        raise AssertionError  # the last try returns or raises

    def _check(self, path: str, file: Expected, known: Sidecar, reader: TokenReader) -> None:
        """Check a local file against the manifest: by its sidecar, or by reading it."""
        sidecar = read_sidecar(path)
        if sidecar is not None:
            said = (sidecar.tokens, sidecar.dtype, sidecar.checksum)
            if said != (known.tokens, known.dtype, known.checksum):
                raise MismatchError(
                    f"{path}: its sidecar and {MANIFEST} do not say the same of it",
                    hint="make this shard again, or copy it again with its sidecar",
                )
            if sidecar.modified_ns == reader.modified_ns:
                return
            self._tell_once(
                f"{path} is not as old as its sidecar says, so it was copied or changed: each such "
                "shard is read once, when it is first needed, to verify it (copies that keep "
                "times, by cp -p or rsync -t, are not)"
            )
        if file_checksum(Path(path), begin=file.header) != file.checksum:
            raise MismatchError(
                f"{path}: its checksum is not the one in {MANIFEST}: damaged or changed",
                hint="make this shard again, or copy it again from where it was made",
            )

    def _check_document_ends(self, reader: TokenReader, number: int) -> None:
        """Check that ends never fall and that the last is the shard's."""
        shard, before = self.manifest.shards[number], 0
        where = self._folder.where(self.manifest.document_ends_file(shard))
        for start in range(0, len(reader), AT_ONCE):
            ends = reader.read(start, min(start + AT_ONCE, len(reader)))
            if ends[0] < before or (np.diff(ends) < 0).any():
                raise MalformedError(f"{where}: its document ends fall")
            before = int(ends[-1])
        if before != shard.tokens:
            raise MalformedError(
                f"{where}: its documents end at token {before:,}, the shard at {shard.tokens:,}"
            )

    def _tell_once(self, sentence: str) -> None:
        if not self._has_told:
            self._notice(sentence)
        self._has_told = True

    def _tell_of_reading(self) -> None:
        """Say what reading from afar will be like, where that is worth a word."""
        folder = self._folder
        if not isinstance(folder, RemoteFolder):
            return
        total = sum(shard.file_bytes for shard in self.manifest.shards)
        if not folder.is_cached:
            self._notice(f"{self.path} is read by ranges, which leaves its checksums unverified")
        elif total > folder.cache_limit:
            self._notice(
                f"{self.path} has {total:,} bytes, more than --data_cache_limit "
                f"({folder.cache_limit:,}): windows at random places will fetch shards again and "
                "again; a larger limit helps, or 0, which reads ranges without a cache"
            )


class _OpenFiles(Generic[OneReader]):
    """The files that were read last, by shard, kept open."""

    def __init__(self, open_one: Callable[[int], OneReader]) -> None:
        self._open_one = open_one
        self._open: OrderedDict[int, OneReader] = OrderedDict()

    def get(self, number: int) -> OneReader:
        """The reader of a shard, opened if it is not open."""
        if (reader := self._open.get(number)) is None:
            if len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            reader = self._open[number] = self._open_one(number)
        else:
            self._open.move_to_end(number)
        return reader

    def close(self) -> None:
        """Close all."""
        while self._open:
            self._open.popitem()[1].close()


class _RangeReader:
    """Reads a remote shard by ranges; that ids lie where the manifest says is checked of each."""

    def __init__(
        self, folder: RemoteFolder, name: str, size: int, known: Sidecar, manifest: Manifest
    ) -> None:
        self._folder, self._name, self._known, self._manifest = folder, name, known, manifest
        self._dtype = np.dtype(known.dtype).newbyteorder("<")
        self._offset = size - known.tokens * self._dtype.itemsize
        found = folder.size(name)
        if found != size:
            raise MalformedError(
                f"{folder.where(name)}: torn: it has {found:,} bytes instead of {size:,}"
            )

    def __len__(self) -> int:
        return self._known.tokens

    def read(self, start: int, stop: int) -> "npt.NDArray[np.integer[Any]]":
        size = self._dtype.itemsize
        first, last = self._offset + start * size, self._offset + stop * size
        raw = self._folder.read(self._name, first, last) if stop > start else b""
        where = self._folder.where(self._name)
        if len(raw) != last - first:
            raise MalformedError(f"{where}: the file has shrunk while it was read")
        ids = np.frombuffer(raw, self._dtype)
        lowest, highest = self._manifest.smallest_id, self._manifest.largest_id
        if len(ids) and not (lowest or 0) <= ids.min() <= ids.max() <= (highest or 0):
            raise MalformedError(
                f"{where}: holds ids that {MANIFEST} does not know of: damaged or changed"
            )
        return ids

    def close(self) -> None:
        """Nothing is open."""


def default_cache_dir() -> Path:
    """Where copies of remote shards are kept: ``lmkit/data`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "lmkit" / "data"


def is_sharded(typed: str) -> bool:
    """Whether a path or address names a data set of shards rather than one file."""
    return (
        is_remote(typed)
        or Path(typed).name == MANIFEST
        or any((Path(typed) / name).exists() for name in (MANIFEST, PLAN))
    )


def _folder(typed: str, cache_dir: str | None, cache_limit: str | int) -> Folder:
    place = typed.removesuffix(MANIFEST) if typed.endswith(f"/{MANIFEST}") else typed
    place = "." if typed == MANIFEST else place
    if is_remote(place) and place.endswith(SUFFIXES):
        raise UsageError(
            f"{typed} is one token file: from elsewhere only data sets of shards are read",
            hint="copy the file here, or make shards of the text with lmkit tokenize --shards",
        )
    if not is_remote(place):
        return LocalFolder(place)
    limit = byte_size(cache_limit, "--data_cache_limit")
    folder = Path(cache_dir) if cache_dir else default_cache_dir()
    return RemoteFolder(place, ShardCache(folder, limit) if limit else None)
