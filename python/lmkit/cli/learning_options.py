"""The options of `lmkit train-tokenizer`."""

import click

from lmkit.cli.shared_options import force_option, in_order, one_of, option, whole_number
from lmkit.cli.text_options import (
    data_path_option,
    errors_option,
    num_threads_option,
    text_field_option,
)

_TEXT = "Text"
_VOCABULARY = "Vocabulary"
_COUNTS = "Counts and memory"
_OUTPUT = "Output"


# In the order of the help page.
learning_options = in_order(
    data_path_option("Learn from", group=_TEXT),
    errors_option(group=_TEXT),
    text_field_option(group=_TEXT),
    option(
        "--sample",
        type=click.FloatRange(min=0, max=1, min_open=True),
        metavar="X",
        help="Learn from about this share of the documents, chosen by a hash of each.",
        group=_TEXT,
    ),
    whole_number(
        "--seed",
        "Choose other documents for --sample and --report.",
        default=0,
        at_least=0,
        group=_TEXT,
    ),
    whole_number(
        "--vocab_size",
        "Learn N tokens, the 256 bytes and the special tokens included.",
        default=10_000,
        group=_VOCABULARY,
    ),
    option(
        "--special_token",
        multiple=True,
        metavar="TOKEN",
        help="Cut TOKEN out of the text and give it an id of its own; repeats.  [default: "
        "<|endoftext|>, or those of --extend or --from_counts]",
        group=_VOCABULARY,
    ),
    option(
        "--no_special_tokens",
        is_flag=True,
        help="Have no special tokens at all.",
        group=_VOCABULARY,
    ),
    one_of(
        "--special_ids",
        ["first", "last"],
        "Give special tokens the ids before the bytes or after the merges.  [default: "
        "last, with --tie_break huggingface first]",
        group=_VOCABULARY,
    ),
    option(
        "--pattern",
        metavar="PATTERN",
        help="Split text by gpt2, cl100k, o200k, llama3, qwen2, or a regular expression.  "
        "[default: gpt2, or that of --extend or --from_counts]",
        group=_VOCABULARY,
    ),
    one_of(
        "--tie_break",
        ["lexicographic", "huggingface"],
        "Of equally frequent pairs merge the greatest bytes first, special tokens "
        "getting the last ids; or do as Hugging Face's BpeTrainer, special tokens getting "
        "the first.",
        default="lexicographic",
        group=_VOCABULARY,
    ),
    whole_number(
        "--min_frequency",
        "Merge no pair that occurs fewer than N times.",
        default=1,
        group=_VOCABULARY,
    ),
    whole_number(
        "--max_token_length",
        "Learn no token of more than N bytes.  [default: no limit]",
        at_least=2,
        group=_VOCABULARY,
    ),
    one_of(
        "--initial_alphabet",
        ["bytes"],
        "Begin with all 256 bytes, so that any text can be encoded.",
        default="bytes",
        group=_VOCABULARY,
    ),
    option(
        "--extend",
        metavar="TOKENIZER",
        help="Keep the tokens, ids and merges of this tokenizer folder or tokenizer.json, "
        "and learn on from there.",
        group=_VOCABULARY,
    ),
    option(
        "--from_counts",
        multiple=True,
        metavar="FILE",
        help="Learn from counts that --save_counts wrote; they add up, with --data_path.",
        group=_COUNTS,
    ),
    option(
        "--save_counts",
        metavar="FILE",
        help="Save what was counted here. Without --output_path nothing is learned.",
        group=_COUNTS,
    ),
    option(
        "--memory_limit",
        metavar="SIZE",
        help="Take no more memory than SIZE, such as 4G; text whose different pretokens do "
        "not fit is refused.  [default: no limit]",
        group=_COUNTS,
    ),
    option(
        "--allow_pruning",
        is_flag=True,
        help="Drop the rarest pretokens instead, and say how much of the text that was.",
        group=_COUNTS,
    ),
    num_threads_option("Count", group=_COUNTS),
    option(
        "--output_path",
        metavar="FOLDER",
        help="Write the tokenizer folder here.",
        group=_OUTPUT,
    ),
    option(
        "--report",
        "reports",
        is_flag=True,
        help="Tell the bytes a token as the vocabulary grows, and the commonest and the "
        "longest tokens, on text that was held out.",
        group=_OUTPUT,
    ),
    option(
        "--held_out",
        multiple=True,
        metavar="PATH",
        help="Report on this text; repeats.  [default: the documents that --sample leaves, "
        "or one in a hundred, which are not learned from]",
        group=_OUTPUT,
    ),
    force_option("Replace an output that is there already.", group=_OUTPUT),
    option(
        "--dry_run",
        is_flag=True,
        help="Check everything and say what would be done.",
        group=_OUTPUT,
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object."),
    click.option("--quiet", is_flag=True, help="Print nothing but errors and notes."),
)
