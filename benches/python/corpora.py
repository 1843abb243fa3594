"""Where the benchmarks' texts come from: corpora, a text of every machine's own, and their forms.

The corpora are zstd files in one folder (``$LMKIT_SHARED``, else ``shared`` beside the repository);
the text called ``python`` is the standard library's own sources. All of them are made once in
``benches/.cache``. Documents end with ``<|endoftext|>``.
"""

import gzip
import os
import random
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("LMKIT_SHARED", ROOT.parent / "shared"))
CACHE = ROOT / "benches" / ".cache"
SEPARATOR = "<|endoftext|>"

TEXTS = {
    "english": ["books_200M.txt", "books_b_200M.txt"],
    "code": ["code_80M.txt"],
    "zhja": ["zhja_40M.txt"],
}
OWN = "python"


def require_shared() -> None:
    """Leave with a sentence where the corpora are absent."""
    if not (SHARED / "corpora").is_dir():
        sys.exit(f"error: no corpora in {SHARED}\nhint: set LMKIT_SHARED to their folder")


def text(name: str, megabytes: int | None = None) -> Path:
    """The text called ``name`` as one plain file, or its first ``megabytes`` (of 10**6 bytes).

    A head ends after a whole document, so that every tool sees the same text.
    """
    whole = made(f"{name}.txt", own_text if name == OWN else unpacked(name))
    if megabytes is None or whole.stat().st_size <= megabytes * 10**6:
        return whole

    def head(out: BinaryIO) -> None:
        with whole.open("rb") as source:
            data = source.read(megabytes * 10**6)
        out.write(data[: data.rfind(SEPARATOR.encode()) + len(SEPARATOR)])

    return made(f"{name}-{megabytes}.txt", head)


def made(name: str, write: Callable[[BinaryIO], None]) -> Path:
    """The file ``name`` of the cache, written by ``write`` where it is not there yet."""
    path = CACHE / name
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = CACHE / f"{name}.{os.getpid()}.partial"
        with partial.open("wb") as out:
            write(out)
        partial.rename(path)
    return path


def unpacked(name: str) -> Callable[[BinaryIO], None]:
    """Writes the corpora that make up the text ``name``."""

    def write(out: BinaryIO) -> None:
        for part in TEXTS[name]:
            with (SHARED / "corpora" / f"{part}.zst").open("rb") as packed:
                zstandard.ZstdDecompressor().copy_stream(packed, out)

    return write


def own_text(out: BinaryIO) -> None:
    """Writes the standard library's sources, those that are UTF-8, a document a file."""
    library = Path(sysconfig.get_path("stdlib"))
    for source in sorted(library.rglob("*.py")):
        if "site-packages" in source.parts:
            continue
        data = source.read_bytes()
        try:
            data.decode()
        except UnicodeDecodeError:
            continue
        if SEPARATOR.encode() not in data:
            out.write(data + SEPARATOR.encode())


def documents(path: Path) -> Iterator[bytes]:
    """The documents of a text in memory, each with the separator that ends it."""
    for document in path.read_bytes().split(SEPARATOR.encode()):
        if document:
            yield document + SEPARATOR.encode()


def shuffled(megabytes: int) -> Path:
    """All corpora's documents in random order, over and over, up to ``megabytes`` (of 10**6)."""

    def write(out: BinaryIO) -> None:
        pool = [document for name in TEXTS for document in documents(text(name))]
        order = random.Random(0)
        written = 0
        while written < megabytes * 10**6:
            order.shuffle(pool)
            for document in pool:
                out.write(document)
                written += len(document)
                if written >= megabytes * 10**6:
                    break

    return made(f"shuffled-{megabytes}.txt", write)


def compressed(path: Path, ending: str) -> Path:
    """The text as ``.gz`` or ``.zst``, at each format's usual level."""

    def write(out: BinaryIO) -> None:
        with path.open("rb") as source:
            if ending == "zst":
                zstandard.ZstdCompressor(level=3).copy_stream(source, out)
            else:
                with gzip.GzipFile("", "wb", 6, out, 0) as packed:
                    shutil.copyfileobj(source, packed, 1 << 20)

    return made(f"{path.name}.{ending}", write)


def as_folder(path: Path) -> Path:
    """The text as a folder of files, a document each, in order and without separators."""
    folder = CACHE / f"{path.stem}-files"
    if not folder.exists():
        partial = folder.with_suffix(f".{os.getpid()}.partial")
        partial.mkdir()
        for number, document in enumerate(documents(path)):
            (partial / f"{number:06}.txt").write_bytes(document[: -len(SEPARATOR)])
        partial.rename(folder)
    return folder


def one_line() -> Path:
    """A file of one byte: what a tool needs for it is its start-up."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / "one-byte.txt"
    path.write_bytes(b"a")
    return path
