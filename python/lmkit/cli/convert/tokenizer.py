"""`lmkit convert tokenizer`: a tokenizer of another tool to ours."""

import json
import warnings

import click

from lmkit.cli.options import Command, json_option, notices, quiet_option
from lmkit.tokenizer import Tokenizer


@click.command(cls=Command)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--pattern",
    metavar="PATTERN",
    help="Split text by gpt2, cl100k, o200k, or a regular expression.  [default: as FROM says, "
    "else gpt2]",
)
@click.option(
    "--special_token",
    "special_tokens",
    multiple=True,
    metavar="TOKEN",
    help="Treat TOKEN as special; repeats.  [default: those that FROM records]",
)
@click.option("--force", is_flag=True, help="Replace a tokenizer folder that is there already.")
@json_option
@quiet_option
def command(
    *,
    source: str,
    target: str,
    pattern: str | None,
    special_tokens: tuple[str, ...],
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn a tokenizer of one format into another, with the same ids.

    FROM is a tokenizer folder, a Hugging Face tokenizer.json, or a tiktoken rank file; TO is a
    tokenizer folder.

    \b
    Examples:
      lmkit convert tokenizer tokenizer.json tokenizer/
      lmkit convert tokenizer cl100k_base.tiktoken cl100k/ --pattern cl100k
    """  # noqa: D301 - \b is click's mark for lines to keep
    tokenizer = Tokenizer.load(source, list(special_tokens) or None, pattern)
    say = notices(quiet=quiet)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokenizer.save(target, force=force)
    for warning in caught:
        say(str(warning.message))
    if as_json:
        facts = {"output_path": target, "vocab_size": tokenizer.vocab_size}
        print(json.dumps(facts | {"fingerprint": tokenizer.fingerprint}))
    elif not quiet:
        print(f"{target}: {tokenizer.vocab_size:,} tokens of {source}")
