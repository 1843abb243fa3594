"""Files that appear together, whole, or not at all."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

from lmkit.durable import beside, refused, sweep_dead, sync_folder, sync_open
from lmkit.errors import MissingFileError, already_exists


class Outputs:
    """Writes files under temporary names and puts them in place in one go.

    A context: left by an error, it removes what it wrote.
    """

    def __init__(self) -> None:
        self._made: list[tuple[Path, Path, BinaryIO]] = []
        self._last: set[Path] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for _, temporary, file in self._made:
            with suppress(OSError):  # a full disk refuses what was held back once more
                file.close()
            with suppress(OSError):
                temporary.unlink()

    def create(self, path: Path, *, last: bool = False) -> BinaryIO:
        """A file that will be at ``path``; ``last`` is put in place after the others."""
        sweep_dead(path)
        temporary = beside(path, str(os.getpid()))
        try:
            file = temporary.open("w+b")
        except OSError as error:
            raise refused("write", path, error) from error
        self._made.append((path, temporary, file))
        self._last |= {path} if last else set()
        return file

    def close(self, file: BinaryIO) -> None:
        """Make one of many files durable before the others, so that not all stay open."""
        try:
            sync_open(file)
            file.close()
        except OSError as error:
            path = next(path for path, _, one in self._made if one is file)
            raise refused("write", path, error) from error

    def put_in_place(self, stale: Sequence[Path] = ()) -> None:
        """Make all files durable, remove older ones that would not fit them, and rename."""
        try:
            for _, _, file in self._made:
                if not file.closed:
                    sync_open(file)
                    file.close()
            for older in stale:
                older.unlink(missing_ok=True)
            for path, temporary, _ in sorted(self._made, key=lambda made: made[0] in self._last):
                temporary.replace(path)
            for folder in {path.parent for path, _, _ in self._made}:
                sync_folder(folder)
        except OSError as error:
            raise refused("write", error.filename or self._made[0][0], error) from error
        self._made = []


def check_outputs(paths: Sequence[Path], *, force: bool) -> None:
    """Refuse files that are there already, unless ``force``, and folders that are not."""
    for path in paths:
        if not path.parent.is_dir():
            raise MissingFileError(f"{path.parent}: no such file or folder")
        if path.is_dir() or (path.exists() and not force):
            raise already_exists(path)
