"""Text file to a learned vocabulary: lmkit against every peer that can be installed.

Whole processes, two threads, each tool fed the documents in the way it likes best, less its own
start-up (its time, and its memory, for a file of one line). Merges are compared before anything is
timed, in a process of its own: a child's peak begins at what its parent held, so the parent that
starts the tools holds nothing. Hugging Face and gigatoken (fed documents) have lmkit's rule and
input and must have all its merges in order; the others read line by line, or break ties their own
way, and the share of merges they have in common is told. Tools that take minutes run fewer rounds.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import corpora
import harness

LEARNERS = str(Path(__file__).with_name("learners.py"))
COMPARE = str(Path(__file__).with_name("compare_merges.py"))
PACKAGES = ("gigabpe", "ffbpe", "flashbpe", "gigatoken", "rustbpe", "tokenizers")
# Text, megabytes (None: all), tokens.
ROWS = {
    "english-64-10k": ("english", 64, 10_000),
    "english-64-32k": ("english", 64, 32_000),
    "english-200-10k": ("english", 200, 10_000),
    "english-200-32k": ("english", 200, 32_000),
    "english-400-32k": ("english", None, 32_000),
    "code-80-32k": ("code", None, 32_000),
    "zhja-40-10k": ("zhja", None, 10_000),
}
FAST = ("lmkit", "gigabpe", "gigatoken", "ffbpe")
SLOW = ("rustbpe", "flashbpe", "huggingface")
EXTRAS = ("growth", "threads", "second")


def command(tool: str, text: Path, size: int, out: Path, *more: str) -> list[str]:
    """The process that learns ``size`` tokens from ``text``."""
    if tool == "lmkit":
        words = ["--data_path", str(text), "--vocab_size", str(size), "--output_path", str(out)]
        return lmkit(*words, "--num_threads", "2", *more)
    return [sys.executable, LEARNERS, tool, str(text), str(size), str(out)]


def lmkit(*words: str) -> list[str]:
    """The process of ``lmkit train-tokenizer`` by Hugging Face's rule."""
    start = [sys.executable, "-m", "lmkit", "train-tokenizer"]
    return [*start, *words, "--tie_break", "huggingface", "--force", "--quiet"]


def phases(words: list[str]) -> dict[str, float]:
    """Seconds of each phase of one run of lmkit, as it tells them."""
    words = [word for word in words if word != "--quiet"]
    told = subprocess.run([*words, "--json"], check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(told)["phases"]
    return found


def reading(text: Path) -> float:
    """Seconds to read ``text`` and do nothing with it, on one thread."""
    start = time.perf_counter()
    with text.open("rb", buffering=0) as source:
        block = bytearray(1 << 20)
        while source.readinto(block):
            pass
    return time.perf_counter() - start


def median_phases(words: list[str], rounds: int) -> dict[str, float]:
    """The median of each phase."""
    runs = [phases(words) for _ in range(rounds)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def startup(tool: str, rounds: int, work: Path) -> dict[str, float]:
    """Median seconds and peak MiB of a tool on a file of one line."""
    small = work / "small.txt"
    small.write_text("one line of text to start up with\n")
    runs = [harness.run(command(tool, small, 257, work / f"{tool}.small")) for _ in range(rounds)]
    return {
        "wall_s": statistics.median(run.wall_s for run in runs),
        "peak_mib": statistics.median(run.peak_mib for run in runs),
    }


def compared(outs: dict[str, Path]) -> dict[str, float]:
    """The share of lmkit's merges that each tool has; ends where an exact peer differs."""
    words = [f"{tool}={out}" for tool, out in outs.items()]
    done = subprocess.run(
        [sys.executable, COMPARE, *words], check=False, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    shares: dict[str, float] = json.loads(done.stdout)
    return shares


def measure(row: str, tools: tuple[str, ...], rounds: int, slow_rounds: int) -> dict[str, object]:
    """One row: the tools in turn on one text and size."""
    name, megabytes, size = ROWS[row]
    text = corpora.text(name, megabytes)
    print(f"{row}: {text.stat().st_size / 1e6:.0f} MB", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=corpora.ROOT / "benches") as scratch:
        work = Path(scratch)
        outs = {tool: work / f"{tool}.out" for tool in tools}
        runs = {tool: [harness.run(command(tool, text, size, outs[tool]))] for tool in tools}
        shares = compared(outs)
        # The slow ones' first run counts, so that it need not be repeated.
        started = {tool: startup(tool, 3, work) for tool in tools}
        fast = [tool for tool in tools if tool not in SLOW]
        turns = {tool: partial(harness.run, command(tool, text, size, outs[tool])) for tool in fast}
        runs |= harness.in_turn(turns, rounds)
        for tool in (tool for tool in tools if tool in SLOW):
            again = range(slow_rounds - 1)
            runs[tool] += [harness.run(command(tool, text, size, outs[tool])) for _ in again]
        parts = median_phases(command("lmkit", text, size, outs["lmkit"]), min(rounds, 3))
        parts["read (alone, one thread)"] = statistics.median(reading(text) for _ in range(3))
    summaries = {}
    for tool in tools:
        figures = harness.summary(runs[tool], started[tool]["wall_s"])
        figures["above_startup_mib"] = figures["peak_mib"] - started[tool]["peak_mib"]
        summaries[tool] = {**figures, "rounds": len(runs[tool])}
    return {
        "row": row,
        "date": now(),
        "load": os.getloadavg(),
        "text": text.stem,
        "bytes": text.stat().st_size,
        "vocab_size": size,
        "startup": started,
        "same_merges": shares,
        "lmkit_phases_s": parts,
        "tools": summaries,
        "runs": runs,
    }


def now() -> str:
    """This second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def growth(rounds: int) -> dict[str, object]:
    """How time and memory of lmkit grow with the text."""
    points = []
    with tempfile.TemporaryDirectory(dir=corpora.ROOT / "benches") as scratch:
        out, counts = Path(scratch) / "out", Path(scratch) / "counts"
        base = startup("lmkit", 3, Path(scratch))
        for megabytes in (50, 100, 200, 400):
            text = corpora.text("english", megabytes)
            words = command("lmkit", text, 32_000, out)
            runs = [harness.run(words) for _ in range(rounds)]
            harness.run(lmkit("--data_path", str(text), "--save_counts", str(counts)))
            points.append(
                {
                    "megabytes": megabytes,
                    "different_pretokens": header(counts)["different"],
                    "net_s": harness.summary(runs, base["wall_s"])["net_s"],
                    "above_startup_mib": harness.summary(runs)["peak_mib"] - base["peak_mib"],
                    "phases_s": median_phases(words, rounds),
                }
            )
    return {"row": "growth", "date": now(), "vocab_size": 32_000, "points": points}


def header(counts: Path) -> dict[str, object]:
    """The header of a file of counts."""
    data = counts.read_bytes()[: 1 << 16]
    found: dict[str, object] = json.loads(data[16 : 16 + int.from_bytes(data[12:16], "little")])
    return found


def threads(rounds: int) -> dict[str, object]:
    """Counting 400 MB of English on one thread and on two, in turn."""
    text = corpora.text("english", None)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(dir=corpora.ROOT / "benches") as scratch:
        for _ in range(rounds):
            for count, taken in seconds.items():
                words = command("lmkit", text, 10_000, Path(scratch) / "out")
                words[words.index("--num_threads") + 1] = str(count)
                taken.append(phases(words)["count"])
    one, two = (statistics.median(taken) for taken in seconds.values())
    return {"row": "threads", "date": now(), "count_s": seconds, "speedup": one / two}


def second(rounds: int) -> dict[str, object]:
    """A second vocabulary size from the counts of the first, in turn with the first."""
    rows = []
    with tempfile.TemporaryDirectory(dir=corpora.ROOT / "benches") as scratch:
        out, counts = Path(scratch) / "out", Path(scratch) / "counts"
        base = startup("lmkit", 3, Path(scratch))["wall_s"]
        for name, megabytes in (("english", 200), ("english", None), ("code", None)):
            text = corpora.text(name, megabytes)
            first = command("lmkit", text, 32_000, out)
            harness.run(lmkit("--data_path", str(text), "--save_counts", str(counts)))
            words = ["--from_counts", str(counts), "--output_path", str(out)]
            again = lmkit(*words, "--vocab_size", "10000", "--num_threads", "2")
            runs = harness.in_turn(
                {"first": partial(harness.run, first), "second": partial(harness.run, again)},
                rounds,
            )
            net = {key: harness.summary(value, base)["net_s"] for key, value in runs.items()}
            rows.append(
                {
                    "text": text.stem,
                    "counts_bytes": counts.stat().st_size,
                    "net_s": net,
                    "share": net["second"] / net["first"],
                    "runs": runs,
                }
            )
    return {"row": "second", "date": now(), "texts": rows}


def show(rows: list[dict[str, object]]) -> None:
    """Print the rows as a table, lmkit against each tool."""
    lines = []
    for row in rows:
        tools: dict[str, dict[str, float]] = row.get("tools", {})  # type: ignore[assignment]
        for tool, figures in tools.items():
            ours = tools["lmkit"]
            lines.append(
                (
                    row["row"],
                    tool,
                    figures["net_s"],
                    f"{figures['wall_min_s']:.2f} to {figures['wall_max_s']:.2f}",
                    int(figures["rounds"]),
                    figures["above_startup_mib"],
                    ours["net_s"] / figures["net_s"],
                    ours["above_startup_mib"] / max(figures["above_startup_mib"], 1e-9),
                )
            )
    header = ("row", "tool", "s less start-up", "wall s", "rounds", "MiB above start-up")
    harness.table((*header, "lmkit's share of time", "of memory"), lines)
    for row in rows:
        if "tools" in row:
            print(f"{row['row']}: lmkit's phases {row['lmkit_phases_s']}")
        else:
            print(json.dumps(row, default=str))


def main() -> None:
    """Measure the rows asked for, print the table, keep the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow_rounds", type=int, default=1, help="rounds of tools of minutes")
    parser.add_argument("--tools", nargs="*", default=[*FAST, *SLOW], choices=[*FAST, *SLOW])
    parser.add_argument("--rows", nargs="*", default=[*ROWS, *EXTRAS], choices=[*ROWS, *EXTRAS])
    parser.add_argument(
        "--add", action="store_true", help="keep the rows of today's record that are not run now"
    )
    options = parser.parse_args()
    corpora.require_shared()
    tools = ("lmkit", *(tool for tool in options.tools if tool != "lmkit"))
    extras = {"growth": growth, "threads": threads, "second": second}
    rows = [
        extras[row](options.rounds)
        if row in extras
        else measure(row, tools, options.rounds, options.slow_rounds)
        for row in options.rows
    ]
    show(rows)
    if options.add:
        rows = [*earlier({row["row"] for row in rows}), *rows]
    harness.keep("learn_merges", rows, PACKAGES)


def earlier(replaced: set[object]) -> list[dict[str, object]]:
    """The rows of today's record but those."""
    today = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    path = harness.RESULTS / f"{today}-learn_merges.json"
    kept: list[dict[str, object]] = json.loads(path.read_text())["rows"] if path.exists() else []
    return [row for row in kept if "row" in row and row["row"] not in replaced]


if __name__ == "__main__":
    main()
