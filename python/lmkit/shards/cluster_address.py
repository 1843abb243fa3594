"""What `--cluster` takes, understood before anything is started or written."""

import re

from lmkit.errors import UsageError


def local_workers(address: str) -> int | None:
    """How many workers ``local:N`` asks for; None where ``address`` is that of a scheduler.

    Raises:
        UsageError: it is neither.

    Examples:
        >>> local_workers("local:4"), local_workers("tcp://10.0.0.7:8786")
        (4, None)
    """
    if re.fullmatch(r"(tcp|tls|ws|wss|ucx)://\S+:\d+", address):
        return None
    local = re.fullmatch(r"local:(\d+)", address)
    if local is None or int(local[1]) == 0:
        raise UsageError(
            f"--cluster {address!r} is neither local:N nor the address of a Dask scheduler",
            hint="local:4 starts four workers here; tcp://HOST:8786 uses a scheduler that runs",
        )
    return int(local[1])
