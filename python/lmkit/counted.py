"""A number of things in words: ``1 token``, ``2,048 tokens``."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """The number with its noun, in the plural (``many``, else with an s) unless it is one.

    Examples:
        >>> counted(1, "document"), counted(2048, "token"), counted(0, "entry", "entries")
        ('1 document', '2,048 tokens', '0 entries')
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
