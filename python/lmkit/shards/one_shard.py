"""`tokenize_shard`: one shard in one call, for engines of one's own: each call may be anywhere."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lmkit.shards.data_set import begin
from lmkit.shards.encode_shard import ShardTask, encode_shard, this_process
from lmkit.shards.make_plan import ShardOptions, make_plan
from lmkit.shards.names import parse_shard
from lmkit.shards.receipt import Receipt
from lmkit.tokenizer import Path as AnyPath
from lmkit.tokenizer import Tokenizer


def tokenize_shard(
    inputs: AnyPath | Sequence[AnyPath],
    folder: AnyPath,
    tokenizer: Tokenizer,
    number: int,
    count: int,
    *,
    num_threads: int | None = None,
    progress: Callable[[int, int, int], object] | None = None,
    **options: Any,  # noqa: ANN401 - those of `ShardOptions`
) -> Receipt:
    """Make shard ``number`` of ``count``, unless it is there; `finalize` ends the data set.

    Args:
        inputs: a file, a folder or a glob, or several; the same for all shards.
        folder: the data set; made where it is not there.
        tokenizer: what to encode with; the same for all shards.
        number: which shard, from 0.
        count: how many there are.
        num_threads: encoder threads; None: one per core. The shard does not depend on it.
        progress: called as ``progress(phase, bytes_done, bytes_total)`` a few times a second.
        options: fields of :class:`~lmkit.shards.make_plan.ShardOptions`; the same for all shards.

    Raises:
        MismatchError: ``folder`` holds shards of another plan.
        LmkitError: as `lmkit.tokenize`; nothing of the shard is put in place then.

    Examples:
        >>> for number in range(8):                          # on any machine, in any order
        ...     tokenize_shard("texts/", "data", tok, number, 8)    # doctest: +SKIP
        >>> finalize("data")                                 # doctest: +SKIP
    """
    parse_shard(f"{number}/{count}")
    paths = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    place = Path(os.path.abspath(folder))  # noqa: PTH100 - links stay as they are
    chosen = ShardOptions(shards=count, **options)
    planned = make_plan([os.fspath(path) for path in paths], place, tokenizer, chosen)
    begin(planned)
    task = ShardTask.of(planned.plan, number, place, planned.val_folder)
    return encode_shard(
        task, tokenizer, worker=this_process(), num_threads=num_threads, progress=progress
    )
