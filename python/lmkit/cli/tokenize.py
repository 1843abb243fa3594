"""`lmkit tokenize`: text to a token file."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource

from lmkit.cli.options import Command
from lmkit.cli.progress import progress_bar
from lmkit.cli.shard_options import shard_options
from lmkit.cli.shared_options import force_option, json_option, one_of, quiet_option, whole_number
from lmkit.cli.text_options import (
    data_path_option,
    errors_option,
    num_threads_option,
    text_field_option,
)
from lmkit.cli.tokenize_shards import (
    finalize_folder,
    is_asked_for,
    say_passed_over,
    tokenize_shards,
)
from lmkit.cli.tokenizer_options import load_tokenizer, say_special, tokenizer_options
from lmkit.cli.value_sources import flag_name
from lmkit.counted import counted
from lmkit.errors import UsageError
from lmkit.tokenizer import Tokenizer

# Options that a job of one file does not take as they are, or at all.
_ELSEWHERE = (
    "no_special_tokens",
    "val_output_path",
    "shards",
    "shard_tokens",
    "shard_format",
    "shard",
    "cluster",
    "verify",
)
_OF_FINALIZE = ("finalize", "verify", "as_json", "quiet")


@click.command(cls=Command)
@data_path_option("Read")
@click.option(
    "--output_path",
    metavar="FILE",
    help="Write the ids here: .npy, or .bin without a header. A sidecar FILE.json tells the rest.",
)
@tokenizer_options
@one_of(
    "--method",
    ["streaming", "in-memory"],
    "Write as the text is read, or at the end; the bytes are the same.",
    default="streaming",
)
@one_of(
    "--dtype",
    ["int32", "uint16", "uint32"],
    "Store ids like this; uint16 only where the vocabulary fits.",
    default="int32",
)
@errors_option()
@text_field_option()
@num_threads_option("Encode")
@click.option(
    "--end_of_document",
    metavar="TOKEN",
    help="Write TOKEN after each document that does not end with it; '' for none.  "
    "[default: <|endoftext|> where documents come one by one]",
)
@click.option(
    "--val_fraction",
    type=float,
    metavar="X",
    help="Keep about this share of the documents aside, for validation.",
)
@click.option(
    "--val_output_path", metavar="FILE", help="Write those here.  [default: NAME.val.npy]"
)
@whole_number(
    "--max_record_bytes",
    "Refuse a record, or text without a place to cut, of more than N bytes.",
    default=1 << 30,
)
@force_option("Replace outputs that are there already.")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on where a killed run of the same command was; from the start where there was none.",
)
@shard_options
@click.option("--dry_run", is_flag=True, help="Check everything and say what would be done.")
@json_option
@quiet_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    data_path: tuple[str, ...],
    output_path: str | None,
    no_special_tokens: bool,
    finalize: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,  # noqa: ANN401 - those of the job, passed on
) -> None:
    """Turn text into a file of token ids, in bounded memory.

    Reads files of any size piece by piece, on all cores. The file appears only when whole.

    \b
    Examples:
      lmkit tokenize --data_path raw_text.txt --tokenizer tokenizer/ --output_path train.npy
      lmkit tokenize --data_path raw_text.txt --vocab_path tokenizer.vocab \\
          --merges_path tokenizer.merges --output_path train.npy --val_fraction 0.01
      zcat books.gz | lmkit tokenize --data_path - --tokenizer tokenizer/ --output_path books.npy
      lmkit tokenize --data_path texts/ --tokenizer tokenizer/ --output_path data/ --shards 64 \\
          --cluster local:4
    """  # noqa: D301 - \b is click's mark for lines to keep
    if finalize is not None:
        _check_alone(ctx)
        finalize_folder(finalize, verify=options["verify"], as_json=as_json, quiet=quiet)
        return
    _require(ctx, data_path=data_path, output_path=output_path)
    if no_special_tokens and options["special_tokens"]:
        raise UsageError("--special_token and --no_special_tokens exclude each other")
    tokenizer = load_tokenizer(
        options.pop("vocab_path"),
        options.pop("merges_path"),
        options.pop("tokenizer_path"),
        options.pop("special_tokens"),
        options.pop("pattern"),
    )
    if not quiet:
        say_special(tokenizer, as_text=no_special_tokens)
    options["no_special_tokens"] = no_special_tokens
    how = {"dry_run": dry_run, "as_json": as_json, "quiet": quiet}
    run = tokenize_shards if is_asked_for(options) else _tokenize
    run(data_path, output_path or "", tokenizer, options, **how)


def _tokenize(
    data_path: Sequence[str],
    output_path: str,
    tokenizer: Tokenizer,
    options: dict[str, Any],
    *,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make one token file."""
    from lmkit.tokenize_files import plan

    of_job = {name: value for name, value in options.items() if name not in _ELSEWHERE}
    job = plan(
        data_path,
        output_path,
        tokenizer,
        val_output=options["val_output_path"],
        special="none" if options["no_special_tokens"] else "encode",
        **of_job,
    )
    if dry_run:
        _say_plan(job.files, job.total_bytes, output_path, as_json=as_json)
        return
    try:
        with progress_bar("Tokenizing", "B", quiet=quiet) as progress:
            summary = job.run(progress)
    except BaseException:
        if job.is_resumable:
            print("What is done so far is kept: --resume goes on from there", file=sys.stderr)
        raise
    _say_summary(summary, output_path, as_json=as_json, quiet=quiet)


def _require(ctx: click.Context, **given: object) -> None:
    """Refuse a command without what it needs, in click's own words."""
    for parameter in ctx.command.params:
        if parameter.name in given and not given[parameter.name]:
            raise click.MissingParameter(ctx=ctx, param=parameter)


def _check_alone(ctx: click.Context) -> None:
    """Refuse what has no effect with --finalize."""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if source is ParameterSource.COMMANDLINE and parameter.name not in _OF_FINALIZE:
            raise UsageError(f"--{flag_name(parameter)} has no effect with --finalize")


def _say_plan(files: int, size: int, output: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"files": files, "bytes": size, "output_path": output}))
    else:
        print(f"Would tokenize {counted(files, 'file')}, {size / 1e6:,.1f} MB, into {output}")


def _say_summary(summary: dict[str, Any], output: str, *, as_json: bool, quiet: bool) -> None:
    if not quiet:
        say_passed_over(summary["skipped"], summary["null_rows"])
    if as_json:
        print(json.dumps({"output_path": output, **summary}))
        return
    if quiet:
        return
    parts = [(output, summary)]
    if "validation" in summary:
        parts.append(("validation", summary["validation"]))
    for name, part in parts:
        ratio = part["text_bytes"] / part["tokens"] if part["tokens"] else 0.0
        print(
            f"{name}: {counted(part['tokens'], 'token')} of "
            f"{counted(part['documents'], 'document')}, "
            f"{counted(part['text_bytes'], 'byte')} ({ratio:.2f} bytes a token)"
        )
    resumed = summary.get("resumed_bytes", 0)
    if resumed:
        print(f"{resumed:,} bytes of these were done before")
    total = sum(part["text_bytes"] for _, part in parts) - resumed
    seconds = max(summary["seconds"], 1e-9)
    print(f"Done in {seconds:.2f} s, {total / 1e6 / seconds:,.1f} MB/s")
