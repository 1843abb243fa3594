"""`manifest.json`: what a whole sharded data set holds, shard by shard.

It is written last, so a folder that has one is complete. Reading one costs time and memory linear
in the shards (100,000 of them well under a second); nothing but this file is read.
"""

import itertools
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from lmkit.errors import MalformedError
from lmkit.shards import json_file
from lmkit.shards.names import MANIFEST, SUFFIXES, document_ends_name, is_plain

_DTYPES = ("int32", "uint16", "uint32")
_NUMBER_OR_NONE = (int, type(None))

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "plan": str,
    "dtype": str,
    "suffix": str,
    "tokens": int,
    "documents": int,
    "text_bytes": int,
    "smallest_id": _NUMBER_OR_NONE,
    "largest_id": _NUMBER_OR_NONE,
    "tokenizer": str,
    "vocab_size": int,
    "inputs": list,
    "split": str,
    "shards": list,
    "lmkit": str,
}
_SHARD_FIELDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "tokens": int,
    "documents": int,
    "checksum": str,
    "documents_checksum": str,
    "file_bytes": int,
    "smallest_id": _NUMBER_OR_NONE,
    "largest_id": _NUMBER_OR_NONE,
}
_values = itemgetter(*_SHARD_FIELDS)
_ROW_TYPES = set(
    itertools.product(
        *(kind if isinstance(kind, tuple) else (kind,) for kind in _SHARD_FIELDS.values())
    )
)


class ShardEntry(NamedTuple):
    """One shard of a manifest; a tuple, which is made four times as fast as a frozen dataclass.

    Attributes:
        name: without an ending: ``shard_00017_of_00512``.
        tokens: how many ids; 0 for a shard without a document.
        documents: how many documents, all of them whole.
        checksum: of the ids' bytes without a header, ``xxh3-128:`` and 32 digits.
        documents_checksum: of the bytes of the document ends (int64) without their header.
        file_bytes: size of the token file, its header included.
        smallest_id: None where there are no ids.
        largest_id: None where there are no ids.
    """

    name: str
    tokens: int
    documents: int
    checksum: str
    documents_checksum: str
    file_bytes: int
    smallest_id: int | None
    largest_id: int | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a sharded data set holds.

    Attributes:
        plan: the id of the plan it was made by.
        dtype: of the ids: ``"int32"``, ``"uint16"`` or ``"uint32"``.
        suffix: of the token files: ``".npy"`` or ``".bin"``.
        tokens: of all shards together, and so on.
        documents: how many.
        text_bytes: how long the text was.
        smallest_id: None where there are no ids.
        largest_id: None where there are no ids.
        tokenizer: the tokenizer's fingerprint.
        vocab_size: the tokenizer's largest id plus one.
        inputs: what was read, as it was named: files, folders or globs.
        split: ``"train"``, or ``"val"`` for what was kept aside.
        shards: in the order in which they make up the text.
        lmkit: the version that made it.
    """

    plan: str
    dtype: str
    suffix: str
    tokens: int
    documents: int
    text_bytes: int
    smallest_id: int | None
    largest_id: int | None
    tokenizer: str
    vocab_size: int
    inputs: list[str]
    split: Literal["train", "val"]
    shards: tuple[ShardEntry, ...]
    lmkit: str

    def token_file(self, shard: ShardEntry) -> str:
        """The name of a shard's token file."""
        return shard.name + self.suffix

    def document_ends_file(self, shard: ShardEntry) -> str:
        """The name of a shard's document ends: int64, one dimension.

        Each is the number of the shard's tokens up to and with the last one of a document; they
        never fall, and the last of them is the shard's number of tokens.
        """
        return document_ends_name(shard.name)

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        content = {name: getattr(self, name) for name in _FIELDS}
        content["shards"] = [shard._asdict() for shard in self.shards]
        return json_file.spell(content)


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """The manifest that ``raw`` spells.

    Args:
        raw: the file's bytes.
        where: what errors call it: a path or an address.

    Raises:
        MalformedError: it is none, is one of a newer lmkit, names a shard outside its folder, or
            does not add up.
    """
    content = json_file.parse(raw, where, "manifest")
    wrong = json_file.check_fields(content, _FIELDS)
    if wrong:
        raise MalformedError(f"{where}: not a manifest: {wrong!r} is missing or of the wrong type")
    for name, allowed in (("dtype", _DTYPES), ("suffix", SUFFIXES), ("split", ("train", "val"))):
        if content[name] not in allowed:
            raise MalformedError(
                f"{where}: {name} is {content[name]!r}, and not one of {', '.join(allowed)}"
            )
    rows = enumerate(content["shards"])
    shards = tuple(_shard(row) or _refuse(row, place, where) for place, row in rows)
    manifest = Manifest(**{name: content[name] for name in _FIELDS} | {"shards": shards})
    _check_sums(manifest, where)
    return manifest


def read_manifest(path: str | Path) -> Manifest:
    """The manifest at ``path``, or in the folder ``path``; raises as :func:`parse_manifest`.

    Raises:
        MissingFileError: there is none: the data set is not finished, or this is no data set.
    """
    path = Path(path)
    if path.is_dir():
        path /= MANIFEST
    return parse_manifest(json_file.read_bytes(path), str(path))


def _shard(row: Any) -> ShardEntry | None:  # noqa: ANN401 - JSON
    """The shard of a row, or None where the row is not right: a large set has many, all right."""
    try:
        values = _values(row)
    except (KeyError, TypeError):
        return None
    # Not check_fields: a look at all types together takes a third of the time.
    if tuple(map(type, values)) not in _ROW_TYPES or not is_plain(row["name"]):
        return None
    if row["tokens"] < 0 or row["documents"] < 0 or row["file_bytes"] < 0:
        return None
    return ShardEntry(*values)


def _refuse(row: Any, place: int, where: str) -> NoReturn:  # noqa: ANN401 - JSON
    """Say what is not right about a row."""
    wrong = json_file.check_fields(row, _SHARD_FIELDS) if isinstance(row, dict) else "name"
    if wrong:
        raise MalformedError(f"{where}: shard {place}: {wrong!r} is missing or of the wrong type")
    if not is_plain(row["name"]):
        raise MalformedError(
            f"{where}: shard {place} is called {row['name']!r}, which is no name in this folder"
        )
    raise MalformedError(f"{where}: {row['name']}: a count below zero")


def _check_sums(manifest: Manifest, where: str) -> None:
    for name in ("tokens", "documents"):
        total = sum(getattr(shard, name) for shard in manifest.shards)
        if total != getattr(manifest, name):
            raise MalformedError(
                f"{where}: speaks of {getattr(manifest, name):,} {name}, "
                f"but its shards have {total:,} together"
            )
