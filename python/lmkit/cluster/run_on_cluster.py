"""Tasks to receipts on a Dask cluster; what a lost worker had begun is done again by another.

Dask gives a task to another worker when one is lost, and gives it up after the third loss in a row.
Any other failure ends the run: shards that are whole stay, and the same command goes on from there.
"""

# mypy: disable-error-code="no-untyped-call"

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any

from distributed import Client, Future, KilledWorker, as_completed

from lmkit.cluster.worker import BringTokenizer, make_shard
from lmkit.errors import LmkitError, SystemRefusedError
from lmkit.shards.cluster_address import local_workers
from lmkit.shards.encode_shard import ShardTask
from lmkit.shards.receipt import Receipt
from lmkit.shards.tally import Tally
from lmkit.tokenizer import Tokenizer

_SECONDS_BETWEEN_LOOKS = 0.05

# A worker may be lost between the end of a task and the reading of its receipt: Dask then does the
# task again, and the future is one to wait for as before.
_UNDER_WAY = {"lost", "pending"}


def run_on_cluster(
    tasks: Sequence[ShardTask],
    tokenizer: Tokenizer,
    tally: Tally,
    client: Client,
    address: str,
    *,
    num_threads: int | None = None,
    method: str = "streaming",
) -> Iterator[Receipt]:
    """Do ``tasks`` on the cluster of ``client``; yields receipts as shards are finished.

    Args:
        tasks: what to do.
        tokenizer: what to encode with.
        tally: told how far each task is.
        client: of a cluster whose workers were seen to fit, as `connect` gives it.
        address: what it was connected to: ``local:4`` or ``tcp://HOST:PORT``.
        num_threads: encoder threads of each task; None: as many as fit the machine.
        method: as for `encode_shard`.

    Raises:
        SystemRefusedError: the scheduler is lost.
        LmkitError: a task failed; names the worker.
    """
    workers = local_workers(address)
    if num_threads is None and workers is not None:
        num_threads = max(1, (os.cpu_count() or 1) // workers)
    topic = f"lmkit-{tasks[0].plan}-{time.time_ns()}"
    client.register_plugin(BringTokenizer(tokenizer))
    client.subscribe_topic(topic, _listener(tally))
    yield from _run(client, tasks, tally, (topic, num_threads, method))


def _listener(tally: Tally) -> Any:  # noqa: ANN401 - a callback of Dask's
    def listen(event: tuple[float, dict[str, int]]) -> None:
        tally.running(event[1]["shard"], event[1]["bytes"])

    return listen


def _run(
    client: Client, tasks: Sequence[ShardTask], tally: Tally, how: tuple[str, int | None, str]
) -> Iterator[Receipt]:
    topic, num_threads, method = how
    tally.tell()  # the clock of its rate begins now, with nothing done
    keys = [f"{topic}-{task.name}" for task in tasks]
    by_key = dict(zip(keys, tasks, strict=True))
    watch = _Watch(client)
    # No list of the futures is kept: one that is held would be done again when its worker is lost,
    # though its receipt was read long ago.
    waiting = as_completed(
        client.map(
            make_shard,
            tasks,
            key=keys,
            topic=topic,
            num_threads=num_threads,
            method=method,
            pure=False,
        ),
        loop=client.loop,
    )
    while waiting.count():
        if not waiting.has_ready():
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            watch.look(tally)
            tally.tell()
            continue
        for future in waiting.next_batch():
            if future.status in _UNDER_WAY:
                waiting.add(future)
                continue
            receipt = _receipt_of(future, by_key[future.key], client)
            tally.finished(receipt.number)
            tally.tell()
            yield receipt


def _receipt_of(future: "Future[Receipt]", task: ShardTask, client: Client) -> Receipt:
    # Its status is not asked first: that may have changed by the time of the answer.
    try:
        receipt: Receipt = future.result()
    except LmkitError:
        raise
    except KilledWorker as error:
        raise LmkitError(
            f"{task.name}: every worker that had it was lost, the last of them "
            f"{error.last_worker.address}",
            hint="their logs say why; --num_threads 1 takes less memory",
        ) from error
    except (CancelledError, OSError) as error:  # a task's own are told as LmkitError
        raise _lost(client) from error
    except Exception as error:
        raise LmkitError(f"{task.name}: {type(error).__name__}: {error}") from error
    return receipt


def _lost(client: Client) -> SystemRefusedError:
    address = client.scheduler.address if client.scheduler else "the given address"
    return SystemRefusedError(
        f"the Dask scheduler at {address} was lost",
        hint="shards that are whole stay; the same command goes on from there",
    )


class _Watch:
    """Notices that no worker is left, or that the scheduler is gone."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._looked = 0.0

    def look(self, tally: Tally) -> None:
        if self._client.status != "running":
            raise _lost(self._client)
        now = time.monotonic()
        if now - self._looked >= 1:
            self._looked = now
            tally.is_alone = not self._client.scheduler_info().get("workers")
