"""`lmkit convert tokenizer`: a tokenizer of one tool to that of another."""

import json
import os
import shlex
import warnings
from pathlib import Path
from typing import get_args

import click

from lmkit.cli.options import Command, notices
from lmkit.cli.shared_options import force_option, json_option, one_of, quiet_option
from lmkit.cli.tokenizer_options import SLOW, named_tokens
from lmkit.errors import UsageError
from lmkit.tokenizer import Format, Tokenizer

# Of what a file cannot tell a remark names no more than this; --json tells all.
_TOLD_AT_MOST = 8


@click.command(cls=Command)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@one_of(
    "--to",
    get_args(Format),
    "Write a tokenizer folder, a tokenizer.json, a rank file, or a folder with vocab.json and "
    "merges.txt.  [default: as TO is called: .json, .tiktoken, else a tokenizer folder]",
    name="format",
)
@click.option(
    "--merges_path",
    metavar="FILE",
    help="Take these merges, where FROM is a vocabulary in JSON under any name.",
)
@click.option(
    "--pattern",
    metavar="PATTERN",
    help="Split text by gpt2, cl100k, o200k, llama3, qwen2, or a regular expression.  [default: as "
    "FROM says, else gpt2]",
)
@click.option(
    "--special_token",
    "special_tokens",
    multiple=True,
    metavar="TOKEN[=ID]",
    help="Treat TOKEN as special, with this id where FROM lacks it; repeats.  [default: those that "
    "FROM records, or entries shaped <|...|> that no merge makes]",
)
@force_option("Replace a tokenizer that is there already.")
@json_option
@quiet_option
def command(
    *,
    source: str,
    target: str,
    format: Format | None,  # noqa: A002 - what users call it
    merges_path: str | None,
    pattern: str | None,
    special_tokens: tuple[str, ...],
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn a tokenizer of one format into another, with the same ids.

    FROM is a tokenizer folder, a Hugging Face tokenizer.json (of byte-level BPE), a tiktoken rank
    file, or a folder with GPT-2's vocab.json and merges.txt; so is TO. What would give other ids is
    refused, and the reason said.

    \b
    Examples:
      lmkit convert tokenizer tokenizer.json tokenizer/
      lmkit convert tokenizer tokenizer/ tokenizer.json
      lmkit convert tokenizer tokenizer/ own.tiktoken
      lmkit convert tokenizer gpt2/ own/ --to gpt2
      lmkit convert tokenizer cl100k_base.tiktoken cl100k/ --pattern cl100k \\
          --special_token '<|endoftext|>=100257' --special_token '<|endofprompt|>=100276'
    """  # noqa: D301 - \b is click's mark for lines to keep
    said: list[str] = []
    tokenizer = _load(source, merges_path, named_tokens(special_tokens), pattern)
    said += tokenizer.remarks
    if not tokenizer.has_own_scanner:
        said.append(SLOW)
    wanted: Format = format or _format_of(target)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokenizer.save(target, format=wanted, force=force)
    said += [str(warning.message) for warning in caught]
    said += _untold(target, wanted, tokenizer)
    say = notices(quiet=quiet)
    for sentence in said:
        say(sentence)
    if as_json:
        print(json.dumps(_facts(target, wanted, tokenizer) | {"notes": said}))
    elif not quiet:
        print(f"{target}: {tokenizer.vocab_size:,} tokens of {source}")


def _load(
    source: str,
    merges_path: str | None,
    special_tokens: dict[str, int | None],
    pattern: str | None,
) -> Tokenizer:
    """The tokenizer to convert; a special token that it lacks must come with its id."""
    if merges_path is None:
        plain = Tokenizer.load(source, pattern=pattern)
    else:
        plain = Tokenizer.from_files(source, merges_path, pattern=pattern or "gpt2")
    if not special_tokens:
        return plain
    known = set(plain.vocab.values())
    for token, token_id in special_tokens.items():
        if token_id is None and token.encode() not in known:
            raise UsageError(
                f"--special_token {token!r} is not in the vocabulary of {source}",
                hint=f"tell its id: --special_token {shlex.quote(f'{token}=ID')}",
            )
    if merges_path is None:
        return Tokenizer.load(source, special_tokens, pattern)
    return Tokenizer.from_files(source, merges_path, special_tokens, pattern or "gpt2")


def _format_of(target: str) -> Format:
    """The format that a name asks for."""
    if target.endswith(os.sep) or Path(target).is_dir():
        return "lmkit"
    by_suffix: dict[str, Format] = {".json": "huggingface", ".tiktoken": "tiktoken"}
    return by_suffix.get(Path(target).suffix, "lmkit")


def _untold(target: str, wanted: Format, tokenizer: Tokenizer) -> list[str]:
    """What the written file does not tell, and how to tell whoever reads it."""
    if wanted in {"lmkit", "huggingface"}:
        return []
    again = Tokenizer.load(target)
    words: list[str] = []
    if again.pattern != tokenizer.pattern:
        words += ["--pattern", tokenizer.pattern]
    if again.special_tokens != tokenizer.special_tokens:
        for token, token_id in tokenizer.special_tokens.items():
            words += ["--special_token", f"{token}={token_id}"]
    if not words:
        return []
    more = len(words) // 2 - _TOLD_AT_MOST
    shown = shlex.join(words[: 2 * _TOLD_AT_MOST]) + (f" and {more:,} more" if more > 0 else "")
    return [f"{target} cannot tell all: whoever reads it must be told {shown}"]


def _facts(target: str, wanted: Format, tokenizer: Tokenizer) -> dict[str, object]:
    return {
        "output_path": target,
        "format": wanted,
        "vocab_size": tokenizer.vocab_size,
        "special_tokens": tokenizer.special_tokens,
        "pattern": tokenizer.pattern,
        "regex": tokenizer.regex,
        "normalizer": tokenizer.normalizer,
        "fingerprint": tokenizer.fingerprint,
    }
