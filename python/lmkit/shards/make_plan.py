"""Inputs, tokenizer and options to a :class:`~lmkit.shards.plan.Plan`; nothing is written.

Stats every input and reads a little at each cut, so it takes time linear in the files and shards,
and next to none in the text.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmkit import _core
from lmkit.errors import UsageError
from lmkit.shards.names import SUFFIXES
from lmkit.shards.plan import Cut, Plan, PlannedInput
from lmkit.tokenizer import Tokenizer
from lmkit.whole_number import whole_number

# Planning so many took 0.8 GB, and a folder then has four million names.
MOST_SHARDS = 1_000_000


@dataclass(frozen=True)
class ShardOptions:
    """What decides the bytes of a sharded data set, beside inputs and tokenizer.

    Attributes:
        shards: how many there are; None where ``shard_tokens`` says it.
        shard_tokens: about how many tokens a shard has, instead; estimated from a sample.
        dtype: ``"int32"``, ``"uint16"`` or ``"uint32"``.
        shard_format: ``"npy"`` or ``"bin"``.
        errors: ``"strict"``, ``"replace"`` or ``"bytes"``, as for `tokenize`.
        special: ``"encode"`` or ``"none"``.
        end_of_document: as for `tokenize`.
        val_fraction: keep about this share of the documents aside.
        val_output: the data set of those; None: ``OUT.val`` beside ``OUT``.
        text_field: the field of a JSON line that holds the text.
        max_record_bytes: the longest record that is taken.
    """

    shards: int | None = None
    shard_tokens: int | None = None
    dtype: str = "int32"
    shard_format: str = "npy"
    errors: str = "strict"
    special: str = "encode"
    end_of_document: str | None = None
    val_fraction: float | None = None
    val_output: str | None = None
    text_field: str | None = None
    max_record_bytes: int = 1 << 30


@dataclass(frozen=True)
class Planned:
    """A plan, and what was seen while it was made.

    Attributes:
        plan: the plan.
        folder: where the data set is to be.
        val_folder: where that of the documents kept aside is, or None.
        skipped: what folders hold beside files that are read.
    """

    plan: Plan
    folder: Path
    val_folder: Path | None
    skipped: list[str]

    @property
    def folders(self) -> list[Path]:
        """The data set's, and that of the documents kept aside if there is one."""
        return [self.folder] + ([self.val_folder] if self.val_folder else [])


def make_plan(
    data_path: Sequence[str], folder: Path, tokenizer: Tokenizer, options: ShardOptions
) -> Planned:
    """Plan the data set in ``folder`` that holds the text of ``data_path``.

    Args:
        data_path: files, folders and globs.
        folder: where the data set is to be; it need not exist.
        tokenizer: what to encode with.
        options: the rest.

    Raises:
        MissingFileError: an input is not there.
        UsageError: options exclude each other or do not fit tokenizer or inputs; an input cannot
            be read twice; the text is one document and cannot be divided.
    """
    if f".{options.shard_format}" not in SUFFIXES:
        raise UsageError(f"--shard_format {options.shard_format!r} is neither npy nor bin")
    val_folder = _val_folder(folder, options)
    left_out = [str(folder)] + ([str(val_folder)] if val_folder else [])
    inputs = _core.ShardInputs(
        [os.path.abspath(path) if path != "-" else path for path in data_path],  # noqa: PTH100 - links stay
        errors=options.errors,
        text_field=options.text_field,
        max_record_bytes=whole_number(options.max_record_bytes, "--max_record_bytes"),
        left_out=left_out,
    )
    native = tokenizer._native
    end = inputs.check(
        native,
        dtype=options.dtype,
        special=options.special,
        end_of_document=options.end_of_document,
        val_fraction=options.val_fraction,
        num_threads=None,
    )
    count = _count(inputs, tokenizer, options)
    plan = Plan(
        data_path=list(data_path),
        inputs=[PlannedInput(*entry) for entry in inputs.files],
        cuts=[Cut(*cut) for cut in inputs.cuts(native, options.special, count)],
        tokenizer=tokenizer.fingerprint,
        options={
            "dtype": options.dtype,
            "end_of_document": end,
            "errors": options.errors,
            "has_documents": inputs.has_documents,
            "max_record_bytes": options.max_record_bytes,
            "no_special_tokens": options.special == "none",
            "shard_format": options.shard_format,
            "text_field": options.text_field,
            "val_fraction": options.val_fraction,
            "val_output_path": os.path.relpath(val_folder, folder) if val_folder else None,
            "vocab_size": tokenizer.vocab_size,
        },
        lmkit=_core.__version__,
    )
    _check_divided(plan)
    return Planned(plan, folder, val_folder, inputs.skipped)


def _val_folder(folder: Path, options: ShardOptions) -> Path | None:
    if options.val_fraction is None:
        if options.val_output is not None:
            raise UsageError("--val_output_path has no effect without --val_fraction")
        return None
    named = options.val_output or folder.with_name(f"{folder.name}.val")
    val_folder = Path(os.path.abspath(named))  # noqa: PTH100 - links stay
    if val_folder == folder:
        raise UsageError("--val_output_path is the output itself")
    return val_folder


def _count(inputs: _core.ShardInputs, tokenizer: Tokenizer, options: ShardOptions) -> int:
    """How many shards there are to be."""
    count = _asked_count(inputs, tokenizer, options)
    if count > MOST_SHARDS:
        raise UsageError(f"{count:,} shards are too many for a folder; at most {MOST_SHARDS:,}")
    return count


def _asked_count(inputs: _core.ShardInputs, tokenizer: Tokenizer, options: ShardOptions) -> int:
    if options.shards is not None:
        if options.shard_tokens is not None:
            raise UsageError("--shards and --shard_tokens exclude each other")
        if options.shards < 1:
            raise UsageError(f"--shards must be at least 1, not {options.shards}")
        return options.shards
    if options.shard_tokens is None or options.shard_tokens < 1:
        raise UsageError("--shard_tokens must be at least 1")
    tokens, sampled = inputs.sample(tokenizer._native, options.special)
    total = sum(size for _, size, _, _ in inputs.files)
    # Ceiling division of integers: the same on any machine.
    estimate = total * tokens // max(sampled, 1)
    return max(1, math.ceil(estimate / options.shard_tokens))


def _check_divided(plan: Plan) -> None:
    filled = sum(begin != end for begin, end in zip(plan.cuts, plan.cuts[1:], strict=False))
    if len(plan) > 1 and filled == 1:
        raise UsageError(
            f"--shards {len(plan)}: the text cannot be divided: it is one document, or one file "
            "that has to be read from its start",
            hint="within a text, <|endoftext|> ends a document, where the tokenizer has it",
        )
