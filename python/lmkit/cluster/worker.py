"""What a Dask worker does: keep the tokenizer, make a shard when asked, and tell how far it is."""

import os
import socket
import time
from collections.abc import Callable

from distributed import Worker, WorkerPlugin, get_worker

from lmkit.errors import LmkitError, MismatchError
from lmkit.shards.encode_shard import ShardTask, encode_shard
from lmkit.shards.receipt import Receipt
from lmkit.tokenizer import Tokenizer

_SECONDS_BETWEEN_REPORTS = 0.5

# By fingerprint; a process may work for several runs at a time.
_tokenizers: dict[str, Tokenizer] = {}


class BringTokenizer(WorkerPlugin):
    """Gives every worker of a cluster the tokenizer, also those that come later or anew."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.name = f"lmkit-tokenizer-{tokenizer.fingerprint}"

    def setup(self, worker: Worker) -> None:  # noqa: ARG002 - Dask's signature
        """Keep the tokenizer."""
        _tokenizers[self.tokenizer.fingerprint] = self.tokenizer


def make_shard(task: ShardTask, topic: str, num_threads: int | None, method: str) -> Receipt:
    """Make one shard on a worker; bytes done are told under ``topic``.

    Args:
        task: what to do.
        topic: of Dask's events.
        num_threads: encoder threads; None: the machine's cores, divided by how many tasks this
            worker does at a time.
        method: as for `encode_shard`.

    Raises:
        LmkitError: as `encode_shard`, naming the worker.
    """
    worker = get_worker()
    name = f"{socket.gethostname()}/{worker.name}"
    try:
        tokenizer = _tokenizers.get(task.tokenizer)
        if tokenizer is None:
            raise MismatchError("has not the plan's tokenizer")  # noqa: TRY301 - told as the others
        return encode_shard(
            task,
            tokenizer,
            worker=name,
            num_threads=num_threads or max(1, _cores() // worker.state.nthreads),
            method=method,
            progress=_reporter(worker, topic, task.number),
        )
    except LmkitError as error:
        raise type(error)(f"worker {name}, {task.name}: {error}", hint=error.hint) from None
    except Exception as error:
        raise LmkitError(f"worker {name}, {task.name}: {type(error).__name__}: {error}") from error


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reporter(worker: Worker, topic: str, number: int) -> Callable[[int, int, int], None]:
    told = 0.0

    def report(_phase: int, done: int, _total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= _SECONDS_BETWEEN_REPORTS:
            told = now
            worker.log_event(topic, {"shard": number, "bytes": done})

    return report
