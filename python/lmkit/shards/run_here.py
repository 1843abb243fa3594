"""Shards one after the other in this process, on all its threads: no engine, and none needed."""

from collections.abc import Callable, Iterable, Sequence

from lmkit.shards.encode_shard import ShardTask, encode_shard, this_process
from lmkit.shards.receipt import Receipt
from lmkit.shards.tally import Tally
from lmkit.tokenizer import Tokenizer


def run_here(
    tasks: Sequence[ShardTask],
    tokenizer: Tokenizer,
    tally: Tally,
    *,
    num_threads: int | None = None,
    method: str = "streaming",
) -> Iterable[Receipt]:
    """Do ``tasks`` in order; yields the receipt of each.

    Raises:
        LmkitError: as `tokenize`, at the first shard that fails; those before it are there.
    """
    tally.tell()  # the clock of its rate begins now, with nothing done
    for task in tasks:
        receipt = encode_shard(
            task,
            tokenizer,
            worker=this_process(),
            num_threads=num_threads,
            method=method,
            progress=_reporter(task.number, tally),
        )
        tally.finished(task.number)
        tally.tell()
        yield receipt


def _reporter(number: int, tally: Tally) -> Callable[[int, int, int], None]:
    def report(_phase: int, done: int, _total: int) -> None:
        tally.running(number, done)
        tally.tell()

    return report
