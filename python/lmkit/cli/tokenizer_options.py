"""The options that name a tokenizer, and the tokenizer they name."""

import sys
from collections.abc import Sequence

import click

from lmkit.cli.shared_options import in_order, tokenizer_option
from lmkit.errors import UsageError
from lmkit.tokenizer import Tokenizer

# Said where a pattern goes through a library.
SLOW = "the pattern is none that lmkit has a scanner for: a library splits text, which is slower"


# The options that name a tokenizer, its special tokens and its pattern.
tokenizer_options = in_order(
    click.option("--vocab_path", metavar="FILE", help="Vocabulary, GPT-2 style JSON."),
    click.option("--merges_path", metavar="FILE", help="Merges of that vocabulary."),
    tokenizer_option("Tokenizer folder, tokenizer.json or .tiktoken file, instead of these two."),
    click.option(
        "--special_token",
        "special_tokens",
        multiple=True,
        metavar="TOKEN",
        help="Treat TOKEN as special; repeats.  [default: those the tokenizer records, or "
        "entries shaped <|...|> that no merge makes]",
    ),
    click.option(
        "--no_special_tokens", is_flag=True, help="Encode special tokens as ordinary text."
    ),
    click.option(
        "--pattern",
        metavar="PATTERN",
        help="Split text by gpt2, cl100k, o200k, llama3, qwen2, or a regular expression.  "
        "[default: the tokenizer's own, else gpt2]",
    ),
)


def load_tokenizer(
    vocab_path: str | None,
    merges_path: str | None,
    tokenizer_path: str | None,
    special_tokens: Sequence[str] = (),
    pattern: str | None = None,
) -> Tokenizer:
    """The tokenizer that these options name; a special token it lacks is refused."""
    named = list(special_tokens) or None
    if tokenizer_path is not None:
        if vocab_path or merges_path:
            raise UsageError("--tokenizer and --vocab_path with --merges_path exclude each other")
        plain = Tokenizer.load(tokenizer_path, pattern=pattern)
        tokenizer = Tokenizer.load(tokenizer_path, named, pattern) if named else plain
    elif vocab_path is None or merges_path is None:
        raise UsageError(
            "no tokenizer given: pass --vocab_path and --merges_path, or --tokenizer",
            hint="lmkit train-tokenizer makes one",
        )
    else:
        plain = Tokenizer.from_files(vocab_path, merges_path, pattern=pattern or "gpt2")
        tokenizer = (
            Tokenizer.from_files(vocab_path, merges_path, named, pattern or "gpt2")
            if named
            else plain
        )
    known = plain.vocab.keys() if named else ()
    for token, token_id in tokenizer.special_tokens.items() if named else ():
        if token_id not in known:
            raise UsageError(f"--special_token {token!r} is not in the vocabulary")
    return tokenizer


def say_special(tokenizer: Tokenizer, *, as_text: bool) -> None:
    """Say on stderr what is treated as special, and whether splitting is slow."""
    tokens = ", ".join(tokenizer.special_tokens) or "none"
    said = "none, all taken as ordinary text" if as_text else tokens
    print(f"Special tokens: {said}", file=sys.stderr)
    if not tokenizer.has_own_scanner:
        print(f"note: {SLOW}", file=sys.stderr)


def named_tokens(special_tokens: Sequence[str]) -> dict[str, int | None]:
    """What was typed as TOKEN or TOKEN=ID."""
    named: dict[str, int | None] = {}
    for typed in special_tokens:
        token, equals, digits = typed.rpartition("=")
        has_id = equals and token and digits.isascii() and digits.isdigit()
        named[token if has_id else typed] = int(digits) if has_id else None
    return named
