"""How a program runs where fsync costs nothing: an environment that turns the call off.

A few lines of C, compiled on the spot, take the place of libc's fsync and fdatasync in whatever
process is started with this environment; lmkit and its peers are treated alike. Linux, and a C
compiler on the path.
"""

import shutil
import subprocess
import sys

import corpora

SOURCE = """
int fsync(int file) { (void)file; return 0; }
int fdatasync(int file) { (void)file; return 0; }
"""


def environment() -> dict[str, str] | None:
    """What to add to the environment; None where it cannot be done here."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    library = corpora.CACHE / "without_fsync.so"
    if not library.exists():
        corpora.CACHE.mkdir(parents=True, exist_ok=True)
        command = [compiler, "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", str(library)]
        subprocess.run(command, input=SOURCE.encode(), check=True)
    return {"LD_PRELOAD": str(library)}
