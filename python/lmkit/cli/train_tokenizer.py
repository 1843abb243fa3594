"""`lmkit train-tokenizer`: text to a tokenizer folder."""

import json
import os
import sys
import time
from pathlib import Path

import click

from lmkit import _core
from lmkit.cli.options import Command
from lmkit.cli.progress import progress_bar
from lmkit.cli.text_options import data_path_option, reading_options

_NAMED_AT_MOST = 3


@click.command(cls=Command)
@data_path_option("Learn from")
@click.option(
    "--vocab_size",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Learn N tokens, the 256 bytes and the special tokens included.",
)
@click.option(
    "--output_path",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Write the tokenizer folder here.",
)
@click.option(
    "--special_token",
    multiple=True,
    default=("<|endoftext|>",),
    show_default=True,
    metavar="TOKEN",
    help="Cut TOKEN out of the text and give it an id of its own; repeats.",
)
@click.option("--no_special_tokens", is_flag=True, help="Have no special tokens at all.")
@click.option(
    "--pattern",
    default="gpt2",
    show_default=True,
    metavar="PATTERN",
    help="Split text by gpt2, cl100k, o200k, or a regular expression.",
)
@click.option(
    "--tie_break",
    type=click.Choice(["lexicographic", "huggingface"]),
    default="lexicographic",
    show_default=True,
    help="Of equally frequent pairs merge the greatest bytes first, special tokens getting the "
    "last ids; or do as Hugging Face's BpeTrainer, special tokens getting the first.",
)
@click.option(
    "--min_frequency",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Merge no pair that occurs fewer than N times.",
)
@reading_options("Count")
@click.option("--force", is_flag=True, help="Replace a tokenizer folder that is there already.")
@click.option("--dry_run", is_flag=True, help="Check everything and say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors and notes.")
@click.pass_context
def command(
    context: click.Context,
    *,
    data_paths: tuple[str, ...],
    vocab_size: int,
    output_path: Path,
    special_token: tuple[str, ...],
    no_special_tokens: bool,
    pattern: str,
    tie_break: str,
    min_frequency: int,
    errors: str,
    text_field: str | None,
    num_threads: int | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Learn a vocabulary from text: TEXT to a tokenizer folder.

    The folder holds vocab.json and merges.txt (GPT-2 style), tokenizer.json (Hugging Face) and
    lmkit.json. Text with fewer merges than asked gives a smaller vocabulary.

    \b
    Examples:
      lmkit train-tokenizer --data_path raw_text.txt --vocab_size 10000 --output_path tokenizer/
      zcat books.gz | lmkit train-tokenizer --data_path - --output_path tokenizer/
    """  # noqa: D301 - \b is click's mark for lines to keep
    if no_special_tokens:
        source = context.get_parameter_source("special_token")
        if source is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError("--special_token and --no_special_tokens exclude each other")
        special_token = ()
    learner = _core.Learner(
        vocab_size, special_token, pattern, tie_break, min_frequency, num_threads
    )
    output = os.fspath(output_path)
    files, size = _core.Learner.plan(data_paths, text_field, output, force)
    if dry_run:
        plan = {"files": files, "bytes": size, "vocab_size": vocab_size, "output_path": output}
        sentence = f"Would learn {vocab_size:,} tokens from {_amount(files, size)} into {output}"
        _print(plan, sentence, as_json=as_json, quiet=quiet)
        return
    start = time.perf_counter()
    with progress_bar(("Counting", "Merging"), ("B", "merges"), quiet=quiet) as progress:
        lesson = learner.learn_files(data_paths, errors, text_field, [output], progress)
    left_out = lesson.tokenizer.save(output, force)
    seconds = time.perf_counter() - start
    result = _result(lesson, output, vocab_size, seconds)
    sentence = (
        f"Learned {len(lesson.tokenizer.merges()):,} merges from {lesson.pretokens:,} pretokens "
        f"in {seconds:.1f} s: {lesson.tokenizer.vocab_size:,} tokens in {output}"
    )
    _print(result, sentence, as_json=as_json, quiet=quiet)
    _tell_what_is_less(lesson, vocab_size)
    if left_out is not None:
        print(f"note: {left_out}", file=sys.stderr)


def _result(lesson: _core.Lesson, output: str, asked: int, seconds: float) -> dict[str, object]:
    tokenizer = lesson.tokenizer
    return {
        "output_path": output,
        "vocab_size": tokenizer.vocab_size,
        "asked": asked,
        "merges": len(tokenizer.merges()),
        "special_tokens": tokenizer.special_tokens(),
        "pattern": tokenizer.pattern,
        "fingerprint": tokenizer.fingerprint,
        "pretokens": lesson.pretokens,
        "not_text": [os.fspath(path) for path in lesson.not_text],
        "seconds": round(seconds, 3),
    }


def _tell_what_is_less(lesson: _core.Lesson, asked: int) -> None:
    learned = lesson.tokenizer.vocab_size
    if learned < asked:
        print(
            f"note: the text has no more to merge at {learned:,} tokens; {asked:,} were asked for",
            file=sys.stderr,
        )
    if lesson.not_text:
        named = ", ".join(os.fspath(path) for path in lesson.not_text[:_NAMED_AT_MOST])
        more = len(lesson.not_text) - _NAMED_AT_MOST
        others = f" and {more:,} more" if more > 0 else ""
        print(f"note: passed over what holds no text: {named}{others}", file=sys.stderr)


def _amount(files: int, size: int) -> str:
    if not size:
        return "standard input"
    return f"{files:,} {'file' if files == 1 else 'files'} of {size / 1e6:,.1f} MB"


def _print(result: dict[str, object], sentence: str, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print(json.dumps(result))
    elif not quiet:
        print(sentence)
