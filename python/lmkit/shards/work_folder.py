"""A private folder inside a data set's, for what is not whole yet.

Every process that works on a data set has one, under a name that no other process on any machine
has; files are made there and renamed into the data set when they are whole and on disk, so that two
that make the same file cannot meet. What dead processes of this machine left is swept by the next
one; what others left, when the manifest is written.
"""

import hashlib
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from lmkit.durable import OUTPUT_SUFFIX, refused, remove, sync_folder, sync_open
from lmkit.process import is_alive


@contextmanager
def work_folder(folder: Path) -> Iterator["WorkFolder"]:
    """A private folder in ``folder``, removed at the end with all that was not published.

    Raises:
        SystemRefusedError: it cannot be made.
    """
    work = WorkFolder(folder)
    try:
        work.make()  # in here, so that Ctrl-C just after leaves nothing
        yield work
    finally:
        remove(work.path)


class WorkFolder:
    """A private folder; see :func:`work_folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / f".{_host()}.{os.getpid()}.{secrets.token_hex(4)}{OUTPUT_SUFFIX}"

    def make(self) -> None:
        """Make the folder; its name is no other's."""
        try:
            self.path.mkdir()
        except OSError as error:
            raise refused("write", self.folder, error) from error

    def publish(self, name: str) -> None:
        """Move the file called ``name``, which is on disk, to its place in the data set."""
        try:
            (self.path / name).replace(self.folder / name)
        except OSError as error:
            raise refused("write", self.folder / name, error) from error

    def write(self, name: str, content: bytes) -> None:
        """Put a file called ``name`` in the data set, whole or not at all."""
        try:
            with (self.path / name).open("wb") as file:
                file.write(content)
                sync_open(file)
        except OSError as error:
            raise refused("write", self.folder / name, error) from error
        self.publish(name)

    def sync(self) -> None:
        """Make what was published outlive a crash of the machine."""
        sync_folder(self.folder)


def sweep(folder: Path, *, all_hosts: bool = False) -> None:
    """Remove the work folders in ``folder`` whose processes are dead.

    Args:
        folder: a data set.
        all_hosts: also those of other machines, of whose processes nothing is known here: for when
            nothing is left to do.
    """
    for path in folder.glob(f".*{OUTPUT_SUFFIX}"):
        host, _, rest = path.name[1:].partition(".")
        process = rest.partition(".")[0]
        is_ours = host == _host() and process.isdigit()
        if (all_hosts and not is_ours) or (is_ours and not is_alive(int(process))):
            remove(path)


@cache
def _host() -> str:
    """This machine since its start, and this container: where a process number means one thing."""
    parts = [socket.gethostname()]
    for path, read in (
        ("/proc/sys/kernel/random/boot_id", lambda path: Path(path).read_text("ascii")),
        ("/proc/self/ns/pid", os.readlink),
    ):
        try:
            parts.append(read(path))
        except OSError:  # another system
            parts.append("")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
