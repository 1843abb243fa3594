"""Sidecars, receipts, counts of pretokens and journals → what they say."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from shlex import quote

from lmkit.errors import LmkitError, MalformedError, MismatchError, MissingFileError
from lmkit.inspection import checkpoints, token_files
from lmkit.inspection.blocks import checksum
from lmkit.inspection.report import Ask, Report, size_in
from lmkit.shards.receipt import check_files, read_receipt

_LONGEST_HEADER = 1 << 24


def sidecar(path: str, ask: Ask) -> Report:
    """The sidecar of a token file: the report on that file."""
    report = _report_on_described(path, "token file", token_files.token_file, ask)
    if report.path == path:  # the sidecar is all there is
        told = json.loads(Path(path).read_bytes())
        report.facts = {name: told[name] for name in ("tokens", "dtype", "checksum")}
    return report


def receipt(path: str, ask: Ask) -> Report:
    """The receipt of a shard: the report on its token file."""
    try:
        told = read_receipt(Path(path))
        check_files(told, Path(path).parent)
    except LmkitError as error:
        report = Report(path, "a receipt of a shard")
        report.damaged(error)
        return report
    described = str(Path(path).parent / told.token_file)
    report = token_files.token_file(described, ask)
    report.facts |= {"worker": told.worker, "seconds": told.seconds}
    report.notes.insert(0, f"{path} is the receipt of {described}, which is told of here")
    return report


def checkpoint_sidecar(path: str, ask: Ask) -> Report:
    """The sidecar of a checkpoint: the report on that."""
    return _report_on_described(path, "checkpoint", checkpoints.checkpoint, ask)


def _report_on_described(
    path: str, kind: str, tell: Callable[[str, Ask], Report], ask: Ask
) -> Report:
    described = path.removesuffix(".json")
    if not Path(described).exists():
        report = Report(path, f"a sidecar without its {kind}")
        report.damaged(MissingFileError(f"{described}: no such file or folder"))
        return report
    report = tell(described, ask)
    report.notes.insert(0, f"{path} is the sidecar of {described}, which is told of here")
    return report


def counts(path: str, ask: Ask) -> Report:
    """Counts of pretokens that `train-tokenizer --save_counts` wrote."""
    size = size_in(path)
    report = Report(path, "counts of pretokens", {"bytes": size})
    with Path(path).open("rb") as file:
        head = file.read(16)
        try:
            form, length = struct.unpack_from("<II", head, 8)
            if form != 1:
                raise ValueError(f"format {form}; format 1 is known")  # noqa: TRY301 - told below
            told = json.loads(file.read(min(length, _LONGEST_HEADER)))
        except (struct.error, ValueError) as error:
            report.damaged(MalformedError(f"{path}: a damaged file of counts: {error}"))
            return report
        file.seek(max(size - 16, 0))
        stored = file.read(16)
    report.facts |= told
    report.use.append(
        f"lmkit train-tokenizer --from_counts {quote(path)} --vocab_size 32000 "
        "--output_path tokenizer/"
    )
    if not ask.verify:
        report.checked = "not checked (--no_verify)"
    elif checksum(path, ask, 0, size - 16) != f"xxh3-128:{stored[::-1].hex()}":
        report.damaged(
            MalformedError(f"{path}: damaged: its content does not have the checksum at its end")
        )
    else:
        report.whole, report.checked = True, "the checksum at its end is right"
    return report


def journal(path: str, _ask: Ask) -> Report:
    """How far a run of `lmkit tokenize` is, or was when it ended."""
    place = Path(path)
    report = Report(path, "a journal of lmkit tokenize", {"bytes": size_in(path)})
    try:
        told = json.loads(place.read_bytes())
        position, job = told["position"], told["job"]
        output = place.name[1:].partition(".journal.")[0]
        report.facts |= {
            "output": output,
            "tokens": position["train"]["tokens"],
            "documents": position["train"]["documents"],
            "text_bytes": position["train"]["text_bytes"],
            "is_whole": position["is_whole"],
            "tokenizer": job["tokenizer"],
            "options": job["options"],
            "inputs": [entry["path"] for entry in job["inputs"]],
            "lmkit": job["lmkit"],
        }
        dtype, process = job["options"]["dtype"], told["process"]
        tokens = int(position["train"]["tokens"])
    except (ValueError, KeyError, TypeError) as error:
        report.damaged(MalformedError(f"{path}: not lmkit's journal: {error!r}"))
        return report
    header = 128 if output.endswith(".npy") else 0
    needed = header + tokens * (2 if dtype == "uint16" else 4)
    owner = place.name.split(".journal.")[1].split(".")[0]
    partial = [place.with_name(f".{output}.{who}.lmkit-tmp") for who in (owner, process)]
    found = next((size_in(file) for file in partial if file.exists()), None)
    if found is None or found < needed:
        report.damaged(
            MismatchError(
                f"{path}: of the {needed:,} bytes it speaks of, {found or 0:,} are left",
                hint="the same lmkit tokenize without --resume begins anew",
            )
        )
        return report
    report.whole, report.checked = True, "the partial file holds at least what it speaks of"
    report.use.append("the same lmkit tokenize again, with --resume, goes on from there")
    return report
