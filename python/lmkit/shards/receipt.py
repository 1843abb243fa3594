"""`shard_….receipt.json`: the last file of a shard, which says that the others are whole.

A shard without a receipt does not exist, whatever else lies there. Two workers that make the same
shard write equal files; their receipts differ in who was how fast, and either will do.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lmkit.errors import MalformedError, MismatchError, MissingFileError
from lmkit.shards import json_file
from lmkit.shards.names import document_ends_name, receipt_name

HEADER_BYTES = 128
REMAKE = "remove {} and run the same command again: it makes the shard anew"
_END_BYTES = 8
_ID_BYTES = {"int32": 4, "uint16": 2, "uint32": 4}


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a shard holds, and who made it.

    Attributes:
        plan: the id of the plan it belongs to.
        number: which shard, from 0.
        name: without an ending: ``shard_00017_of_00512``.
        dtype: of the ids.
        suffix: of the token file.
        tokens: how many ids.
        documents: how many documents, all of them whole.
        text_bytes: how long the text was.
        checksum: of the ids' bytes without a header, ``xxh3-128:`` and 32 digits.
        documents_checksum: of the bytes of the document ends without their header.
        file_bytes: size of the token file, its header included.
        smallest_id: None where there are no ids.
        largest_id: None where there are no ids.
        lmkit: the version that made it.
        worker: who made it, as messages name it.
        seconds: how long that took.
        skipped: files of folders that hold no text and were passed over.
        null_rows: rows of tables without text, passed over.
    """

    plan: str
    number: int
    name: str
    dtype: str
    suffix: str
    tokens: int
    documents: int
    text_bytes: int
    checksum: str
    documents_checksum: str
    file_bytes: int
    smallest_id: int | None
    largest_id: int | None
    lmkit: str
    worker: str
    seconds: float
    skipped: list[str]
    null_rows: int

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        return json_file.spell(asdict(self))

    @property
    def token_file(self) -> str:
        """The name of the token file."""
        return self.name + self.suffix


_KINDS: dict[object, type | tuple[type, ...]] = {
    str: str,
    int: int,
    float: (int, float),
    list[str]: list,
}
_FIELDS = {field.name: _KINDS.get(field.type, (int, type(None))) for field in fields(Receipt)}


def read_receipt(path: Path) -> Receipt:
    """The receipt at ``path``, as it stands there.

    Raises:
        MissingFileError: there is none.
        MalformedError: it is none, or one of a newer lmkit.
    """
    content = json_file.parse(json_file.read_bytes(path), str(path), "receipt")
    wrong = json_file.check_fields(content, _FIELDS)
    if wrong:
        raise MalformedError(f"{path}: not a receipt: {wrong!r} is missing or of the wrong type")
    return Receipt(**{name: content[name] for name in _FIELDS})


def find_receipt(plan: str, name: str, folder: Path) -> Receipt | None:
    """The receipt of the shard called ``name``, whose files are there; None where there is none.

    Args:
        plan: the id of the plan that it has to belong to.
        name: of the shard, without an ending.
        folder: the data set.

    Raises:
        MismatchError: it belongs to another plan or another shard, or its files are not as it says.
        MalformedError: it is no receipt.
    """
    path = folder / receipt_name(name)
    try:
        receipt = read_receipt(path)
    except MissingFileError:
        return None
    if receipt.plan != plan:
        raise MismatchError(
            f"{path}: belongs to plan {receipt.plan[:12]}…, and this is {plan[:12]}…",
            hint="two data sets were mixed up: choose another --output_path, or remove the receipt",
        )
    if receipt.name != name:
        raise MismatchError(
            f"{path}: is the receipt of {receipt.name}", hint=REMAKE.format(path.name)
        )
    check_files(receipt, folder)
    return receipt


def check_files(receipt: Receipt, folder: Path) -> None:
    """That the files in ``folder`` are there and as long as their receipt says.

    Their contents are not read: :func:`lmkit.shards.verify.verify_shard` does.

    Raises:
        MismatchError: a file is missing or of another size, or the receipt contradicts itself.
    """
    path = folder / receipt_name(receipt.name)
    begin = HEADER_BYTES if receipt.suffix == ".npy" else 0
    expected = begin + receipt.tokens * _ID_BYTES.get(receipt.dtype, 0)
    if expected != receipt.file_bytes:
        raise MismatchError(
            f"{path}: speaks of {receipt.tokens:,} tokens of {receipt.dtype} in a file of "
            f"{receipt.file_bytes:,} bytes, which would be {expected:,}",
            hint=REMAKE.format(path.name),
        )
    sizes = {
        receipt.token_file: receipt.file_bytes,
        document_ends_name(receipt.name): HEADER_BYTES + receipt.documents * _END_BYTES,
    }
    for name, wanted in sizes.items():
        found = _size(folder / name)
        if found != wanted:
            said = "is missing" if found is None else f"is torn: it has {found:,} bytes"
            raise MismatchError(
                f"{folder / name}: {said}, and its receipt speaks of {wanted:,}",
                hint=REMAKE.format(path.name),
            )


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
