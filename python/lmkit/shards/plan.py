"""`plan.json`: what a sharded data set is to hold, cut into shards, before any of it is made.

The plan follows from the inputs (path, size, time of change), the tokenizer and the options that
decide the bytes, so that whoever makes it, wherever, writes the same file; its id is the hash of
all that. Inputs are cut at document ends only. Size: a line for each input and each shard.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lmkit.counted import counted
from lmkit.errors import MalformedError, MismatchError
from lmkit.shards import json_file
from lmkit.shards.names import PLAN, shard_name


class PlannedInput(NamedTuple):
    """A file to read, as it was when the plan was made.

    Attributes:
        path: absolute.
        size: bytes on disk.
        modified_ns: its time of change, in nanoseconds since 1970.
        is_found: whether it was found in a folder, where files that are not text are passed over.
    """

    path: str
    size: int
    modified_ns: int
    is_found: bool


class Cut(NamedTuple):
    """A place between two documents: byte ``offset`` of input number ``input``."""

    input: int
    offset: int


class InputRange(NamedTuple):
    """Bytes ``start`` to ``end`` of a planned input."""

    input: PlannedInput
    start: int
    end: int


@dataclass(frozen=True)
class Plan:
    """What a sharded data set is to hold.

    Attributes:
        data_path: what was asked for, as it was typed: files, folders, globs.
        inputs: the files that this means, in order.
        cuts: one more than there are shards; shard k reaches from ``cuts[k]`` to ``cuts[k + 1]``.
        tokenizer: the tokenizer's fingerprint.
        options: what else decides the bytes, by the names of the flags.
        lmkit: the version that made the plan; shards are made by the same.
        id: the hash of all this.
    """

    data_path: list[str]
    inputs: list[PlannedInput]
    cuts: list[Cut]
    tokenizer: str
    options: Mapping[str, Any]
    lmkit: str
    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", self._hash())

    def __len__(self) -> int:
        """How many shards there are."""
        return len(self.cuts) - 1

    def name(self, number: int) -> str:
        """The name of a shard, without an ending."""
        return shard_name(number, len(self))

    def ranges(self, number: int) -> Iterator[InputRange]:
        """What a shard reads, in order."""
        begin, end = self.cuts[number], self.cuts[number + 1]
        for place in range(begin.input, min(end.input + 1, len(self.inputs))):
            entry = self.inputs[place]
            start = begin.offset if place == begin.input else 0
            stop = end.offset if place == end.input else entry.size
            if place < end.input or stop > start:
                yield InputRange(entry, start, stop)

    def shard_bytes(self, number: int) -> int:
        """Bytes on disk that a shard reads."""
        return sum(end - start for _, start, end in self.ranges(number))

    @property
    def total_bytes(self) -> int:
        """Bytes on disk of all inputs."""
        return sum(entry.size for entry in self.inputs)

    @property
    def has_validation(self) -> bool:
        """Whether some documents are kept aside."""
        return self.options.get("val_fraction") is not None

    def check_same(self, other: "Plan", folder: Path) -> None:
        """That ``other``, which lies in ``folder``, is this plan.

        Raises:
            MismatchError: it is another; names the first thing that differs.
        """
        if self.id == other.id:
            return
        raise MismatchError(
            f"{folder}: holds shards of another plan: {self._difference(other)}",
            hint="--force discards them and begins anew; or choose another --output_path",
        )

    def to_bytes(self) -> bytes:
        """The file's bytes; equal plans have equal ones."""
        shards = [
            {"name": self.name(number), "from": begin, "to": self.cuts[number + 1]}
            for number, begin in enumerate(self.cuts[:-1])
        ]
        return json_file.spell(
            {
                "id": self.id,
                "lmkit": self.lmkit,
                "tokenizer": self.tokenizer,
                "options": dict(self.options),
                "data_path": self.data_path,
                "inputs": self.inputs,
                "shards": shards,
            }
        )

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for part in (json_file.FORMAT, self.lmkit, self.tokenizer, sorted(self.options.items())):
            digest.update(json.dumps(part).encode() + b"\n")
        for row in (*self.inputs, *self.cuts):
            digest.update(json.dumps(row).encode() + b"\n")
        return digest.hexdigest()[:32]

    def _difference(self, other: "Plan") -> str:
        if self.lmkit != other.lmkit:
            return f"it was made by lmkit {other.lmkit}, and this is {self.lmkit}"
        if self.tokenizer != other.tokenizer:
            return "it was made with another tokenizer"
        for name in sorted({*self.options, *other.options}):
            old, new = other.options.get(name), self.options.get(name)
            if old != new:
                return f"--{name} was {_said(old)}, and is now {_said(new)}"
        return self._differing_input(other)

    def _differing_input(self, other: "Plan") -> str:
        for now, then in zip(self.inputs, other.inputs, strict=False):
            if now.path != then.path:
                return f"it was made from {then.path}, not {now.path}"
            if now != then:
                return f"{now.path} has changed since"
        if len(self.inputs) != len(other.inputs):
            return (
                f"it was made from {counted(len(other.inputs), 'file')}, not {len(self.inputs):,}"
            )
        if len(self) != len(other):
            return f"it has {counted(len(other), 'shard')}, not {len(self):,}"
        return "its inputs are cut elsewhere"


def _said(value: object) -> str:
    return "none" if value is None else str(value)


def read_plan(folder: Path) -> Plan:
    """The plan of the data set in ``folder``.

    Raises:
        MissingFileError: there is none.
        MalformedError: it is none, is one of a newer lmkit, or is damaged: its id is not its own.
    """
    path = folder / PLAN
    content = json_file.parse(json_file.read_bytes(path), str(path), "plan")
    try:
        shards = content["shards"]
        plan = Plan(
            data_path=content["data_path"],
            inputs=[PlannedInput(*row) for row in content["inputs"]],
            cuts=[Cut(*row["from"]) for row in shards] + [Cut(*shards[-1]["to"])],
            tokenizer=content["tokenizer"],
            options=content["options"],
            lmkit=content["lmkit"],
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise MalformedError(f"{path}: not a plan: {error}") from error
    if plan.id != content.get("id"):
        raise MalformedError(
            f"{path}: damaged: its id is not that of its contents",
            hint="--force discards the shards and begins anew",
        )
    return plan
