"""The options of `lmkit tokenize` for sharded data sets."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from lmkit.cli.options import Option
from lmkit.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])

GROUP = "Shards"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def shard_options(function: Function) -> Function:
    """Add the options that make a folder of shards."""
    for option in reversed(_options()):
        function = option(function)
    return function


def _options() -> list[Callable[[Any], Any]]:
    def option(*flags: str, **more: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - click's
        return click.option(*flags, cls=Option, group=GROUP, **more)

    return [
        option(
            "--shards",
            type=click.IntRange(min=1),
            metavar="N",
            help="Make --output_path a folder of N token files, cut at document ends, with a "
            "manifest; joined they are the one file. Goes on with those that are missing.",
        ),
        option(
            "--shard_tokens",
            metavar="AMOUNT",
            help="The same with about AMOUNT tokens a file, such as 256M (million).",
        ),
        option(
            "--shard_format",
            type=click.Choice(["npy", "bin"]),
            default="npy",
            show_default=True,
            help="Write shards with NumPy's header, or without one.",
        ),
        option(
            "--cluster",
            metavar="CLUSTER",
            help="Share the shards among the workers of a Dask cluster: local:4 starts four here, "
            "tcp://HOST:8786 uses a scheduler that runs.",
        ),
        option(
            "--shard",
            metavar="K/N",
            help="Make shard K of N alone, from 0 on: for job arrays. Others make the rest.",
        ),
        option(
            "--finalize",
            metavar="DIR",
            help="Write the manifest of DIR, whose shards --shard made.",
        ),
        option("--verify", is_flag=True, help="Read all shards again and compare their checksums."),
    ]


def token_count(amount: str | None) -> int | None:
    """The tokens that ``amount``, such as ``"256M"``, stands for; the units are powers of 1000.

    Raises:
        UsageError: it is no such thing.
    """
    if amount is None:
        return None
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)", amount.strip(), re.IGNORECASE)
    if parts is None:
        raise UsageError(f"--shard_tokens must be an amount such as 256M, not {amount!r}")
    return int(float(parts[1]) * _UNITS[parts[2].upper()])
