"""`lmkit convert tokens`: the token files of other tools to ours, and back."""

import json
import warnings
from typing import Any

import click

from lmkit.cli.options import Command, notices
from lmkit.cli.progress import progress_bar
from lmkit.cli.shared_options import (
    force_option,
    json_option,
    one_of,
    option,
    quiet_option,
    tokenizer_option,
    whole_number,
)
from lmkit.counted import counted

READ = ("npy", "bin", "nanogpt", "llmc", "megatron", "shards")
WRITTEN = ("npy", "bin", "nanogpt", "llmc", "megatron", "text")

_FORMATS = "Formats"


@click.command(cls=Command)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@one_of(
    "--from",
    READ,
    "Take FROM as this.  [default: by its name and content]",
    name="from_format",
    group=_FORMATS,
)
@one_of(
    "--to",
    WRITTEN,
    "Write TO as this.  [default: by its name: .npy, .idx, .txt]",
    name="to_format",
    group=_FORMATS,
)
@one_of(
    "--dtype",
    ["int32", "uint16", "uint32"],
    "Store ids like this.  [default: npy and bin as FROM does, the others uint16 where all "
    "ids fit]",
)
@tokenizer_option(
    "Tokenizer folder, tokenizer.json or .tiktoken file that made the ids; text needs it."
)
@click.option("--vocab_path", metavar="FILE", help="Vocabulary, GPT-2 style JSON, instead.")
@click.option("--merges_path", metavar="FILE", help="Merges of that vocabulary.")
@option(
    "--end_of_document",
    metavar="TOKEN",
    help="Let documents end after TOKEN, a special token or an id; '' for one document.  "
    "[default: as FROM says, else after the tokenizer's <|endoftext|>]",
    group=_FORMATS,
)
@whole_number(
    "--shard_tokens",
    "Write llmc files of N tokens, TO_000000.bin and so on.  [default: 2147483647]",
    group=_FORMATS,
)
@force_option("Replace outputs that are there already.")
@json_option
@quiet_option
def command(
    *,
    source: str,
    target: str,
    tokenizer_path: str | None,
    vocab_path: str | None,
    merges_path: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,  # noqa: ANN401 - those of the conversion, passed on
) -> None:
    """Turn a token file of one format into another, with the same ids.

    npy and bin are lmkit's own; nanogpt is uint16 ids alone; llmc is that of llm.c and
    modded-nanogpt, with a header; megatron is NAME.bin with NAME.idx; shards is a folder that
    tokenize made. FROM may be a glob of llmc or nanogpt files. Document ends are kept where both
    formats have them.

    \b
    Examples:
      lmkit convert tokens train.bin train.npy --from nanogpt
      lmkit convert tokens 'fineweb_train_*.bin' train.npy
      lmkit convert tokens train.npy train --to megatron --tokenizer tokenizer/
      lmkit convert tokens train.npy train.txt --tokenizer tokenizer/
    """  # noqa: D301 - \b is click's mark for lines to keep
    from lmkit.cli.tokenizer_options import load_tokenizer
    from lmkit.token_formats import convert

    tokenizer = None
    if tokenizer_path or vocab_path or merges_path:
        tokenizer = load_tokenizer(vocab_path, merges_path, tokenizer_path)
    say = notices(quiet=quiet)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with progress_bar("Converting", "tokens", quiet=quiet) as progress:
            done = convert(source, target, tokenizer=tokenizer, progress=progress, **options)
    for warning in caught:
        say(str(warning.message))
    if done["ends_kept"] is False and done["to"] != "text":
        say(f"where its documents end is not kept: {done['to']} files do not say")
    if as_json:
        print(json.dumps(done))
    elif not quiet:
        named = done["files"][0] + (
            f" and {len(done['files']) - 1} more" * (len(done["files"]) > 1)
        )
        count = done["documents"]
        held = "" if count is None else f" of {counted(count, 'document')}"
        stored = f", {done['dtype']}" if done["dtype"] else ""
        tokens = counted(done["tokens"], "token")
        print(f"{named}: {tokens}{held}{stored}, {done['to']} of {done['from']}")
