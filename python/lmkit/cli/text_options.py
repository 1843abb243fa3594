"""The options that say which text is read, and how: shared by the commands that read text."""

from typing import Any

from lmkit.cli.shared_options import Decorator, one_of, option, whole_number


def data_path_option(verb: str, **more: Any) -> Decorator:  # noqa: ANN401 - click's
    """`--data_path`; its help begins with ``verb``, what the command does with a file.

    ``more``, here and below, goes to `option`.
    """
    return option(
        "--data_path",
        multiple=True,
        metavar="PATH",
        help=f"{verb} this file, folder, glob or - (standard input); repeats. .gz and .zst are "
        "unpacked, .jsonl is read line by line, .parquet row by row.",
        **more,
    )


def errors_option(**more: Any) -> Decorator:  # noqa: ANN401 - click's
    """`--errors`."""
    return one_of(
        "--errors",
        ["strict", "replace", "bytes"],
        "Refuse bytes that are not UTF-8, replace them by U+FFFD, or take each on its own.",
        default="strict",
        **more,
    )


def text_field_option(**more: Any) -> Decorator:  # noqa: ANN401 - click's
    """`--text_field`."""
    return option(
        "--text_field",
        metavar="FIELD",
        help="Read FIELD of each line of .jsonl, or row of .parquet.  [default: text]",
        **more,
    )


def num_threads_option(verb: str, **more: Any) -> Decorator:  # noqa: ANN401 - click's
    """`--num_threads`; ``verb`` is what the threads do."""
    return whole_number(
        "--num_threads",
        f"{verb} on N threads; the result is the same for any.  [default: one per core]",
        **more,
    )
