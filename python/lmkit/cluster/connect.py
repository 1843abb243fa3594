"""`local:4` or `tcp://HOST:PORT` to a Dask client with workers that can do the work.

A local cluster is processes of this machine, started here and gone at the end; any other is left as
it is found.
"""

# mypy: disable-error-code="no-untyped-call"

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from distributed import Client, LocalCluster

from lmkit import _core
from lmkit.errors import MismatchError, SystemRefusedError
from lmkit.shards.cluster_address import local_workers

_SECONDS_TO_CONNECT = 10
_SECONDS_FOR_WORKERS = 60
_SECONDS_TO_CLOSE = 5


@contextmanager
def connect(address: str) -> Iterator[Client]:
    """A client of the cluster at ``address``, whose workers were seen to fit.

    Raises:
        SystemRefusedError: there is no scheduler, it has no workers, or none can be started.
        MismatchError: a worker has another lmkit than this process, or none.
    """
    workers = local_workers(address)
    if workers is not None:
        with _local(workers) as client:
            yield client
        return
    try:
        client = Client(address, timeout=_SECONDS_TO_CONNECT, set_as_default=False)
    except OSError as error:
        raise SystemRefusedError(
            f"--cluster {address}: no Dask scheduler answers there",
            hint="start one with: dask scheduler; then dask worker ADDRESS on each machine",
        ) from error
    try:
        _wait_for_workers(client, address)
        check_versions(client)
        yield client
    finally:
        with suppress(TimeoutError):
            client.close(timeout=_SECONDS_TO_CLOSE)


@contextmanager
def _local(workers: int) -> Iterator[Client]:
    try:
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,  # each keeps to its own ceiling
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
        )
    except (OSError, RuntimeError) as error:
        raise SystemRefusedError(f"--cluster local:{workers}: cannot start it: {error}") from error
    client = Client(cluster, set_as_default=False)
    try:
        yield client
    finally:
        _kill(cluster)
        with suppress(TimeoutError):  # of a busy machine; what is left ends with this process
            client.close(timeout=_SECONDS_TO_CLOSE)
            cluster.close(timeout=_SECONDS_TO_CLOSE)


def _kill(cluster: LocalCluster) -> None:
    """End the workers at once, whatever they are at: what they have not finished does not exist."""
    for nanny in list(cluster.workers.values()):
        nanny.auto_restart = False
        if nanny.pid:
            with suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


def _wait_for_workers(client: Client, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=_SECONDS_FOR_WORKERS)
    except TimeoutError as error:
        raise SystemRefusedError(
            f"--cluster {address}: the scheduler has no workers",
            hint=f"start one on each machine with: dask worker {address} --nthreads 1",
        ) from error


def check_versions(client: Client) -> None:
    """That every worker has the lmkit that this process has.

    Raises:
        MismatchError: one has not; names it.
    """

    # A nested function travels as it is, so that it also runs where there is no lmkit.
    def version() -> str | None:
        try:
            from lmkit import _core
        except ImportError:
            return None
        return _core.__version__

    for worker, found in sorted(client.run(version).items()):
        if found != _core.__version__:
            has = f"has lmkit {found}" if found else "has no lmkit"
            raise MismatchError(
                f"worker {worker} {has}, and this is {_core.__version__}",
                hint="all that work on one data set need the same lmkit",
            )
