"""One shard: a stretch of the inputs to token file, document ends and receipt, whole or not at all.

What a worker needs to know travels in a :class:`ShardTask`, which holds the inputs of one shard and
not those of the whole plan.
"""

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmkit import _core
from lmkit.errors import LmkitError, MismatchError
from lmkit.shards.names import document_ends_name, receipt_name
from lmkit.shards.plan import InputRange, Plan
from lmkit.shards.receipt import Receipt, find_receipt
from lmkit.shards.work_folder import WorkFolder, work_folder
from lmkit.tokenizer import Tokenizer

Progress = Callable[[int, int, int], object]


@dataclass(frozen=True)
class ShardTask:
    """What there is to do for one shard.

    Attributes:
        plan: the plan's id.
        number: which shard, from 0.
        name: its name, without an ending.
        ranges: what it reads.
        options: of the plan.
        tokenizer: the tokenizer's fingerprint.
        lmkit: the version that made the plan.
        folder: the data set.
        val_folder: the data set of the documents kept aside, or None.
    """

    plan: str
    number: int
    name: str
    ranges: list[InputRange]
    options: Mapping[str, Any]
    tokenizer: str
    lmkit: str
    folder: str
    val_folder: str | None

    @classmethod
    def of(cls, plan: Plan, number: int, folder: Path, val_folder: Path | None) -> "ShardTask":
        """The task of shard ``number`` of a plan."""
        return cls(
            plan=plan.id,
            number=number,
            name=plan.name(number),
            ranges=list(plan.ranges(number)),
            options=plan.options,
            tokenizer=plan.tokenizer,
            lmkit=plan.lmkit,
            folder=str(folder),
            val_folder=str(val_folder) if val_folder else None,
        )

    @property
    def suffix(self) -> str:
        """Of the token file."""
        return f".{self.options['shard_format']}"

    @property
    def bytes(self) -> int:
        """Bytes on disk that it reads."""
        return sum(end - start for _, start, end in self.ranges)


def this_process() -> str:
    """A name for this process in receipts and messages."""
    return f"{socket.gethostname()}/{os.getpid()}"


def encode_shard(
    task: ShardTask,
    tokenizer: Tokenizer,
    *,
    worker: str,
    num_threads: int | None = None,
    method: str = "streaming",
    progress: Progress | None = None,
) -> Receipt:
    """Make one shard, unless it is there already, and return its receipt.

    Args:
        task: what to do.
        tokenizer: what to encode with: the plan's.
        worker: who does it, for the receipt.
        num_threads: encoder threads; None: one per core. The shard does not depend on it.
        method: ``"streaming"`` or ``"in-memory"``, as for `tokenize`.
        progress: called as ``progress(phase, bytes_done, bytes_total)`` a few times a second.

    Raises:
        MismatchError: this is another lmkit or another tokenizer than the plan's, or an input has
            changed since.
        LmkitError: as `tokenize`; nothing of the shard is put in place then.
    """
    _check_worker(task, tokenizer)
    found = find_receipt(task.plan, task.name, Path(task.folder))
    if found is not None:
        return found
    folder = Path(task.folder)
    with ExitStack() as stack:
        work = stack.enter_context(work_folder(folder))
        val_work = (
            stack.enter_context(work_folder(Path(task.val_folder))) if task.val_folder else None
        )
        try:
            summary = _job(task, tokenizer, work, val_work, num_threads, method).run(progress)
        except LmkitError as error:
            # As the file will be called, not as it is while nobody else may see it.
            message = str(error).replace(f"{work.path.name}{os.sep}", "")
            message = message.replace(f"{val_work.path.name}{os.sep}", "") if val_work else message
            raise type(error)(message, hint=error.hint) from error
        if val_work is not None:
            _commit(task, val_work, summary | summary["validation"], worker)
        return _commit(task, work, summary, worker)


def _check_worker(task: ShardTask, tokenizer: Tokenizer) -> None:
    if task.lmkit != _core.__version__:
        raise MismatchError(
            f"the plan was made by lmkit {task.lmkit}, and this is {_core.__version__}",
            hint="all that work on one data set need the same lmkit",
        )
    if task.tokenizer != tokenizer.fingerprint:
        raise MismatchError(
            f"the plan was made with another tokenizer: its fingerprint is {task.tokenizer[:12]}…, "
            f"and this one's {tokenizer.fingerprint[:12]}…"
        )


def _job(
    task: ShardTask,
    tokenizer: Tokenizer,
    work: WorkFolder,
    val_work: WorkFolder | None,
    num_threads: int | None,
    method: str,
) -> _core.TokenizeJob:
    options = task.options
    name = task.name + task.suffix
    return _core.TokenizeJob.of_shard(
        tokenizer._native,
        [(*entry, start, end) for entry, start, end in task.ranges],
        str(work.path / name),
        has_documents=options["has_documents"],
        val_output=str(val_work.path / name) if val_work else "",
        val_fraction=options["val_fraction"],
        dtype=options["dtype"],
        special="none" if options["no_special_tokens"] else "encode",
        end_of_document=options["end_of_document"],
        num_threads=num_threads,
        in_memory=method == "in-memory",
        errors=options["errors"],
        text_field=options["text_field"],
        max_record_bytes=options["max_record_bytes"],
    )


def _commit(task: ShardTask, work: WorkFolder, counts: Mapping[str, Any], worker: str) -> Receipt:
    """Put a shard's files in place, and last of all its receipt."""
    tokens = task.name + task.suffix
    receipt = Receipt(
        plan=task.plan,
        number=task.number,
        name=task.name,
        dtype=task.options["dtype"],
        suffix=task.suffix,
        tokens=counts["tokens"],
        documents=counts["documents"],
        text_bytes=counts["text_bytes"],
        checksum=counts["checksum"],
        documents_checksum=counts["documents_checksum"],
        file_bytes=(work.path / tokens).stat().st_size,
        smallest_id=counts["smallest_id"],
        largest_id=counts["largest_id"],
        lmkit=_core.__version__,
        worker=worker,
        seconds=round(counts["seconds"], 3),
        skipped=counts["skipped"],
        null_rows=counts["null_rows"],
    )
    for name in (document_ends_name(task.name), f"{tokens}.json", tokens):
        work.publish(name)
    work.sync()
    work.write(receipt_name(task.name), receipt.to_bytes())
    work.sync()
    return receipt
