"""A whole number on its way to the core, numpy or torch, which count with 64 bits and a sign."""

from lmkit.errors import UsageError

LARGEST = (1 << 63) - 1


def whole_number(value: int, flag: str) -> int:
    """The number, not negative and of 64 bits; ``flag`` is what the error calls it.

    Raises:
        UsageError: it is out of range.

    Examples:
        >>> whole_number(8, "--num_threads")
        8
    """
    if not 0 <= value <= LARGEST:
        raise UsageError(f"{flag} must be from 0 to {LARGEST}, not {value}")
    return value


def whole_number_or_none(value: int | None, flag: str) -> int | None:
    """The same, where the number may be left out."""
    return None if value is None else whole_number(value, flag)
