"""Where the benchmarks' texts and vocabularies come from.

The corpora are zstd files in one folder (``$LMKIT_SHARED``, else ``shared`` beside the repository),
unpacked once into ``benches/.cache``. Documents end with ``<|endoftext|>``.
"""

import os
import sys
from pathlib import Path

import zstandard

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("LMKIT_SHARED", ROOT.parent / "shared"))
CACHE = ROOT / "benches" / ".cache"
GPT2_VOCAB = SHARED / "gpt2" / "vocab.json"
GPT2_MERGES = SHARED / "gpt2" / "merges.txt"
SEPARATOR = "<|endoftext|>"

TEXTS = {
    "english": ["books_200M.txt", "books_b_200M.txt"],
    "code": ["code_80M.txt"],
    "zhja": ["zhja_40M.txt"],
}


def require_shared() -> None:
    """Leave with a sentence where the corpora are absent."""
    if not GPT2_VOCAB.exists():
        sys.exit(f"error: no corpora in {SHARED}\nhint: set LMKIT_SHARED to their folder")


def text(name: str, megabytes: int | None = None) -> Path:
    """The text called ``name`` as one plain file, or its first ``megabytes`` (of 10**6 bytes).

    A head ends after a whole document, so that every tool sees the same text.
    """
    whole = CACHE / f"{name}.txt"
    if not whole.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = whole.with_suffix(".partial")
        with partial.open("wb") as out:
            for part in TEXTS[name]:
                with (SHARED / "corpora" / f"{part}.zst").open("rb") as packed:
                    zstandard.ZstdDecompressor().copy_stream(packed, out)
        partial.rename(whole)
    if megabytes is None or whole.stat().st_size <= megabytes * 10**6:
        return whole
    head = CACHE / f"{name}-{megabytes}.txt"
    if not head.exists():
        with whole.open("rb") as source:
            data = source.read(megabytes * 10**6)
        end = data.rfind(SEPARATOR.encode()) + len(SEPARATOR)
        partial = head.with_suffix(".partial")
        partial.write_bytes(data[:end])
        partial.rename(head)
    return head


def one_line() -> Path:
    """A file of one byte: what a tool needs for it is its start-up."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / "one-byte.txt"
    path.write_bytes(b"a")
    return path
