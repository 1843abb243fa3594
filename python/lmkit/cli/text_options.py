"""The options that say which text is read, and how: shared by the commands that read text."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def data_path_option(verb: str) -> Callable[[Function], Function]:
    """`--data_path`; its help begins with ``verb``, what the command does with a file."""
    return click.option(
        "--data_path",
        "data_paths",
        multiple=True,
        required=True,
        metavar="PATH",
        help=f"{verb} this file, folder, glob or - (standard input); repeats. .gz and .zst are "
        "unpacked, .jsonl is read line by line.",
    )


def reading_options(verb: str) -> Callable[[Function], Function]:
    """`--errors`, `--text_field` and `--num_threads`; ``verb`` is what the threads do."""
    options = (
        click.option(
            "--errors",
            type=click.Choice(["strict", "replace", "bytes"]),
            default="strict",
            show_default=True,
            help="Refuse bytes that are not UTF-8, replace them by U+FFFD, or take each on its "
            "own.",
        ),
        click.option(
            "--text_field",
            metavar="FIELD",
            help="Read FIELD of each line of .jsonl.  [default: text]",
        ),
        click.option(
            "--num_threads",
            type=click.IntRange(min=1),
            metavar="N",
            help=f"{verb} on N threads; the result is the same for any.  [default: one per core]",
        ),
    )

    def add(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return add
