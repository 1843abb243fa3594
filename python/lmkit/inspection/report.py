"""What there is to say about a file: facts, whether it is whole, and how to use it."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from lmkit.errors import LmkitError

Tick: TypeAlias = Callable[[int, int], object]


@dataclass
class Report:
    """What a file or folder is.

    Attributes:
        path: as typed.
        kind: in words: ``"a token file"``.
        facts: name -> value, in the order of telling; values are what JSON can hold.
        whole: True where a checksum (or, where the format has none, every size) was found right,
            False where something is damaged, None where nothing was checked.
        checked: what ``whole`` is based on, as a sentence.
        damage: the error, where it is damaged.
        sample: the first tokens: ``ids``, and ``text`` where a tokenizer was at hand.
        use: command lines and the like, to be copied.
        notes: what else to know.
    """

    path: str
    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    whole: bool | None = None
    checked: str = ""
    damage: LmkitError | None = None
    sample: dict[str, Any] = field(default_factory=dict)
    use: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def damaged(self, error: LmkitError) -> None:
        """Note that it is not whole; the first reason is kept."""
        self.whole, self.damage = False, self.damage or error
        self.checked = str(self.damage)

    def as_json(self) -> dict[str, Any]:
        """All of it as one object."""
        told = {
            "path": self.path,
            "kind": self.kind,
            **self.facts,
            "whole": self.whole,
            "checked": self.checked,
            "sample": self.sample,
            "use": self.use,
            "notes": self.notes,
        }
        return {name: value for name, value in told.items() if value not in ({}, [], "")}


@dataclass(frozen=True)
class Ask:
    """How to look.

    Attributes:
        verify: read all bytes and compare checksums.
        tokenizer: what to decode the first tokens with; None: one found beside.
        tick: called as ``tick(bytes_done, bytes_total)`` while much is read.
    """

    verify: bool = True
    tokenizer: Any = None
    tick: Tick | None = None


def size_in(path: str | os.PathLike[str]) -> int:
    """Bytes of a file, or of all files in a folder."""
    place = Path(path)
    if place.is_dir():
        return sum(entry.stat().st_size for entry in place.rglob("*") if entry.is_file())
    return place.stat().st_size
