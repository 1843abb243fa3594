"""A sharded data set on disk: begun, looked at, finished, discarded.

What is there is told by receipts alone. Finishing reads them all and writes the manifest, or names
the first thing that is not as its receipt says.
"""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from lmkit.durable import refused
from lmkit.errors import MissingFileError, UsageError
from lmkit.shards.make_plan import Planned
from lmkit.shards.manifest import Manifest, ShardEntry
from lmkit.shards.names import MANIFEST, PLAN, receipt_name
from lmkit.shards.plan import Plan, read_plan
from lmkit.shards.receipt import Receipt, find_receipt
from lmkit.shards.verify import verify_shard
from lmkit.shards.work_folder import sweep, work_folder

_OURS = re.compile(r"shard_\d+_of_\d+\.(npy|bin|npy\.json|bin\.json|docs\.npy|receipt\.json)")
_NAMED = 5


def begin(planned: Planned, *, force: bool = False) -> None:
    """Make the folders of a data set and put its plan there, or find that it is there.

    Args:
        planned: what the data set is to hold.
        force: discard what is there of any plan.

    Raises:
        MismatchError: shards of another plan are there.
        UsageError: the output is a file.
        SystemRefusedError: the folder cannot be made.
    """
    for folder in planned.folders:
        _make_folder(folder)
        if force:
            _discard(folder)
        sweep(folder)
    check_begun(planned)
    if not (planned.folder / PLAN).exists():
        with work_folder(planned.folder) as work:
            work.write(PLAN, planned.plan.to_bytes())
            work.sync()


def check_begun(planned: Planned) -> None:
    """That no shards of another plan are there; raises as :func:`begin`, and changes nothing."""
    for folder in planned.folders:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder}: shards need a folder, and this is a file")
        if (folder / PLAN).exists():
            planned.plan.check_same(read_plan(folder), folder)


def find_shards(plan: Plan, folder: Path) -> dict[int, Receipt]:
    """The shards of ``plan`` that are in ``folder``, by their numbers.

    Raises:
        MismatchError: a receipt is of another plan, or its files are not as it says.
    """
    there = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    found = {}
    for number in range(len(plan)):
        name = plan.name(number)
        if receipt_name(name) in there:
            receipt = find_receipt(plan.id, name, folder)
            if receipt is not None:
                found[number] = receipt
    return found


def val_folder_of(plan: Plan, folder: Path) -> Path | None:
    """Where documents kept aside by the data set in ``folder`` are; None where none are."""
    named = plan.options.get("val_output_path")
    return None if named is None else Path(os.path.normpath(folder / named))


def finalize(
    folder: str | os.PathLike[str],
    *,
    verify: bool = False,
    progress: Callable[[int, int, int], object] | None = None,
) -> tuple[Manifest, Manifest | None]:
    """Write the manifest of a data set whose shards are all there, and that of its validation set.

    Args:
        folder: the data set.
        verify: read all shards and compare their checksums with the receipts.
        progress: called as ``progress(phase, tokens_done, tokens_total)`` while they are read.

    Returns:
        The manifest, and that of the documents kept aside, if any are.

    Raises:
        MissingFileError: there is no plan, or shards are missing; names them.
        MismatchError: a receipt is of another plan or lies; a shard is torn or damaged.
        UsageError: no document was kept aside, or all were.
    """
    folder = Path(folder)
    plan = read_plan(folder)
    sets = [(folder, _gather(plan, folder, "train"))]
    val_folder = val_folder_of(plan, folder)
    if val_folder is not None:
        sets.append((val_folder, _gather(plan, val_folder, "val")))
        _check_split(plan, *(manifest.documents for _, manifest in sets))
    if verify:
        _verify(sets, progress)
    for where, manifest in reversed(sets):
        _put_manifest(where, manifest)
    return sets[0][1], sets[1][1] if val_folder else None


def _verify(
    sets: list[tuple[Path, Manifest]], progress: Callable[[int, int, int], object] | None
) -> None:
    total, done = sum(manifest.tokens for _, manifest in sets), 0
    for folder, manifest in sets:
        for shard in manifest.shards:
            verify_shard(shard, folder, manifest.suffix, manifest.dtype)
            done += shard.tokens
            if progress is not None:
                progress(0, done, total)


def _put_manifest(folder: Path, manifest: Manifest) -> None:
    content = manifest.to_bytes()
    path = folder / MANIFEST
    if not path.exists() or path.read_bytes() != content:
        with work_folder(folder) as work:
            work.write(MANIFEST, content)
            work.sync()
    sweep(folder, all_hosts=True)


def _gather(plan: Plan, folder: Path, split: Literal["train", "val"]) -> Manifest:
    found = find_shards(plan, folder)
    missing = [number for number in range(len(plan)) if number not in found]
    if missing:
        few = ", ".join(map(str, missing[:_NAMED])) + (", …" if len(missing) > _NAMED else "")
        raise MissingFileError(
            f"{folder}: {len(missing):,} of {len(plan):,} shards are not there: {few}",
            hint=f"the same command makes them; so does --shard {missing[0]}/{len(plan)} for one",
        )
    receipts = [found[number] for number in range(len(plan))]
    ids = [one for one in receipts if one.smallest_id is not None and one.largest_id is not None]
    return Manifest(
        plan=plan.id,
        dtype=plan.options["dtype"],
        suffix=f".{plan.options['shard_format']}",
        tokens=sum(one.tokens for one in receipts),
        documents=sum(one.documents for one in receipts),
        text_bytes=sum(one.text_bytes for one in receipts),
        smallest_id=min((one.smallest_id or 0 for one in ids), default=None),
        largest_id=max((one.largest_id or 0 for one in ids), default=None),
        tokenizer=plan.tokenizer,
        vocab_size=plan.options["vocab_size"],
        inputs=plan.data_path,
        split=split,
        shards=tuple(_entry(one) for one in receipts),
        lmkit=plan.lmkit,
    )


def _entry(receipt: Receipt) -> ShardEntry:
    return ShardEntry(
        name=receipt.name,
        tokens=receipt.tokens,
        documents=receipt.documents,
        checksum=receipt.checksum,
        documents_checksum=receipt.documents_checksum,
        file_bytes=receipt.file_bytes,
        smallest_id=receipt.smallest_id,
        largest_id=receipt.largest_id,
    )


def _check_split(plan: Plan, training: int, validation: int) -> None:
    if training and validation:
        return
    side = "validation" if training else "training"
    raise UsageError(
        f"--val_fraction {plan.options['val_fraction']} leaves none of the "
        f"{training + validation} documents for {side}"
    )


def _make_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: shards need a folder, and this is a file")
    if not folder.parent.is_dir():
        raise MissingFileError(f"{folder.parent}: no such file or folder")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise refused("make", folder, error) from error


def _discard(folder: Path) -> None:
    """Remove a data set: what says that it is whole first."""
    names = [entry.name for entry in os.scandir(folder)]
    ours = [name for name in names if _OURS.fullmatch(name)]
    ours.sort(key=lambda name: not name.endswith(".receipt.json"))
    try:
        for name in (MANIFEST, *ours, PLAN):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise refused("remove", folder, error) from error


def discard_shard(planned: Planned, number: int) -> None:
    """Remove a shard: its receipts, and the manifests that speak of it; its files are replaced."""
    for folder in planned.folders:
        for name in (MANIFEST, receipt_name(planned.plan.name(number))):
            (folder / name).unlink(missing_ok=True)


def worker_shares(receipts: Iterable[Receipt]) -> list[dict[str, Any]]:
    """What each worker made of ``receipts``: shards, tokens, bytes of text and seconds of work."""
    shares: dict[str, dict[str, Any]] = {}
    for receipt in receipts:
        start = {
            "worker": receipt.worker,
            "shards": 0,
            "tokens": 0,
            "text_bytes": 0,
            "seconds": 0.0,
        }
        share = shares.setdefault(receipt.worker, start)
        share["shards"] += 1
        share["tokens"] += receipt.tokens
        share["text_bytes"] += receipt.text_bytes
        share["seconds"] = round(share["seconds"] + receipt.seconds, 3)
    return sorted(shares.values(), key=lambda share: -share["text_bytes"])
