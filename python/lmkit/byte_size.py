"""An amount of memory as it is typed, ``4G`` or ``500M``, to bytes."""

import re

from lmkit.errors import UsageError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def byte_size(amount: str | int, flag: str) -> int:
    """The bytes that ``amount`` stands for.

    Args:
        amount: a number of bytes, or text such as ``"4G"``, ``"1.5GiB"`` or ``"500 MB"``; the units
            are powers of 1024.
        flag: what the error calls it.

    Raises:
        UsageError: ``amount`` is no such thing.

    Examples:
        >>> byte_size("4G", "--memory_limit")
        4294967296
    """
    if isinstance(amount, int) and not isinstance(amount, bool) and amount >= 0:
        return amount
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(amount).strip(), re.IGNORECASE)
    if parts is None:
        raise UsageError(f"{flag} must be an amount such as 4G or 500M, not {amount!r}")
    return int(float(parts[1]) * _UNITS[parts[2].upper()])
