"""What other files of the repository say → pages of the site: help texts and measured figures."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIGURES = re.compile("<!-- measured: begin -->\n(.*)<!-- measured: end -->\n", re.DOTALL)
RECORD = re.compile(r"\[([^\]]+)\]\(benches/results/[^)]*\)")


def on_page_markdown(markdown: str, *, page: Any, **_: object) -> str:  # noqa: ANN401 - MkDocs' own
    """Complete the pages that repeat what stands elsewhere; called by MkDocs for each page."""
    if page.file.src_uri == "reference/commands.md":
        return markdown + commands()
    if page.file.src_uri == "how-fast.md":
        return markdown + figures()
    return markdown


def commands() -> str:
    """A section for each command: its help text, from the golden files that the tests check."""
    folder = ROOT / "tests" / "golden" / "help"
    sections = []
    for path in sorted(folder.glob("*.txt"), key=lambda path: (path.stem != "lmkit", path.stem)):
        text = path.read_text(encoding="utf-8").rstrip()
        name = " ".join(text.removeprefix("Usage: ").split("[OPTIONS]", 1)[0].split())
        sections.append(f"\n## {name}\n\n```text\n{text}\n```\n")
    return "".join(sections)


def figures() -> str:
    """README's measured figures; the records lie in the repository, not on the site."""
    found = FIGURES.search((ROOT / "README.md").read_text(encoding="utf-8"))
    if found is None:
        raise ValueError("README.md has no measured figures")
    return RECORD.sub(r"\1", found[1])
