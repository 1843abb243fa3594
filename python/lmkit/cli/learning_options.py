"""The options of `lmkit train-tokenizer`."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click

from lmkit.cli.options import Option
from lmkit.cli.text_options import (
    data_path_option,
    errors_option,
    num_threads_option,
    text_field_option,
)

Function = TypeVar("Function", bound=Callable[..., Any])

_TEXT: dict[str, Any] = {"cls": Option, "group": "Text"}
_COUNTS: dict[str, Any] = {"cls": Option, "group": "Counts and memory"}
_text = partial(click.option, **_TEXT)
_vocabulary = partial(click.option, cls=Option, group="Vocabulary")
_counts = partial(click.option, **_COUNTS)
_output = partial(click.option, cls=Option, group="Output")


def learning_options(function: Function) -> Function:
    """Add the options, in the order of the help page."""
    for option in reversed(
        (
            data_path_option("Learn from", **_TEXT),
            errors_option(**_TEXT),
            text_field_option(**_TEXT),
            _text(
                "--sample",
                type=click.FloatRange(min=0, max=1, min_open=True),
                metavar="X",
                help="Learn from about this share of the documents, chosen by a hash of each.",
            ),
            _text(
                "--seed",
                type=click.IntRange(min=0),
                default=0,
                show_default=True,
                metavar="N",
                help="Choose other documents for --sample and --report.",
            ),
            _vocabulary(
                "--vocab_size",
                type=click.IntRange(min=1),
                default=10_000,
                show_default=True,
                metavar="N",
                help="Learn N tokens, the 256 bytes and the special tokens included.",
            ),
            _vocabulary(
                "--special_token",
                multiple=True,
                metavar="TOKEN",
                help="Cut TOKEN out of the text and give it an id of its own; repeats.  [default: "
                "<|endoftext|>, or those of --extend or --from_counts]",
            ),
            _vocabulary("--no_special_tokens", is_flag=True, help="Have no special tokens at all."),
            _vocabulary(
                "--special_ids",
                type=click.Choice(["first", "last"]),
                help="Give special tokens the ids before the bytes or after the merges.  [default: "
                "last, with --tie_break huggingface first]",
            ),
            _vocabulary(
                "--pattern",
                metavar="PATTERN",
                help="Split text by gpt2, cl100k, o200k, llama3, qwen2, or a regular expression.  "
                "[default: gpt2, or that of --extend or --from_counts]",
            ),
            _vocabulary(
                "--tie_break",
                type=click.Choice(["lexicographic", "huggingface"]),
                default="lexicographic",
                show_default=True,
                help="Of equally frequent pairs merge the greatest bytes first, special tokens "
                "getting the last ids; or do as Hugging Face's BpeTrainer, special tokens getting "
                "the first.",
            ),
            _vocabulary(
                "--min_frequency",
                type=click.IntRange(min=1),
                default=1,
                show_default=True,
                metavar="N",
                help="Merge no pair that occurs fewer than N times.",
            ),
            _vocabulary(
                "--max_token_length",
                type=click.IntRange(min=2),
                metavar="N",
                help="Learn no token of more than N bytes.  [default: no limit]",
            ),
            _vocabulary(
                "--initial_alphabet",
                type=click.Choice(["bytes"]),
                default="bytes",
                show_default=True,
                help="Begin with all 256 bytes, so that any text can be encoded.",
            ),
            _vocabulary(
                "--extend",
                metavar="TOKENIZER",
                help="Keep the tokens, ids and merges of this tokenizer folder or tokenizer.json, "
                "and learn on from there.",
            ),
            _counts(
                "--from_counts",
                multiple=True,
                metavar="FILE",
                help="Learn from counts that --save_counts wrote; they add up, with --data_path.",
            ),
            _counts(
                "--save_counts",
                metavar="FILE",
                help="Save what was counted here. Without --output_path nothing is learned.",
            ),
            _counts(
                "--memory_limit",
                metavar="SIZE",
                help="Take no more memory than SIZE, such as 4G; text whose different pretokens do "
                "not fit is refused.  [default: no limit]",
            ),
            _counts(
                "--allow_pruning",
                is_flag=True,
                help="Drop the rarest pretokens instead, and say how much of the text that was.",
            ),
            num_threads_option("Count", **_COUNTS),
            _output("--output_path", metavar="FOLDER", help="Write the tokenizer folder here."),
            _output(
                "--report",
                "reports",
                is_flag=True,
                help="Tell the bytes a token as the vocabulary grows, and the commonest and the "
                "longest tokens, on text that was held out.",
            ),
            _output(
                "--held_out",
                multiple=True,
                metavar="PATH",
                help="Report on this text; repeats.  [default: the documents that --sample leaves, "
                "or one in a hundred, which are not learned from]",
            ),
            _output("--force", is_flag=True, help="Replace an output that is there already."),
            _output("--dry_run", is_flag=True, help="Check everything and say what would be done."),
            click.option(
                "--json", "as_json", is_flag=True, help="Print the result as one JSON object."
            ),
            click.option("--quiet", is_flag=True, help="Print nothing but errors and notes."),
        )
    ):
        function = option(function)
    return function
