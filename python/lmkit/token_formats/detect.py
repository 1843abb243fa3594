"""A path → the format of the token file there, or to be written there."""

import os
from pathlib import Path

from lmkit.errors import MissingFileError, UsageError
from lmkit.token_file import sidecar_path
from lmkit.token_formats import llmc, megatron

READ = ("npy", "bin", "nanogpt", "llmc", "megatron", "shards")
WRITTEN = ("npy", "bin", "nanogpt", "llmc", "megatron", "text")

_TOLD_BY_SUFFIX = {".npy": "npy", ".idx": "megatron", ".txt": "text"}


def source_format(path: str | os.PathLike[str]) -> str:
    """The format of what is at ``path``, by its name and its first bytes.

    Raises:
        MissingFileError: there is nothing.
        UsageError: neither tells.
    """
    place = Path(path)
    if place.is_dir():
        if (place / "manifest.json").exists():
            return "shards"
        raise UsageError(f"{path}: a folder, and no manifest.json in it says that it holds shards")
    known = _TOLD_BY_SUFFIX.get(place.suffix.lower())
    if known in READ:
        return known
    if megatron.index_path(place).exists() and megatron.tokens_path(place).exists():
        return "megatron"
    first = llmc.files(path)[0]
    if not first.exists():
        raise MissingFileError(f"{path}: no such file or folder")
    if llmc.has_magic(first):
        return "llmc"
    if sidecar_path(path).exists():
        return "bin"
    raise UsageError(
        f"{path}: no sidecar, index or header says what it is",
        hint="--from nanogpt takes it as uint16 ids alone, --from bin as int32",
    )


def target_format(path: str | os.PathLike[str]) -> str:
    """The format that the name ``path`` asks for.

    Raises:
        UsageError: it does not tell.
    """
    known = _TOLD_BY_SUFFIX.get(Path(path).suffix.lower())
    if known in WRITTEN:
        return known
    raise UsageError(
        f"{path}: its name does not tell a format",
        hint=f"--to is one of {', '.join(WRITTEN)}",
    )
