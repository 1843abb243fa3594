"""Run folders to the shortest names that tell them apart."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

# What a run's folder is called that nobody gave a name: the folder above says more.
NAMELESS = ("checkpoints", "")


def run_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, with as many parts before it as it takes to be unique."""
    parts = [one.resolve().parts for one in folders]
    lengths = [2 if path[-1] in NAMELESS and len(path) > 1 else 1 for path in parts]
    while True:
        names = ["/".join(p[-n:]).lstrip("/") or "/" for p, n in zip(parts, lengths, strict=True)]
        count = Counter(names)
        longer = [
            n + (count[name] > 1 and n < len(p))
            for p, n, name in zip(parts, lengths, names, strict=True)
        ]
        if longer == lengths:
            return names
        lengths = longer
