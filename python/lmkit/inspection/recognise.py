"""A path → which kind of file it is, and the report on it."""

import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

from lmkit.errors import MalformedError, MissingFileError, SystemRefusedError
from lmkit.inspection import checkpoints, other_files, runs, token_files, tokenizers
from lmkit.inspection.report import Ask, Report

KINDS = (
    "a tokenizer (a folder, tokenizer.json, .tiktoken, vocabulary or merges)",
    "a token file (.npy, .bin, llm.c, Megatron)",
    "a sidecar",
    "a folder of shards, its plan or a receipt",
    "a run folder",
    "a checkpoint",
    "a folder for transformers",
    "counts of pretokens",
    "a journal",
)

_CHECKPOINT = re.compile(r"checkpoint_\d+\.(pt|dcp)|best\.(pt|dcp)")
_JOURNAL = re.compile(r"\..+\.journal\.\d+\.lmkit-tmp")
_LONGEST_JSON = 256 << 20


def inspect(path: str | os.PathLike[str], ask: Ask | None = None) -> Report:
    """Tell what is at ``path``.

    Args:
        path: a file or folder.
        ask: how to look; by default every byte is read and checked.

    Returns:
        A report; one on something damaged says so in ``damage`` and is returned, not raised.

    Raises:
        MissingFileError: there is nothing.
        MalformedError: it is nothing that lmkit knows.
        SystemRefusedError: the system refused a read.
    """
    name, place = os.fspath(path), Path(path)
    if not place.exists():
        index = place.with_name(place.name + ".idx")
        if not index.exists():
            raise MissingFileError(f"{name}: no such file or folder")
        name = f"{name}.idx"
    try:
        tell = _of_folder(place) if place.is_dir() else _of_file(Path(name))
        if tell is None:
            raise MalformedError(
                f"{name}: nothing that lmkit knows: none of {'; '.join(KINDS)}",
                hint="text is looked at with lmkit inspect TOKENIZER --text_path FILE",
            )
        return tell(name, ask or Ask())
    except OSError as error:
        if isinstance(error, SystemRefusedError | MissingFileError):
            raise
        raise SystemRefusedError(f"{error.filename or name}: {error.strerror}") from error


Teller = Callable[[str, Ask], Report]


def _of_folder(place: Path) -> Teller | None:
    if place.suffix == ".dcp":
        return checkpoints.checkpoint
    names = {entry.name for entry in place.iterdir()}
    return next((tell for is_such, tell in _FOLDERS if is_such(names)), None)


def _of_file(place: Path) -> Teller | None:
    with place.open("rb") as file:
        head = file.read(4096)
    return next((tell for is_such, tell in _FILES if is_such(place, head)), None) or (
        _of_json(place) if _may_be_json(place, head) else None
    )


def _is_of_torch(place: Path) -> bool:
    """Whether this is what ``torch.save`` writes, under any name."""
    if not zipfile.is_zipfile(place):
        return False
    with zipfile.ZipFile(place) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


def _may_be_json(place: Path, head: bytes) -> bool:
    return head.lstrip().startswith(b"{") and place.stat().st_size < _LONGEST_JSON


def _of_json(place: Path) -> Teller | None:
    try:
        told = json.loads(place.read_bytes())
    except ValueError:
        return None
    if not isinstance(told, dict):
        return None
    # First, since a token may be spelt like any of the others' names.
    if told and all(isinstance(value, int) for value in told.values()):
        return tokenizers.pair
    return next((tell for names, tell in _OBJECTS if names <= told.keys()), None)


def _looks_like_ranks(head: bytes) -> bool:
    """Whether lines are base64 and a number, as in tiktoken's files."""
    lines = head.split(b"\n")[:-1][:20]
    return bool(lines) and all(re.fullmatch(rb"[A-Za-z0-9+/]+=* \d+", line) for line in lines)


def _holds_a_run(names: set[str]) -> bool:
    return "metrics.jsonl" in names or any(_CHECKPOINT.fullmatch(name) for name in names)


def _holds_weights(names: set[str]) -> bool:
    return "config.json" in names and any(name.endswith(".safetensors") for name in names)


_FOLDERS: tuple[tuple[Callable[[set[str]], bool], Teller], ...] = (
    (lambda names: "checkpoint.json" in names, checkpoints.checkpoint),
    (lambda names: not names.isdisjoint({"manifest.json", "plan.json"}), token_files.shards),
    (_holds_a_run, runs.run_folder),
    (_holds_weights, runs.huggingface_folder),
    (
        lambda names: not names.isdisjoint({"lmkit.json", "tokenizer.json", "vocab.json"}),
        tokenizers.tokenizer,
    ),
    (lambda names: "config.toml" in names, runs.run_folder),
)
_Test = Callable[[Path, bytes], bool]
_FILES: tuple[tuple[_Test, Teller], ...] = (
    (lambda place, _: _JOURNAL.fullmatch(place.name) is not None, other_files.journal),
    (lambda _, head: head.startswith(b"\x89lmkcnt\n"), other_files.counts),
    (lambda _, head: head.startswith(b"\x93NUMPY"), token_files.token_file),
    (lambda place, _: place.suffix in {".npy", ".bin", ".idx"}, token_files.token_file),
    (
        lambda place, _: place.suffix in {".pt", ".pth"} or _is_of_torch(place),
        checkpoints.checkpoint,
    ),
    (lambda place, _: place.suffix == ".safetensors", runs.safetensors),
    (lambda place, _: place.name == "manifest.json", token_files.shards),
    (
        lambda place, head: place.suffix == ".tiktoken" or _looks_like_ranks(head),
        tokenizers.tokenizer,
    ),
    (lambda _, head: head.startswith(b"#version"), tokenizers.pair),
    (lambda place, _: place.suffix == ".merges" or place.name == "merges.txt", tokenizers.pair),
)
_OBJECTS: tuple[tuple[set[str], Teller], ...] = (
    ({"id", "inputs", "options", "shards"}, token_files.shards),
    ({"plan", "number", "checksum"}, other_files.receipt),
    ({"dtype", "tokens", "checksum"}, other_files.sidecar),
    ({"size", "sha256"}, other_files.checkpoint_sidecar),
    ({"model", "added_tokens"}, tokenizers.tokenizer),
)
