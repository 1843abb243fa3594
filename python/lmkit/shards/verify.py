"""A shard's files against what its receipt or manifest says of their contents.

Reads every byte, at about a gigabyte a second or as fast as the disk gives them. Sizes alone are
compared without reading, by :func:`lmkit.shards.receipt.check_files`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from lmkit import _core
from lmkit.errors import MalformedError, MismatchError, SystemRefusedError
from lmkit.shards.names import document_ends_name, receipt_name
from lmkit.shards.receipt import HEADER_BYTES, REMAKE
from lmkit.token_file import Sidecar, TokenReader

_BLOCK = 1 << 22


class Described(Protocol):
    """What a receipt and a manifest's entry have in common."""

    @property
    def name(self) -> str: ...  # noqa: D102 - as in `Receipt`
    @property
    def tokens(self) -> int: ...  # noqa: D102
    @property
    def documents(self) -> int: ...  # noqa: D102
    @property
    def checksum(self) -> str: ...  # noqa: D102
    @property
    def documents_checksum(self) -> str: ...  # noqa: D102
    @property
    def smallest_id(self) -> int | None: ...  # noqa: D102
    @property
    def largest_id(self) -> int | None: ...  # noqa: D102


def file_checksum(path: Path, *, begin: int = 0) -> str:
    """The checksum, ``xxh3-128:...``, of the bytes of ``path`` from ``begin`` on.

    Raises:
        SystemRefusedError: the system refused to read it.
    """
    checksum = _core.Checksum()
    for block in _blocks(path, begin):
        checksum.update(block)
    return checksum.text()


def verify_shard(shard: Described, folder: Path, suffix: str, dtype: str) -> None:
    """That ids, their range and the document ends in ``folder`` are those that ``shard`` tells of.

    Raises:
        MismatchError: they are not; names the file.
    """
    import numpy as np

    tokens = folder / (shard.name + suffix)
    _open(tokens, dtype, shard.tokens).close()
    checksum, smallest, largest = _core.Checksum(), None, None
    for block in _blocks(tokens, HEADER_BYTES if suffix == ".npy" else 0):
        checksum.update(block)
        ids = np.frombuffer(block, np.dtype(dtype).newbyteorder("<"))
        smallest = min(int(ids.min()), smallest if smallest is not None else int(ids[0]))
        largest = max(int(ids.max()), largest if largest is not None else int(ids[0]))
    if checksum.text() != shard.checksum:
        raise _wrong(tokens, f"its ids have the checksum {checksum.text()}", shard.checksum)
    if (smallest, largest) != (shard.smallest_id, shard.largest_id):
        told = f"{shard.smallest_id} to {shard.largest_id}"
        raise _wrong(tokens, f"its ids reach from {smallest} to {largest}", told)
    ends = folder / document_ends_name(shard.name)
    found = file_checksum(ends, begin=HEADER_BYTES)
    if found != shard.documents_checksum:
        raise _wrong(ends, f"it has the checksum {found}", shard.documents_checksum)
    with _open(ends, "int64", shard.documents) as reader:
        last = int(reader.read(max(0, len(reader) - 1), len(reader)).sum())
    if last != shard.tokens:
        raise _wrong(ends, f"its last document ends at token {last}", str(shard.tokens))


def _open(path: Path, dtype: str, count: int) -> TokenReader:
    """A file whose header, which no checksum sums up, says what there is to be."""
    try:
        return TokenReader(path, Sidecar(dtype, count))
    except MalformedError as error:
        receipt = receipt_name(path.name.partition(".")[0])
        raise MismatchError(f"damaged: {error}", hint=REMAKE.format(receipt)) from error


def _wrong(path: Path, found: str, told: str) -> MismatchError:
    receipt = receipt_name(path.name.partition(".")[0])
    return MismatchError(
        f"{path}: damaged: {found}, and its receipt speaks of {told}", hint=REMAKE.format(receipt)
    )


def _blocks(path: Path, begin: int) -> Iterator[bytes]:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(begin)
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:
        raise SystemRefusedError(f"{path}: {(error.strerror or str(error)).lower()}") from error
