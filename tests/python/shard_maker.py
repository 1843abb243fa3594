"""Data sets of shards, made of ids by hand, for the tests of those that read them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lmkit._core import Checksum
from lmkit.shards.manifest import Manifest, ShardEntry
from lmkit.shards.names import shard_name

TOKENIZER = "sha256:of the tests"


def checksum_of(ids: np.ndarray) -> str:
    """As sidecars and manifests have it."""
    checksum = Checksum()
    checksum.update(ids.tobytes())
    return checksum.text()


def random_documents(tokens: int, seed: int = 0, longest: int = 40) -> np.ndarray:
    """Where documents of 1 to ``longest`` tokens end, the last at ``tokens``."""
    lengths = np.random.default_rng(seed).integers(1, longest + 1, tokens)
    ends = np.cumsum(lengths)
    return np.append(ends[ends < tokens], tokens)


def make_shards(
    folder: Path,
    ids: np.ndarray,
    document_ends: np.ndarray,
    shards: int,
    *,
    suffix: str = ".npy",
    tokenizer: str = TOKENIZER,
    empty: Sequence[int] = (),
) -> Path:
    """Write a data set, its documents shared out as evenly as whole ones are; the folder."""
    folder.mkdir()
    wanted = np.linspace(0, len(ids), shards - len(empty) + 1)[1:]
    cuts = document_ends[np.searchsorted(document_ends, np.round(wanted))].tolist()
    for number in empty:
        cuts.insert(number, cuts[number - 1] if number else 0)
    entries, before = [], 0
    for number, cut in enumerate(cuts):
        ends = document_ends[(document_ends > before) & (document_ends <= cut)] - before
        name = shard_name(number, shards)
        entries.append(_write_shard(folder, name, suffix, ids[before:cut], ends))
        before = cut
    manifest = Manifest(
        plan="plan of the tests",
        dtype=ids.dtype.name,
        suffix=suffix,
        tokens=len(ids),
        documents=len(document_ends),
        text_bytes=4 * len(ids),
        smallest_id=int(ids.min()),
        largest_id=int(ids.max()),
        tokenizer=tokenizer,
        vocab_size=int(ids.max()) + 1,
        inputs=["text"],
        split="train",
        shards=tuple(entries),
        lmkit="0.1.0",
    )
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return folder


def _write_shard(
    folder: Path, name: str, suffix: str, ids: np.ndarray, ends: np.ndarray
) -> ShardEntry:
    place = folder / (name + suffix)
    if suffix == ".npy":
        np.save(place, ids)
    else:
        ids.tofile(place)
    np.save(folder / f"{name}.docs.npy", ends.astype(np.int64))
    entry = ShardEntry(
        name=name,
        tokens=len(ids),
        documents=len(ends),
        checksum=checksum_of(ids),
        documents_checksum=checksum_of(ends.astype(np.int64)),
        file_bytes=place.stat().st_size,
        smallest_id=int(ids.min()) if len(ids) else None,
        largest_id=int(ids.max()) if len(ids) else None,
    )
    sidecar = entry._asdict() | {
        "format": 1,
        "dtype": ids.dtype.name,
        "modified_ns": place.stat().st_mtime_ns,
    }
    (folder / f"{name}{suffix}.json").write_text(json.dumps(sidecar))
    (folder / f"{name}.receipt.json").write_text(json.dumps({"format": 1, "name": name}))
    return entry


def read_everywhere(address: str, cache: str, limit: int, ids: str) -> None:
    """In a process of its own: read windows at random places, and compare them with the file's."""
    from lmkit.shards.tokens import ShardedTokens

    expected, tokens = np.load(ids), ShardedTokens(address, cache_dir=cache, cache_limit=limit)
    for start in np.random.default_rng(os.getpid()).integers(0, len(expected) - 50, 40).tolist():
        tokens.close()  # or it would not need the cache again
        assert tokens.read(start, start + 50).tolist() == expected[start : start + 50].tolist()


def edit_manifest(folder: Path, **changes: object) -> None:
    """Change fields of a manifest; ``shards`` maps a number to the fields to change."""
    place = folder / "manifest.json"
    content = json.loads(place.read_text())
    for number, fields in changes.pop("shards", {}).items():
        content["shards"][number] |= fields
    place.write_text(json.dumps(content | changes))
