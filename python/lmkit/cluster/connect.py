"""`local:4` or `tcp://HOST:PORT` to a Dask client with workers that can do the work.

A local cluster is processes of this machine, started here and gone at the end; any other is left as
it is found, but for the tokenizer, which its workers keep for runs to come.
"""

# mypy: disable-error-code="no-untyped-call"

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from distributed import Client

from lmkit import _core
from lmkit.cluster.local import local_cluster
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
    if workers is None:
        with _client(address, address) as client:
            yield client
    else:
        with local_cluster(workers) as scheduler, _client(scheduler, address) as client:
            yield client


@contextmanager
def _client(scheduler: str, asked: str) -> Iterator[Client]:
    try:
        client = Client(scheduler, timeout=_SECONDS_TO_CONNECT, set_as_default=False)
    except OSError as error:
        raise SystemRefusedError(
            f"--cluster {asked}: no Dask scheduler answers there",
            hint="start one with: dask scheduler; then dask worker ADDRESS on each machine",
        ) from error
    try:
        _wait_for_workers(client, asked)
        check_versions(client)
        yield client
    except (KeyboardInterrupt, SystemExit):
        # Whoever asks to leave does not wait for the scheduler, which notices that we have gone.
        raise
    except BaseException:
        _close(client)
        raise
    else:
        _close(client)


def _close(client: Client) -> None:
    with suppress(TimeoutError):  # of a busy machine; it is closed with this process
        client.close(timeout=_SECONDS_TO_CLOSE)


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

    # One that is lost at this moment does not answer; every task looks at its version, too.
    for worker, found in sorted(client.run(version, on_error="ignore").items()):
        if found != _core.__version__:
            has = f"has lmkit {found}" if found else "has no lmkit"
            raise MismatchError(
                f"worker {worker} {has}, and this is {_core.__version__}",
                hint="all that work on one data set need the same lmkit",
            )
