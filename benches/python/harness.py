"""Fresh processes in turn, their time and memory, and a dated record of every run.

The rule of all benchmarks here: results are compared first, then the clock runs; tools take turns
within each round, so that a noisy minute hits all of them; medians are quoted, every run is kept.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "results"


@dataclass(frozen=True)
class Run:
    """One process from start to exit: seconds of wall clock and CPU, peak resident MiB."""

    wall_s: float
    cpu_s: float
    peak_mib: float


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> Run:
    """Run ``command`` to its end; a failure ends the benchmark with the tool's own words."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        env={**os.environ, **(env or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    stderr = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"error: {' '.join(command)}\n{stderr.decode(errors='replace')}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def in_turn(jobs: Mapping[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    """Run every job once a round, in an order that rotates, for ``rounds`` rounds."""
    names = list(jobs)
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            runs[name].append(jobs[name]())
            print(f"  round {turn + 1} {name:24} {runs[name][-1].wall_s:8.3f} s", file=sys.stderr)
    return runs


def summary(runs: Sequence[Run], startup_s: float = 0.0) -> dict[str, float]:
    """Medians of ``runs``, wall time also without ``startup_s``, with the spread of the wall."""
    walls = sorted(one.wall_s for one in runs)
    return {
        "wall_s": statistics.median(walls),
        "wall_min_s": walls[0],
        "wall_max_s": walls[-1],
        "net_s": max(statistics.median(walls) - startup_s, 0.0),
        "cpu_s": statistics.median(one.cpu_s for one in runs),
        "peak_mib": statistics.median(one.peak_mib for one in runs),
    }


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def versions(*packages: str) -> dict[str, str]:
    """Installed versions, "absent" where there is none."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def keep(name: str, rows: object, packages: Sequence[str]) -> Path:
    """Write ``rows`` with machine, versions and date to ``benches/results``."""
    now = datetime.datetime.now(datetime.UTC)
    record = {
        "benchmark": name,
        "date": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions("lmkit", *packages),
        "rows": rows,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{now:%Y-%m-%d}-{name}.json"
    path.write_text(json.dumps(record, indent=1, default=_plain) + "\n")
    print(f"kept in {path}", file=sys.stderr)
    return path


def _plain(value: object) -> object:
    if isinstance(value, Run):
        return {key: round(number, 4) for key, number in asdict(value).items()}
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print ``rows`` as a Markdown table."""
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    for row in rows:
        cells = [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row]
        print("| " + " | ".join(cells) + " |")
