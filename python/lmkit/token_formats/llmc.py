"""llm.c's token files: 256 little-endian int32 words, then the ids.

The words are a magic number, a version, how many ids follow, and zeros. llm.c's dev/data names two
kinds: GPT-2's (20240520, version 1, uint16), which modded-nanogpt reads too, and Llama 3's
(20240801, version 7, uint32). The number of ids is an int32, so that longer data come as several
files, ``NAME_000000.bin``, ``NAME_000001.bin`` and so on; a glob names them all.
"""

import glob
import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from lmkit.errors import MalformedError, MissingFileError
from lmkit.token_formats.stretch import Stretch, head_of, size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADER_BYTES = 1024
MOST_TOKENS = (1 << 31) - 1
KINDS = {"uint16": (20240520, 1), "uint32": (20240801, 7)}

_DTYPES = {magic: (version, dtype) for dtype, (magic, version) in KINDS.items()}


def header(dtype: str, tokens: int) -> bytes:
    """The 1024 bytes before ``tokens`` ids."""
    return struct.pack("<3i", *KINDS[dtype], tokens).ljust(HEADER_BYTES, b"\0")


def file_names(path: Path, parts: int, *, numbered: bool) -> "Sequence[Path]":
    """The files that are written for ``path``; several end in ``.bin`` where it has no ending."""
    if parts <= 1 and not numbered:
        return [path]
    suffix = path.suffix or ".bin"
    return [path.with_name(f"{path.stem}_{part:06d}{suffix}") for part in range(parts)]


def numbered_like(first: Path) -> list[Path]:
    """The files beside ``first``, which ends in 000000, that a glob would take for its others."""
    name = re.compile(re.escape(first.stem[:-6]) + r"\d{6}" + re.escape(first.suffix))
    folder = first.parent
    return sorted(path for path in folder.glob(f"*{first.suffix}") if name.fullmatch(path.name))


def files(path: str | os.PathLike[str]) -> list[Path]:
    """The files that ``path`` names, which may be a glob, in order.

    Raises:
        MissingFileError: a glob that names none.
    """
    named = os.fspath(path)
    if not glob.has_magic(named) or Path(named).exists():
        return [Path(named)]
    found = sorted(Path(name) for name in glob.glob(named))  # noqa: PTH207 - a pattern as typed
    if not found:
        raise MissingFileError(f"{named}: no such file or folder")
    return found


def has_magic(path: Path) -> bool:
    """Whether a file begins like one of llm.c's, and has the size that its header speaks of."""
    head = head_of(path, HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        return False
    magic, version, tokens = struct.unpack_from("<3i", head)
    if magic not in _DTYPES or version != _DTYPES[magic][0]:
        return False
    width = 2 if _DTYPES[magic][1] == "uint16" else 4
    return size_of(path) == HEADER_BYTES + width * int(tokens)


def stretch(path: Path) -> Stretch:
    """The ids of one file.

    Raises:
        MalformedError: its header is not one of llm.c's, or speaks of another size.
    """
    import numpy as np

    head, size = head_of(path, HEADER_BYTES), size_of(path)
    if len(head) < HEADER_BYTES:
        raise MalformedError(f"{path}: torn: {len(head)} bytes are less than llm.c's header")
    magic, version, tokens = struct.unpack_from("<3i", head)
    if magic not in _DTYPES:
        known = " or ".join(map(str, _DTYPES))
        raise MalformedError(f"{path}: begins with {magic}, and not with llm.c's magic {known}")
    wanted, name = _DTYPES[magic]
    if version != wanted:
        raise MalformedError(
            f"{path}: llm.c's magic {magic} in version {version}; version {wanted} is known"
        )
    dtype = np.dtype(name).newbyteorder("<")
    if tokens < 0 or size != HEADER_BYTES + tokens * dtype.itemsize:
        raise MalformedError(
            f"{path}: torn: its header speaks of {tokens:,} tokens of {name}, "
            f"{HEADER_BYTES + tokens * dtype.itemsize:,} bytes in all, but it has {size:,}"
        )
    return Stretch(os.fspath(path), dtype, HEADER_BYTES, tokens)
