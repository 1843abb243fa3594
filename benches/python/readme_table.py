"""README's tables from the newest records: no figure there is typed by hand.

``readme_table.py`` rewrites what stands between the two marks in README.md; with ``--check`` it
changes nothing and fails where README says something else than the records. What was not measured
is left out; rows in which lmkit loses stand there like the others. A share below 1 is lmkit's gain.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RESULTS = ROOT / "benches" / "results"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
GLUE = "gigatoken-glue"

Row = dict[str, Any]

# What a row of the encoding record is unless it says otherwise.
USUAL = {
    "vocabulary": "gpt2",
    "megabytes": None,
    "fsync": True,
    "form": "plain",
    "output": "int32 .npy",
}
TEXTS = {
    "english": "English books",
    "code": "C code",
    "zhja": "Chinese and Japanese",
    "python": "Python's standard library",
    "english-64": "English books",
}
TOOLS = {
    "lmkit": "lmkit",
    GLUE: "gigatoken, our glue",
    "gigatoken-file": "gigatoken's file call",
    "gigatoken": "gigatoken",
    "tiktoken": "tiktoken",
    "huggingface": "Hugging Face",
    "gigabpe": "gigabpe",
    "rustbpe": "rustbpe",
    "llama": "Hugging Face's `LlamaForCausalLM`",
}


def newest(name: str, folder: Path = RESULTS) -> Row | None:
    """The record of the benchmark ``name`` with the latest date; None where there is none."""
    records = [json.loads(path.read_text()) for path in folder.glob(f"????-??-??-{name}.json")]
    return max(records, key=lambda record: str(record["date"]), default=None)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; a column without any entry is left out, and nothing where no row is."""
    if not rows:
        return ""
    kept = [at for at in range(len(header)) if any(row[at] for row in rows)]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line[at] for at in kept) + " |" for line in lines)


def seconds(figures: Row | None) -> str:
    """Net seconds and peak memory of a tool; nothing where it was not measured."""
    if figures is None:
        return ""
    return f"{figures['net_s']:.2f} s, {figures['peak_mib']:,.0f} MiB"


def share(row: Row, tool: str) -> str:
    """How much of the tool's time lmkit needs: median and spread of the rounds."""
    one = row.get("share", {}).get(tool)
    return f"{one['median']:.2f} ({one['min']:.2f}-{one['max']:.2f})" if one else ""


def what(row: Row) -> str:
    """The row's text, size, and whatever is not as usual about it."""
    notes = [f"{row['bytes'] / 1e6:,.0f} MB"]
    if row["vocabulary"] != "gpt2":
        pattern, _, size = row["vocabulary"].partition("-")
        notes.append(f"{pattern} with {int(size):,} tokens" if size else row["vocabulary"])
    notes += {"folder": ["a file a document"], "gz": [".gz"], "zst": [".zst"]}.get(row["form"], [])
    notes += [row["output"]] if row["output"] != "int32 .npy" else []
    notes += ["without fsync"] if not row["fsync"] else []
    return f"{TEXTS.get(row['text'], row['text'])}, {', '.join(notes)}"


def encoding(record: Row) -> Iterator[str]:
    """Text files to token files."""
    every = [{**USUAL, **row} for row in record["rows"]]
    rows = [row for row in every if not row["megabytes"]]
    tools = ["lmkit", GLUE, "gigatoken-file"]
    yield markdown(
        ["text → token file", *(TOOLS[tool] for tool in tools), "lmkit's share of our glue's time"],
        [
            [what(row), *(seconds(row["tools"].get(tool)) for tool in tools), share(row, GLUE)]
            for row in rows
        ],
    )
    slow = [row for row in every if row["megabytes"]]
    tools = ["lmkit", GLUE, "tiktoken", "huggingface"]
    yield markdown(
        ["against the slower ones", *(TOOLS[tool] for tool in tools)],
        [[what(row), *(seconds(row["tools"].get(tool)) for tool in tools)] for row in slow],
    )


def large(record: Row) -> Iterator[str]:
    """Memory and CPU time as the file grows."""
    rows = sorted(record["rows"], key=lambda row: row["megabytes"])
    tools = ["lmkit", GLUE]
    yield markdown(
        ["as the file grows", *(TOOLS[tool] for tool in tools), "lmkit's share of our glue's time"],
        [
            [
                f"{row['bytes'] / 1e6:,.0f} MB",
                *(
                    f"{1e3 * row['cpu_s_per_mb'][tool]:.2f} CPU ms a MB, "
                    f"{row['tools'][tool]['peak_mib']:,.0f} MiB"
                    for tool in tools
                ),
                share(row, GLUE),
            ]
            for row in rows
        ],
    )


def calls(record: Row) -> Iterator[str]:
    """Calls in memory."""
    rows = record["rows"]
    tools = list(rows[0]["tools"])
    yield markdown(
        ["in memory", *(TOOLS[tool] for tool in tools)],
        [
            [row["what"], *(f"{row['tools'][tool]['median']:,.3g}" for tool in tools)]
            for row in rows
        ],
    )


def learning(record: Row) -> Iterator[str]:
    """Text files to learned vocabularies, and what belongs to them."""
    rows = [row for row in record["rows"] if "tools" in row]
    tools = list(dict.fromkeys(tool for row in rows for tool in row["tools"]))
    yield markdown(
        ["text → vocabulary", *(TOOLS.get(tool, tool) for tool in tools)],
        [
            [
                f"{TEXTS.get(row['text'].partition('-')[0], row['text'])}, "
                f"{row['bytes'] / 1e6:,.0f} MB, {row['vocab_size']:,} tokens",
                *(seconds(row["tools"].get(tool)) for tool in tools),
            ]
            for row in rows
        ],
    )
    growth = next((row["points"] for row in record["rows"] if "points" in row), [])
    yield markdown(
        ["learning as the text grows", "different pretokens", "lmkit"],
        [
            [
                f"{point['megabytes']:,} MB",
                f"{point['different_pretokens']:,}",
                f"{point['net_s']:.2f} s, {point['above_startup_mib']:.0f} MiB above start-up",
            ]
            for point in growth
        ],
    )


def starting(record: Row) -> Iterator[str]:
    """Start-up."""
    summary = record["rows"]["summary"]
    rows = [
        [name, f"{1e3 * row['wall_s']:.0f} ms", f"{1e3 * row['net_s']:.0f} ms"]
        for name, row in summary.items()
    ]
    yield markdown(["start-up", "whole process", "beyond bare Python"], rows)
    first = record["rows"].get("first_id", {})
    yield markdown(
        ["in a running interpreter", *(TOOLS[tool] for tool in first)],
        [["GPT-2's vocabulary to the first id", *(_ms(one) for one in first.values())]]
        if first
        else [],
    )


def _ms(one: Row) -> str:
    return f"{1e3 * one['median']:.0f} ms"


def training(record: Row) -> Iterator[str]:
    """The training step, of each model that was measured."""
    for name, part in record["rows"].items():
        if name not in MODELS or "table" not in part:
            continue
        yield markdown(
            [
                f"training step of {MODELS[name]}",
                "tokens/s",
                "of the peak",
                "s a step",
                "peak MiB",
            ],
            [
                [
                    TRAINERS.get(tool, tool),
                    f"{tokens:,.0f}",
                    f"{share:.0%}",
                    f"{step:.3f} ({spread})",
                    f"{memory:,.0f}",
                ]
                for tool, tokens, share, step, spread, memory, *_ in part["table"]
            ],
        )
        times = ", ".join(
            f"{seconds / 3600:.1f} h with {TRAINERS.get(tool, tool)}"
            for tool, seconds in part.get("projected_s", {}).items()
        )
        yield f"All steps of the preset, at this pace: {times}." if times else ""


def aside(record: Row) -> Iterator[str]:
    """What saving and evaluating cost beside the steps."""
    found = {name: statistics.median(ones) for name, ones in record["rows"]["aside"].items()}
    yield markdown(
        ["beside the steps of the small model", "s"],
        [
            ["a checkpoint: the loop waits", f"{found['stall']:.3f}"],
            ["a checkpoint: until it is on the disk", f"{found['write']:.3f}"],
            ["an evaluation of 10 batches", f"{found['evaluation']:.3f}"],
            ["their bare forward passes", f"{found['forward']:.3f}"],
        ],
    )


def head(record: Row) -> Iterator[str]:
    """The loss of a large vocabulary, in chunks and of whole logits."""
    yield markdown(
        ["head and loss, forward and backward", "chunks' share of the time", "lmkit takes"],
        [
            [
                f"{row['vocab_size']:,} tokens, {row['rows']:,} rows, {row['width']} wide, "
                f"{'compiled' if row['compiled'] else 'eager'}",
                f"{row['share']['median']:.2f} ({row['share']['min']:.2f}-"
                f"{row['share']['max']:.2f})",
                row["taken"],
            ]
            for row in record["rows"]
        ],
    )


def on_a_gpu(record: Row) -> Iterator[str]:
    """Training on one GPU."""
    rows = record["rows"]
    yield markdown(
        ["training on one GPU", "", "tokens/s", "MFU", "of a matrix product measured", "peak MiB"],
        [
            [
                f"{row['row']}, batch {row['shape']['batch']} x {row['shape']['context']}",
                row["tool"] + f", {row['device']}",
                f"{row['tokens_per_second']:,.0f}",
                "unknown" if row["mfu"] is None else f"{row['mfu']:.1%}",
                f"{row['of_matmul']:.1%}",
                f"{row['peak_mib']:,.0f}",
            ]
            for row in rows
        ],
    )


MODELS = {
    "small": "the small model",
    "vocabulary-50000": "the same with 50,000 tokens",
    "cs336-tinystories": "the cs336-tinystories preset",
}
TRAINERS = {
    "lmkit": "lmkit, eager",
    "lmkit-c": "lmkit, compiled",
    "llama": "Hugging Face's `LlamaForCausalLM`, eager",
    "llama-c": "Hugging Face's `LlamaForCausalLM`, compiled",
    "plain": "plain PyTorch, eager",
    "plain-c": "plain PyTorch, compiled",
    "nanogpt": "nanoGPT's shape, eager",
    "nanogpt-c": "nanoGPT's shape, compiled",
}
SECTIONS = {
    "encode": encoding,
    "encode_large": large,
    "in_memory": calls,
    "startup": starting,
    "learn_merges": learning,
    "train_step-small": training,
    "train_step-vocabulary-50000": training,
    "train_step-cs336-tinystories": training,
    "train_step-aside": aside,
    "train_head": head,
    "train_gpu": on_a_gpu,
}


def measured(folder: Path = RESULTS) -> str:
    """All tables, from the newest records in ``folder``, with where and when they come from."""
    parts = []
    for name, section in SECTIONS.items():
        record = newest(name, folder)
        if record is None:
            continue
        tables = [table for table in section(record) if table]
        parts += [*tables, _source(name, record)] if tables else []
    return "\n\n".join(parts)


def _source(name: str, record: Row) -> str:
    machine = record["machine"]
    peers = ", ".join(
        f"{package} {version}"
        for package, version in record["versions"].items()
        if package != "lmkit" and version != "absent"
    )
    day = str(record["date"])[:10]
    file = f"benches/results/{day}-{name}.json"
    return f"[{day}]({file}): {machine['cpu']}, {machine['cores']} cores; {peers}."


def with_tables(readme: str, tables: str) -> str:
    """``readme`` with ``tables`` between its marks."""
    before, _, rest = readme.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        sys.exit(f"error: README.md lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def main() -> None:
    """Rewrite README, or check that it needs no rewriting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where README is out of date")
    options = parser.parse_args()
    old = README.read_text(encoding="utf-8")
    new = with_tables(old, measured())
    if options.check and new != old:
        sys.exit("error: README's figures are not the records'\nhint: run make readme")
    if new != old:
        README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
