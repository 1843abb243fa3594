"""A report on a vocabulary, as lines for people or as JSON."""

from lmkit.counted import counted
from lmkit.train_tokenizer import Listed, Report


def printable(report: Report) -> dict[str, object]:
    """The report with tokens as text, which JSON can hold."""
    return {
        **report,
        "commonest": _as_text(report["commonest"]),
        "longest": _as_text(report["longest"]),
    }


def print_report(report: Report) -> None:
    """Print the report on stdout."""
    print(f"On {counted(report['text_bytes'], 'byte')} of held-out text:")
    for row in report["growth"]:
        print(f"  {row['vocab_size']:>9,} tokens  {row['bytes_per_token']:6.3f} bytes a token")
    for name in ("commonest", "longest"):
        listed = report["commonest"] if name == "commonest" else report["longest"]
        print(f"  {name}: {', '.join(_spelled(one) for one in listed)}")


def _spelled(one: Listed) -> str:
    return f"{_text(one['token'])!r} ({one['count']:,})"


def _as_text(listed: list[Listed]) -> list[dict[str, object]]:
    return [{**one, "token": _text(one["token"])} for one in listed]


def _text(token: bytes) -> str:
    return token.decode("utf-8", errors="backslashreplace")
