"""`lmkit tokenize` into a folder of shards: all of them, one, or their manifest."""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmkit.cli.progress import progress_bar
from lmkit.cli.shard_options import token_count
from lmkit.counted import counted
from lmkit.errors import UsageError
from lmkit.tokenizer import Tokenizer

if TYPE_CHECKING:
    from lmkit.shards.encode_shard import ShardTask
    from lmkit.shards.make_plan import Planned, ShardOptions
    from lmkit.shards.manifest import Manifest
    from lmkit.shards.receipt import Receipt
    from lmkit.shards.tally import Tally

_FEW_WORKERS = 20


def is_asked_for(options: dict[str, Any]) -> bool:
    """Whether ``options`` are those of shards; refuses what has no effect without them."""
    ways = [name for name in ("shards", "shard_tokens", "shard") if options[name] is not None]
    if len(ways) > 1:
        raise UsageError(f"--{ways[0]} and --{ways[1]} exclude each other")
    if options["shard"] is not None and options["cluster"] is not None:
        raise UsageError("--shard and --cluster exclude each other: a cluster makes all shards")
    if not ways and options["cluster"] is not None:
        raise UsageError("--cluster needs --shards N or --shard_tokens AMOUNT")
    if not ways and options["shard_format"] != "npy":
        raise UsageError("--shard_format has no effect without --shards or --shard_tokens")
    if options["verify"] and (not ways or options["shard"] is not None):
        raise UsageError("--verify has no effect without --finalize, --shards or --shard_tokens")
    return bool(ways)


def tokenize_shards(
    data_path: Sequence[str],
    output: str,
    tokenizer: Tokenizer,
    options: dict[str, Any],
    *,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make the data set, or one shard of it."""
    from lmkit.shards.cluster_address import local_workers
    from lmkit.shards.data_set import begin, check_begun, find_shards
    from lmkit.shards.make_plan import make_plan
    from lmkit.shards.names import parse_shard

    if options["cluster"] is not None:
        local_workers(options["cluster"])
    folder = Path(os.path.abspath(output))  # noqa: PTH100 - links stay as they are
    asked = options["shard"]
    number, count = parse_shard(asked) if asked is not None else (None, options["shards"])
    planned = make_plan(list(data_path), folder, tokenizer, _shard_options(options, count))
    is_anew = options["force"] and number is None
    if not is_anew:
        check_begun(planned)
    if dry_run:
        _say_plan(planned, output, as_json=as_json)
        return
    if number is not None:
        begin(planned)
        _make_one(planned, number, tokenizer, options, as_json=as_json, quiet=quiet)
        return
    start = time.monotonic()
    found = {} if is_anew else find_shards(planned.plan, planned.folder)
    # What cannot be reached leaves the folder as it was, also what --force is to replace.
    with _client(options["cluster"] if len(found) < len(planned.plan) else None) as client:
        begin(planned, force=is_anew)
        made = _make_missing(planned, found, tokenizer, options, client, quiet=quiet)
    _finish(planned, output, found, made, options, start, as_json=as_json, quiet=quiet)


def _shard_options(options: dict[str, Any], count: int | None) -> "ShardOptions":
    from lmkit.shards.make_plan import ShardOptions

    return ShardOptions(
        shards=count,
        shard_tokens=token_count(options["shard_tokens"]),
        special="none" if options["no_special_tokens"] else "encode",
        val_output=options["val_output_path"],
        **{
            name: options[name]
            for name in (
                "dtype",
                "shard_format",
                "errors",
                "end_of_document",
                "val_fraction",
                "text_field",
                "max_record_bytes",
            )
        },
    )


@contextmanager
def _client(cluster: str | None) -> Iterator[Any]:
    """A client of the cluster at this address within the block; None where none is asked for."""
    if cluster is None:
        yield None
        return
    try:
        import distributed  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(
            "--cluster needs dask.distributed", hint="pip install 'lmkit[cluster]'"
        ) from error
    from lmkit.cluster.connect import connect

    with connect(cluster) as client:
        yield client


def _make_missing(
    planned: "Planned",
    found: "Mapping[int, Receipt]",
    tokenizer: Tokenizer,
    options: dict[str, Any],
    client: Any,  # noqa: ANN401 - of the cluster room
    *,
    quiet: bool,
) -> "list[Receipt]":
    """Make the shards that were not found; their receipts."""
    from lmkit.shards.encode_shard import ShardTask
    from lmkit.shards.tally import Tally

    plan = planned.plan
    tasks = [
        ShardTask.of(plan, number, planned.folder, planned.val_folder)
        for number in range(len(plan))
        if number not in found
    ]
    tally = Tally(tasks, len(found))
    made: list[Receipt] = []
    try:
        with progress_bar("Tokenizing", "B", quiet=quiet, more=tally.shards) as progress:
            tally.report_to(progress)
            made.extend(_receipts(tasks, tokenizer, tally, options, client))
    except BaseException:
        if not quiet:
            print(
                f"{tally.shards()} are there and stay: the same command goes on from there",
                file=sys.stderr,
            )
        raise
    return made


def _receipts(
    tasks: "Sequence[ShardTask]",
    tokenizer: Tokenizer,
    tally: "Tally",
    options: dict[str, Any],
    client: Any,  # noqa: ANN401 - of the cluster room
) -> "Iterable[Receipt]":
    """The receipts of ``tasks``, as whoever was asked to do them is done."""
    how = {"num_threads": options["num_threads"], "method": options["method"]}
    if client is not None:
        from lmkit.cluster.run_on_cluster import run_on_cluster

        return run_on_cluster(tasks, tokenizer, tally, client, options["cluster"], **how)
    from lmkit.shards.run_here import run_here

    return run_here(tasks, tokenizer, tally, **how)


def _finish(
    planned: "Planned",
    output: str,
    found: "Mapping[int, Receipt]",
    made: "Sequence[Receipt]",
    options: dict[str, Any],
    start: float,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write the manifest of shards that are all there, and say what they hold."""
    from lmkit.shards.data_set import finalize, worker_shares

    with progress_bar("Verifying", "tokens", quiet=quiet) as progress:
        manifests = finalize(planned.folder, verify=options["verify"], progress=progress)
    summary = {
        **_summary(manifests, output, planned.val_folder),
        "found": len(found),
        "seconds": round(time.monotonic() - start, 3),
        "skipped": planned.skipped + [path for one in made for path in one.skipped],
        "null_rows": sum(one.null_rows for one in made),
        "workers": worker_shares(made),
    }
    _say_summary(summary, made, as_json=as_json, quiet=quiet)


def _make_one(
    planned: "Planned",
    number: int,
    tokenizer: Tokenizer,
    options: dict[str, Any],
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    from dataclasses import asdict

    from lmkit.shards.data_set import discard_shard
    from lmkit.shards.encode_shard import ShardTask, encode_shard, this_process

    plan = planned.plan
    if options["force"]:
        discard_shard(planned, number)
    task = ShardTask.of(plan, number, planned.folder, planned.val_folder)
    with progress_bar("Tokenizing", "B", quiet=quiet) as progress:
        receipt = encode_shard(
            task,
            tokenizer,
            worker=this_process(),
            num_threads=options["num_threads"],
            method=options["method"],
            progress=progress,
        )
    if not quiet:
        say_passed_over(receipt.skipped, receipt.null_rows)
    if as_json:
        print(json.dumps(asdict(receipt)))
    elif not quiet:
        print(
            f"{receipt.name}: {counted(receipt.tokens, 'token')} of "
            f"{counted(receipt.documents, 'document')}, {counted(receipt.text_bytes, 'byte')}"
        )


def finalize_folder(folder: str, *, verify: bool, as_json: bool, quiet: bool) -> None:
    """Write the manifest of the shards in ``folder``."""
    from lmkit.shards.data_set import finalize, val_folder_of
    from lmkit.shards.plan import read_plan

    path = Path(os.path.abspath(folder))  # noqa: PTH100 - links stay as they are
    with progress_bar("Verifying", "tokens", quiet=quiet) as progress:
        manifests = finalize(path, verify=verify, progress=progress)
    summary = _summary(manifests, folder, val_folder_of(read_plan(path), path))
    _say_summary(summary, [], as_json=as_json, quiet=quiet)


def _say_plan(planned: "Planned", output: str, *, as_json: bool) -> None:
    plan = planned.plan
    if as_json:
        content = json.loads(plan.to_bytes())
        told = {"files": len(plan.inputs), "bytes": plan.total_bytes, "output_path": output}
        print(json.dumps(told | {"plan": content["id"], "shards": content["shards"]}))
        return
    print(
        f"Would tokenize {counted(len(plan.inputs), 'file')}, {plan.total_bytes / 1e6:,.1f} MB, "
        f"into {counted(len(plan), 'shard')} in {output}"
    )
    for number in range(len(plan)):
        ranges = list(plan.ranges(number))
        said = "nothing"
        if ranges:
            first, last = ranges[0], ranges[-1]
            said = f"{first.input.path} from byte {first.start:,}"
            same = len(ranges) == 1
            said += f" to {last.end:,}" if same else f" to {last.input.path} byte {last.end:,}"
        print(f"{plan.name(number)}: {plan.shard_bytes(number) / 1e6:,.1f} MB, {said}")


def _summary(
    manifests: "tuple[Manifest, Manifest | None]", output: str, val_folder: Path | None
) -> dict[str, Any]:
    def counts(manifest: "Manifest") -> dict[str, Any]:
        names = ("tokens", "documents", "text_bytes", "smallest_id", "largest_id")
        return {name: getattr(manifest, name) for name in names}

    manifest, val = manifests
    told = {"output_path": output, "plan": manifest.plan, "shards": len(manifest.shards)}
    told |= counts(manifest)
    return told | ({"validation": {"output_path": str(val_folder), **counts(val)}} if val else {})


def say_passed_over(skipped: Sequence[str], null_rows: int) -> None:
    """Say on stderr which files and rows were no text."""
    for path in skipped:
        print(f"Passed over {path}: not a text file", file=sys.stderr)
    if null_rows:
        print(f"Passed over {counted(null_rows, 'row')} without text (null)", file=sys.stderr)


def _say_summary(
    summary: dict[str, Any], made: "Sequence[Receipt]", *, as_json: bool, quiet: bool
) -> None:
    if not quiet:
        say_passed_over(summary.get("skipped", []), summary.get("null_rows", 0))
    if as_json:
        print(json.dumps(summary))
        return
    if quiet:
        return
    parts = [summary] + ([summary["validation"]] if "validation" in summary else [])
    for part in parts:
        ratio = part["text_bytes"] / part["tokens"] if part["tokens"] else 0.0
        print(
            f"{part['output_path']}: {counted(part['tokens'], 'token')} of "
            f"{counted(part['documents'], 'document')} in {counted(summary['shards'], 'shard')}, "
            f"{counted(part['text_bytes'], 'byte')} ({ratio:.2f} bytes a token)"
        )
    if summary.get("found"):
        were = "was" if summary["found"] == 1 else "were"
        print(f"{counted(summary['found'], 'shard')} {were} there before")
    workers = summary.get("workers", [])
    for share in workers[:_FEW_WORKERS]:
        print(
            f"worker {share['worker']}: {counted(share['shards'], 'shard')}, "
            f"{counted(share['tokens'], 'token')}, {share['seconds']:.1f} s"
        )
    if len(workers) > _FEW_WORKERS:
        print(f"and {counted(len(workers) - _FEW_WORKERS, 'worker')} with less")
    if made:
        seconds = max(summary["seconds"], 1e-9)
        size = sum(share["text_bytes"] for share in workers)
        print(f"Done in {seconds:.2f} s, {size / 1e6 / seconds:,.1f} MB/s")
