"""Fresh processes in turn, their time and memory, and a dated record of every run.

The rule of all benchmarks here: results are compared first, then the clock runs; tools take turns
within each round, so that a noisy minute hits all of them; medians are quoted, every run is kept.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"

# Starts a command and tells of its end on stdout. A process of its own, and a small one, because
# the peak memory that Linux tells of a child begins at that of the process which started it.
LAUNCHER = """
import os, sys, time
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
start = time.perf_counter()
process = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(process, 0)
wall = time.perf_counter() - start
code = os.waitstatus_to_exitcode(status)
print(code, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
"""


@dataclass(frozen=True)
class Run:
    """One process from start to exit: seconds of wall clock and CPU, peak resident MiB."""

    wall_s: float
    cpu_s: float
    peak_mib: float


Job = Callable[[], Run]


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> Run:
    """Run ``command`` to its end; a failure ends the benchmark with the tool's own words."""
    launched = subprocess.run(
        [sys.executable, "-I", "-S", "-c", LAUNCHER, *command],
        env={**os.environ, **(env or {})},
        capture_output=True,
        check=False,
    )
    words = launched.stdout.split()
    if launched.returncode or not words or words[0] != b"0":
        sys.exit(f"error: {' '.join(command)}\n{launched.stderr.decode(errors='replace')}")
    return Run(*map(float, words[1:]))


def apart(function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - the function's
    """What ``function`` answers in a new process, which takes its memory with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def in_turn(jobs: Mapping[str, Job], rounds: int) -> dict[str, list[Run]]:
    """Run every job once a round, in an order that rotates, for ``rounds`` rounds."""
    names = list(jobs)
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            runs[name].append(jobs[name]())
            print(f"  round {turn + 1} {name:32} {runs[name][-1].wall_s:8.3f} s", file=sys.stderr)
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


def spread(ratios: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of ``ratios``, one a round."""
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def measure(
    jobs: Mapping[str, Job], starting: Mapping[str, Job], rounds: int, ours: str = "lmkit"
) -> dict[str, Any]:
    """The figures of a row: each tool's job, and its job for next to nothing, in the same rounds.

    ``startup_s`` is the median of the latter; it is taken off each run before ``share``, how much
    of the tool's time ``ours`` needs, is formed, round by round.
    """
    one_byte = {f"{tool}, starting": job for tool, job in starting.items()}
    runs = in_turn({**one_byte, **jobs}, rounds)
    startup = {
        tool: statistics.median(one.wall_s for one in runs[f"{tool}, starting"])
        for tool in starting
    }
    net = {tool: [one.wall_s - startup.get(tool, 0.0) for one in runs[tool]] for tool in jobs}
    return {
        "startup_s": startup,
        "tools": {tool: summary(runs[tool], startup.get(tool, 0.0)) for tool in jobs},
        "share": {
            tool: spread([a / b for a, b in zip(net[ours], net[tool], strict=True)])
            for tool in jobs
            if tool != ours
        },
        "runs": runs,
    }


def show(rows: Sequence[Mapping[str, Any]], *labels: str) -> None:
    """Print the rows of `measure` as a table; ``labels`` are the fields that tell them apart."""
    lines = [
        (
            *(row[label] for label in labels),
            tool,
            figures["wall_s"],
            figures["net_s"],
            figures["cpu_s"],
            figures["peak_mib"],
            share_text(row, tool),
        )
        for row in rows
        for tool, figures in row["tools"].items()
    ]
    table((*labels, "tool", "wall s", "less start-up", "CPU s", "peak MiB", "lmkit's share"), lines)


def share_text(row: Mapping[str, Any], tool: str) -> str:
    """How much of the tool's time lmkit needs, with the spread; nothing for lmkit itself."""
    share = row["share"].get(tool)
    return f"{share['median']:.2f} ({share['min']:.2f}-{share['max']:.2f})" if share else ""


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


def parser(description: str | None, rounds: int, rows: Sequence[str]) -> argparse.ArgumentParser:
    """The options that every benchmark of rows has: which, how often, or only on trial."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rounds", type=int, default=rounds)
    options.add_argument(
        "--rows",
        nargs="*",
        default=list(rows),
        choices=rows,
        metavar="ROW",
        help="measure these again and keep the day's others: " + ", ".join(rows),
    )
    options.add_argument(
        "--trial", action="store_true", help="small inputs, one round, and no record is kept"
    )
    return options


def keep(
    name: str, rows: object, packages: Sequence[str], labels: Sequence[str] | None = None
) -> Path:
    """Write ``rows`` with machine, versions and date to ``benches/results``.

    With ``labels``, the fields that tell rows apart, those rows of the same day and machine stay
    that were not measured again.
    """
    now = datetime.datetime.now(datetime.UTC)
    path = RESULTS / f"{now:%Y-%m-%d}-{name}.json"
    if labels is not None and isinstance(rows, list) and path.exists():
        old = json.loads(path.read_text())
        if old["machine"] == machine() and old["versions"] == versions("lmkit", *packages):
            key = partial(_key, labels=labels)
            measured = set(map(key, rows))
            rows = [row for row in old["rows"] if key(row) not in measured] + rows
    record = {
        "benchmark": name,
        "date": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions("lmkit", *packages),
        "rows": rows,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, default=_plain) + "\n")
    print(f"kept in {path}", file=sys.stderr)
    return path


def _key(row: Mapping[str, object], labels: Sequence[str]) -> tuple[object, ...]:
    return tuple(row.get(label) for label in labels)


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
