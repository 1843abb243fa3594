"""Names inside a sharded data set; they follow from a shard's number and their count alone."""

import re

from lmkit.errors import UsageError

PLAN = "plan.json"
MANIFEST = "manifest.json"
DOCUMENT_ENDS_SUFFIX = ".docs.npy"
SUFFIXES = (".npy", ".bin")

_DIGITS = 5
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def shard_name(number: int, count: int) -> str:
    """The name of shard ``number`` (from 0) of ``count``, without an ending.

    Examples:
        >>> shard_name(17, 512)
        'shard_00017_of_00512'
    """
    digits = max(_DIGITS, len(str(count)))
    return f"shard_{number:0{digits}}_of_{count:0{digits}}"


def document_ends_name(name: str) -> str:
    """The file of document ends of the shard called ``name``."""
    return name + DOCUMENT_ENDS_SUFFIX


def receipt_name(name: str) -> str:
    """The receipt of the shard called ``name``."""
    return f"{name}.receipt.json"


def is_plain(name: object) -> bool:
    """Whether ``name`` is a bare name, which cannot lead out of its folder."""
    return isinstance(name, str) and _PLAIN.fullmatch(name) is not None


def parse_shard(text: str) -> tuple[int, int]:
    """``"17/512"`` to ``(17, 512)``; shards are numbered from 0.

    Raises:
        UsageError: it is no such thing, or there is no such shard.
    """
    parts = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if parts is None:
        raise UsageError(f"--shard must be NUMBER/COUNT such as 17/512, not {text!r}")
    number, count = int(parts[1]), int(parts[2])
    if number >= count:
        raise UsageError(
            f"--shard {text}: there is no shard {number} of {count}",
            hint=f"shards are numbered from 0 to {count - 1}" if count else None,
        )
    return number, count
