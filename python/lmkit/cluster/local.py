# mypy: disable-error-code="no-untyped-call"
"""A Dask cluster of this machine, as a group of processes that can be ended at once.

Dask closes a cluster by asking each worker, which takes seconds where one is busy, and Ctrl-C does
not wait for that. So scheduler and workers are a process group of their own, which is killed: what
a worker has not finished does not exist. The group ends by itself when whoever started it has gone.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lmkit.errors import SystemRefusedError


@contextmanager
def local_cluster(workers: int) -> Iterator[str]:
    """The address of a scheduler with so many workers of one task each, alive within the block.

    Raises:
        SystemRefusedError: they cannot be started.
    """
    with (
        tempfile.TemporaryDirectory(prefix="lmkit-cluster-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "lmkit.cluster.local", str(workers), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            address = process.stdout.readline().strip() if process.stdout else ""
            if not address:
                complaints.seek(0)
                why = (complaints.read().strip().splitlines() or ["it ended without a word"])[-1]
                raise SystemRefusedError(f"--cluster local:{workers}: cannot start it: {why}")
            yield address
        finally:
            _kill_group(process.pid)


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        if os.name == "nt":
            os.kill(leader, signal.SIGTERM)
        else:
            os.killpg(leader, signal.SIGKILL)


def _serve(workers: int, folder: str) -> None:
    """Run the cluster until standard input ends."""
    import logging

    from distributed import LocalCluster

    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        memory_limit=0,  # each keeps to its own ceiling
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
        silence_logs=logging.CRITICAL,
        local_directory=folder,
    )
    print(cluster.scheduler_address, flush=True)  # noqa: T201 - what the starter reads
    sys.stdin.read()
    _kill_group(os.getpid())


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2])
