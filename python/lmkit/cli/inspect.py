"""`lmkit inspect`: what a file is, whether it is whole, and how to use it."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmkit.cli.options import Command
from lmkit.cli.progress import progress_bar
from lmkit.cli.shared_options import (
    force_option,
    json_option,
    quiet_option,
    tokenizer_option,
    whole_number,
)
from lmkit.counted import counted
from lmkit.errors import MalformedError, MissingFileError, UsageError, already_exists

if TYPE_CHECKING:
    from lmkit.inspection import Report
    from lmkit.token_view import TokenView
    from lmkit.tokenizer import Tokenizer

_TEXT_BYTES = 16 << 20
_SHOWN = {"terminal": 300, "page": 20_000}


@click.command(cls=Command)
@click.argument("path", metavar="PATH")
@tokenizer_option("Decode the first tokens with this tokenizer.  [default: one found beside]")
@click.option("--text", metavar="TEXT", help="Show how the tokenizer PATH cuts TEXT.")
@click.option(
    "--text_path",
    metavar="FILE",
    help="Show how the tokenizer PATH cuts the text in FILE, up to 16 MB of it.",
)
@click.option(
    "--html", "html_path", metavar="FILE", help="Write that as a page of its own instead."
)
@whole_number("--show", "Show the first N tokens of the text.  [default: 300, on a page 20000]")
@click.option(
    "--no_verify", is_flag=True, help="Do not read everything to compare it with its checksum."
)
@force_option("Replace a page that is there already.")
@json_option
@quiet_option
def command(
    *,
    path: str,
    tokenizer_path: str | None,
    text: str | None,
    text_path: str | None,
    html_path: str | None,
    show: int | None,
    no_verify: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Tell what PATH is, whether it is whole, and how to use it.

    PATH is anything that lmkit reads or writes: a tokenizer, a token file, a sidecar, a folder of
    shards, a checkpoint, a run folder, a model for transformers, counts, a journal. With a
    tokenizer and a text it shows the text cut into tokens, with their ids.

    \b
    Examples:
      lmkit inspect train.npy
      lmkit inspect checkpoints/ --no_verify
      lmkit inspect tokenizer/ --text "Hello, world"
      lmkit inspect tokenizer/ --text_path book.txt --html tokens.html
    """  # noqa: D301 - \b is click's mark for lines to keep
    if text is not None or text_path is not None:
        if tokenizer_path is not None or no_verify:
            raise UsageError("--tokenizer and --no_verify have no effect on a text")
        _show_text(path, _text(text, text_path), html_path, show, force=force, as_json=as_json)
        return
    if html_path or show or force:
        raise UsageError("--html, --show and --force have no effect without --text or --text_path")
    from lmkit.inspection import Ask, inspect
    from lmkit.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(tokenizer_path) if tokenizer_path else None
    with progress_bar("Checking", "B", quiet=quiet) as progress:
        tick = None if progress is None else lambda done, total: progress(0, done, total)
        report = inspect(path, Ask(not no_verify, tokenizer, tick))
    if as_json:
        print(json.dumps(report.as_json(), ensure_ascii=False))
    elif not quiet:
        _print_report(report)
    if report.damage is not None:
        raise report.damage


def _text(text: str | None, path: str | None) -> str:
    if text is not None:
        if path is not None:
            raise UsageError("--text and --text_path exclude each other")
        return text
    try:
        with Path(path or "").open("rb") as file:
            raw = file.read(_TEXT_BYTES + 4)
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file or folder") from error
    if len(raw) > _TEXT_BYTES:
        print(f"note: of {path} the first {_TEXT_BYTES >> 20} MiB are shown", file=sys.stderr)
        raw = raw[:_TEXT_BYTES]
        while raw and raw[-1] & 0xC0 == 0x80:  # noqa: PLR2004 - a byte within a character
            raw = raw[:-1]
        raw = raw[:-1] if raw and raw[-1] >= 0xC0 else raw  # noqa: PLR2004 - a first byte alone
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"{path}: not UTF-8 at byte offset {error.start}") from error


def _load(path: str) -> "Tokenizer":
    from lmkit.inspection.tokenizers import pair_of
    from lmkit.tokenizer import Tokenizer

    place = Path(path)
    if not place.exists():
        raise MissingFileError(f"{path}: no such file or folder")
    both = pair_of(place)
    return Tokenizer.from_files(*both) if both else Tokenizer.load(path)


def _show_text(
    path: str, text: str, html_path: str | None, show: int | None, *, force: bool, as_json: bool
) -> None:
    from lmkit.token_view import page, view

    tokenizer = _load(path)
    seen = view(tokenizer, text, show or _SHOWN["page" if html_path else "terminal"])
    if html_path is not None:
        _write_page(
            html_path, page(f"Tokens of {path}", _facts(path, tokenizer), seen), force=force
        )
    if as_json:
        print(json.dumps(_as_json(path, seen, html_path), ensure_ascii=False))
    elif html_path is not None:
        print(f"{html_path}: {counted(seen.count, 'token')} of {counted(seen.text_bytes, 'byte')}")
    else:
        _print_tokens(seen)


def _facts(path: str, tokenizer: "Tokenizer") -> list[tuple[str, str]]:
    return [
        ("tokenizer", path),
        ("vocabulary", f"{tokenizer.vocab_size:,}"),
        ("pattern", tokenizer.pattern),
        ("fingerprint", tokenizer.fingerprint),
    ]


def _write_page(path: str, content: str, *, force: bool) -> None:
    from lmkit.durable import write_durably

    place = Path(path)
    if place.exists() and not force:
        raise already_exists(path)
    if not place.parent.is_dir():
        raise MissingFileError(f"{place.parent}: no such file or folder")
    write_durably(place, content.encode())


def _as_json(path: str, seen: "TokenView", html_path: str | None) -> dict[str, Any]:
    return {
        "tokenizer": path,
        "tokens": seen.count,
        "text_bytes": seen.text_bytes,
        "bytes_per_token": round(seen.bytes_per_token, 4),
        "first": [
            {"id": one.id, "text": one.text, "bytes": one.bytes.hex()} for one in seen.tokens
        ],
        "commonest": [
            {"id": one.id, "text": one.text, "count": count} for one, count in seen.commonest
        ],
    } | ({"html": html_path} if html_path else {})


def _print_tokens(seen: "TokenView") -> None:
    """Print the tokens in colour, where the terminal has it."""
    # Not by rich itself, which ends the process with 1 where the reader has left.
    print(_coloured(seen), end="")


def _coloured(seen: "TokenView") -> str:
    from rich.console import Console
    from rich.style import Style
    from rich.text import Text

    from lmkit.token_view import COLOURS, summary

    colours = ("cyan", "green", "yellow", "magenta", "blue", "red")[:COLOURS]
    console = Console(highlight=False, soft_wrap=True)
    is_plain = not console.is_terminal or console.no_color
    flow = Text()
    for place, token in enumerate(seen.tokens):
        if is_plain:
            flow.append(f"[{token.text}|{token.id}]")
        else:
            colour = colours[place % COLOURS]
            flow.append(token.text, Style(color="black", bgcolor=colour, bold=token.is_special))
            flow.append(f"{token.id} ", Style(color=colour, dim=True))
        if token.bytes.endswith(b"\n"):
            flow.append("\n")
    more = seen.count - len(seen.tokens)
    named = ", ".join(f"'{one.text}' {one.id} ({count:,})" for one, count in seen.commonest)
    with console.capture() as printed:
        console.print(flow)
        if more:
            said = f"... and {counted(more, 'token')} more; --show N shows more of them"
            console.print(said, markup=False)
        console.print(summary(seen), markup=False)
        console.print(f"commonest: {named}", markup=False)
    return printed.get()


def _print_report(report: "Report") -> None:
    print(f"{report.path}: {report.kind}")
    for name, value in report.facts.items():
        print(f"  {name.replace('_', ' ')}: {_said(name, value)}")
    verdict = {True: "yes", False: "NO", None: "not known"}[report.whole]
    print(f"  whole: {verdict}" + (f" ({report.checked})" if report.checked else ""))
    if report.sample:
        print(f"  first tokens: {' '.join(map(str, report.sample['ids']))}")
        if "text" in report.sample:
            print(f"  their text: {report.sample['text']!r}")
    for note in report.notes:
        print(f"  note: {note}")
    for number, line in enumerate(report.use):
        print(f"  {'use it' if number == 0 else '      '}: {line}")


def _said(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_said(key, inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if value is None:
        return "none"
    return f"'{value}'" if name == "longest_token" else str(value)
