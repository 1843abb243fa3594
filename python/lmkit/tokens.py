"""What a user calls tokens to what reads them: one token file, or a data set of shards.

`open_tokens` is for looking at them, `token_reader` for commands, which read by stretches.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from lmkit.shards.tokens import CACHE_LIMIT, ShardedTokens, is_sharded
from lmkit.token_file import FilePath, TokenReader, map_token_file

if TYPE_CHECKING:
    import numpy as np

AnyReader: TypeAlias = TokenReader | ShardedTokens


def open_tokens(path: FilePath) -> "np.memmap[Any, np.dtype[np.integer[Any]]] | ShardedTokens":
    """Open token ids as a read-only array.

    A token file is mapped; header, size and sidecar are checked. A ``.bin`` without a sidecar is
    taken as int32, with a `lmkit.token_file.TokenFileWarning`; an empty file gives an empty array.
    A data set of shards is a `lmkit.shards.tokens.ShardedTokens`: a sequence with ``len`` whose
    slices are new int32 arrays, read shard by shard, each checked when it is first opened.

    Args:
        path: a ``.npy`` of one dimension and any integer dtype, or a ``.bin``; or a folder of
            shards, its ``manifest.json``, or the address of either (``s3://...``).

    Raises:
        MissingFileError: there is no such file.
        MalformedError: it is no token file, or is not as long as header or sidecar say; or the
            manifest is none.

    Examples:
        >>> tokens = open_tokens("train.npy")
        >>> tokens.ndim, tokens.dtype.name, tokens.flags.writeable
        (1, 'int32', False)
    """
    typed = os.fspath(path)
    return ShardedTokens(typed) if is_sharded(typed) else map_token_file(path)


def token_reader(
    typed: str,
    *,
    cache_dir: str | None = None,
    cache_limit: str | int = CACHE_LIMIT,
    notice: Callable[[str], object] | None = None,
) -> AnyReader:
    """Open token ids to be read by stretches; the arguments are those of `ShardedTokens`."""
    if not is_sharded(typed):
        return TokenReader(typed)
    return ShardedTokens(typed, cache_dir=cache_dir, cache_limit=cache_limit, notice=notice)
