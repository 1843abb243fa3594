"""The options of `lmkit tokenize` for sharded data sets."""

import re

from lmkit.cli.shared_options import in_order, one_of, option, whole_number
from lmkit.errors import UsageError

_SHARDS = "Shards"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


# The options that make a folder of shards.
shard_options = in_order(
    whole_number(
        "--shards",
        "Make --output_path a folder of N token files, cut at document ends, with a "
        "manifest; joined they are the one file. Goes on with those that are missing.",
        group=_SHARDS,
    ),
    option(
        "--shard_tokens",
        metavar="AMOUNT",
        help="The same with about AMOUNT tokens a file, such as 256M (million).",
        group=_SHARDS,
    ),
    one_of(
        "--shard_format",
        ["npy", "bin"],
        "Write shards with NumPy's header, or without one.",
        default="npy",
        group=_SHARDS,
    ),
    option(
        "--cluster",
        metavar="CLUSTER",
        help="Share the shards among the workers of a Dask cluster: local:4 starts four here, "
        "tcp://HOST:8786 uses a scheduler that runs.",
        group=_SHARDS,
    ),
    option(
        "--shard",
        metavar="K/N",
        help="Make shard K of N alone, from 0 on: for job arrays. Others make the rest.",
        group=_SHARDS,
    ),
    option(
        "--finalize",
        metavar="DIR",
        help="Write the manifest of DIR, whose shards --shard made.",
        group=_SHARDS,
    ),
    option(
        "--verify",
        is_flag=True,
        help="Read all shards again and compare their checksums.",
        group=_SHARDS,
    ),
)


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
