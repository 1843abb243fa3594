"""Whether tools learned the same merges: ``compare_merges.py lmkit=FOLDER TOOL=FILE ...``.

Prints as JSON the share of lmkit's merges that each tool has too. A tool of the same rule and input
must have all of them, in order. A process of its own, so that whoever starts the tools stays small.
"""

import json
import sys
from pathlib import Path

EXACT = ("huggingface", "gigatoken")


def merges(tool: str, out: Path) -> list[str]:
    """The merges that ``tool`` wrote, in order; of rank files the tokens they make."""
    path = out / "merges.txt" if tool == "lmkit" else out
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#version")]


def main() -> None:
    """Compare, print, and fail where an exact peer differs."""
    outs = dict(word.split("=", 1) for word in sys.argv[1:])
    ours = merges("lmkit", Path(outs["lmkit"]))
    made = {line.replace(" ", "") for line in ours}
    shares = {}
    for tool, out in outs.items():
        theirs = merges(tool, Path(out))
        if tool in EXACT and theirs != ours:
            pairs = enumerate(zip(ours, theirs, strict=False))
            place = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
            sys.exit(f"error: {tool} differs first at merge {place}")
        shares[tool] = len(made & {line.replace(" ", "") for line in theirs}) / len(made)
    print(json.dumps(shares))


if __name__ == "__main__":
    main()
