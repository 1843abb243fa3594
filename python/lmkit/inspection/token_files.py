"""Token files of every format, and folders of shards → what they hold."""

import warnings
from pathlib import Path
from shlex import quote
from typing import Any

from lmkit import _core
from lmkit.errors import LmkitError, MalformedError, UsageError
from lmkit.inspection.report import Ask, Report, size_in
from lmkit.token_file import TokenReader
from lmkit.token_formats import source_format
from lmkit.token_formats.sources import TokenSource, open_source
from lmkit.tokenizer import Tokenizer

_KINDS = {
    "npy": "a token file (.npy)",
    "bin": "a token file (.bin)",
    "nanogpt": "a token file of nanoGPT's",
    "llmc": "a token file of llm.c's",
    "megatron": "a data set of Megatron-LM's",
    "shards": "a folder of shards",
}
_FIRST = 64


def token_file(path: str, ask: Ask) -> Report:
    """A token file, its sidecar if it has one, and its first tokens."""
    if path.endswith(".docs.npy"):
        return _document_ends(path)
    try:
        kind = source_format(path)
    except UsageError:
        return _unknown_ids(path, ask)
    report = Report(path, _KINDS[kind], {"bytes": size_in(path)})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = open_source(path, kind)
    except LmkitError as error:
        report.damaged(error)
        return report
    _tell(report, source)
    _verify(report, source, ask)
    found, option = tokenizer_of(report, source, ask)
    _sample(report, source, found)
    _use(report, source, option)
    return report


def _document_ends(path: str) -> Report:
    """The document ends that lie beside a token file."""
    report = Report(path, "where documents end", {"bytes": size_in(path)})
    described = Path(path.removesuffix(".docs.npy") + ".npy")
    beside = next((p for p in (described, described.with_suffix(".bin")) if p.exists()), None)
    try:
        with TokenReader(path) as reader:
            report.facts |= {"documents": len(reader), "dtype": reader.dtype.name}
            first = reader.read(0, min(len(reader), _FIRST)).tolist()
            last = int(reader.read(len(reader) - 1, len(reader))[0]) if len(reader) else 0
            report.facts |= {"tokens": last, "first_ends": first}
        if beside is not None:
            source = open_source(beside, source_format(beside))
            ends = [int(chunk[-1]) for chunk in source.ends.chunks()] if source.ends else []
            report.whole = not ends or ends[-1] == source.tokens
            report.checked = f"they rise, and the last is the number of tokens in {beside.name}"
    except LmkitError as error:
        report.damaged(error)
    report.use.append(f"numpy.load({path!r})")
    return report


def shards(path: str, ask: Ask) -> Report:
    """A folder of shards, or its manifest."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    report = Report(path, "a folder of shards")
    if not (folder / "manifest.json").exists():
        return _unfinished(report, folder)
    try:
        source = open_source(folder, "shards")
    except LmkitError as error:
        report.damaged(error)
        return report
    _tell(report, source)
    report.facts["shards"] = len(source.stretches)
    report.facts["bytes"] = sum(size_in(part.path) for part in source.stretches)
    _verify_shards(report, folder, ask)
    found, option = tokenizer_of(report, source, ask)
    _sample(report, source, found)
    report.use += [
        f"lmkit train --train_data {quote(str(folder))}{option}",
        f"lmkit convert tokens {quote(str(folder))} train.npy",
    ]
    return report


def _unfinished(report: Report, folder: Path) -> Report:
    from lmkit.shards.plan import read_plan

    report.kind = "a folder of shards that is not finished"
    try:
        plan = read_plan(folder)
    except LmkitError as error:
        report.damaged(error)
        return report
    done = len(list(folder.glob("*.receipt.json")))
    report.facts |= {
        "plan": plan.id,
        "shards": len(plan),
        "receipts": done,
        "inputs": list(plan.data_path),
        "text_bytes": plan.total_bytes,
        "tokenizer": plan.tokenizer,
    }
    report.notes.append(f"{done:,} of {len(plan):,} shards have their receipts; no manifest yet")
    report.use.append("run the same lmkit tokenize --shards again: it makes what is missing")
    return report


def _tell(report: Report, source: TokenSource) -> None:
    told: dict[str, Any] = {"format": source.format, "tokens": source.tokens, "dtype": source.dtype}
    if source.ends is not None:
        told["documents"] = source.ends.count()
    sidecar = source.sidecar
    if sidecar is not None:
        told |= {
            "documents": sidecar.documents
            if sidecar.documents is not None
            else told.get("documents"),
            "text_bytes": sidecar.text_bytes,
            "smallest_id": sidecar.smallest_id,
            "largest_id": sidecar.largest_id,
            "vocab_size": sidecar.vocab_size,
            "tokenizer": sidecar.tokenizer,
            "inputs": sidecar.inputs,
            "checksum": sidecar.checksum or None,
            "lmkit": sidecar.lmkit,
        }
        if isinstance(sidecar.text_bytes, int) and source.tokens:
            told["bytes_per_token"] = round(sidecar.text_bytes / source.tokens, 3)
    report.facts |= {name: value for name, value in told.items() if value not in (None, [])}


def _verify(report: Report, source: TokenSource, ask: Ask) -> None:
    """All ids, once: their range, and their checksum against the sidecar's."""
    if not ask.verify:
        report.checked = "not checked (--no_verify): header and size fit each other"
        return
    summed, smallest, largest, done = _core.Checksum(), None, None, 0
    try:
        for ids in source.blocks():
            summed.update(ids.tobytes())
            low, high = int(ids.min()), int(ids.max())
            smallest = low if smallest is None else min(low, smallest)
            largest = high if largest is None else max(high, largest)
            done += ids.nbytes
            if ask.tick is not None:
                ask.tick(done, source.tokens * ids.itemsize)
        ends = list(source.ends.chunks())[-1:] if source.ends is not None else []
    except LmkitError as error:
        report.damaged(error)
        return
    if source.tokens:
        report.facts |= {"smallest_id": smallest, "largest_id": largest}
    if smallest is not None and smallest < 0:
        report.damaged(MalformedError(f"{report.path}: holds the id {smallest}, below 0"))
        return
    told = source.sidecar.checksum if source.sidecar else ""
    if told and told != summed.text():
        report.damaged(
            MalformedError(
                f"{report.path}: damaged or changed: its ids have the checksum {summed.text()}, "
                f"and its sidecar speaks of {told}",
                hint="make the token file again",
            )
        )
        return
    report.facts.setdefault("checksum", summed.text())
    report.whole = True
    if told:
        report.checked = "the checksum in its sidecar is right"
    elif ends:
        report.checked = "its size and document ends fit its header; it has no checksum"
    else:
        report.checked = "its size fits; there is no sidecar with a checksum"


def _verify_shards(report: Report, folder: Path, ask: Ask) -> None:
    from lmkit.shards.manifest import read_manifest
    from lmkit.shards.verify import verify_shard

    if not ask.verify:
        report.checked = "not checked (--no_verify): sizes are those of the manifest"
        return
    manifest = read_manifest(folder)
    done, total = 0, sum(shard.file_bytes for shard in manifest.shards)
    try:
        for shard in manifest.shards:
            verify_shard(shard, folder, manifest.suffix, manifest.dtype)
            done += shard.file_bytes
            if ask.tick is not None:
                ask.tick(done, total)
    except LmkitError as error:
        report.damaged(error)
        return
    report.whole, report.checked = True, "the checksums of all shards are right"


def tokenizer_of(report: Report, source: TokenSource, ask: Ask) -> tuple[Tokenizer | None, str]:
    """The tokenizer that was given or that lies beside, and the option that names it."""
    wanted = source.sidecar.tokenizer if source.sidecar else None
    if ask.tokenizer is not None:
        given: Tokenizer = ask.tokenizer
        if wanted and wanted != given.fingerprint:
            report.notes.append(
                f"made with another tokenizer: {wanted[:12]}, and not {given.fingerprint[:12]}"
            )
            return None, ""
        return given, ""
    if not wanted:
        return None, ""
    folder = Path(source.stretches[0].path).parent if source.stretches else Path(source.name)
    for place in [folder, *sorted(folder.iterdir()), *sorted(folder.parent.iterdir())]:
        if not (place / "lmkit.json").is_file():
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = Tokenizer.load(place)
        except LmkitError:
            continue
        if found.fingerprint == wanted:
            return found, f" --tokenizer {quote(str(place))}"
    report.notes.append("its tokenizer does not lie beside; --tokenizer shows the tokens' text")
    return None, ""


def _sample(report: Report, source: TokenSource, tokenizer: Tokenizer | None) -> None:
    if not source.tokens:
        return
    ids = next(iter(source.blocks()))[:_FIRST].tolist()
    report.sample["ids"] = ids
    if tokenizer is not None:
        try:
            report.sample["text"] = tokenizer.decode(ids)
        except LmkitError as error:
            report.notes.append(f"the tokenizer does not fit: {error}")


def _use(report: Report, source: TokenSource, option: str) -> None:
    if source.format in {"npy", "bin"}:
        named = option or " --tokenizer TOKENIZER"
        report.use += [
            f"lmkit train --train_data {quote(report.path)}{named}",
            f"lmkit convert tokens {quote(report.path)} text.txt{named}",
        ]
    else:
        report.use.append(f"lmkit convert tokens {quote(report.path)} train.npy")


def _unknown_ids(path: str, ask: Ask) -> Report:
    """A ``.bin`` without anything that says what it is: what it would be as either."""
    import numpy as np

    from lmkit.token_formats.stretch import Stretch

    size = size_in(path)
    report = Report(path, "numbers without a header or a sidecar", {"bytes": size})
    for dtype, name in (("uint16", "nanogpt"), ("int32", "bin")):
        width = np.dtype(dtype).itemsize
        if size % width or not size:
            continue
        told: dict[str, Any] = {"tokens": size // width}
        if ask.verify:
            lows, highs = [], []
            for ids in Stretch(path, np.dtype(dtype).newbyteorder("<"), 0, size // width).blocks():
                lows.append(int(ids.min()))
                highs.append(int(ids.max()))
            told |= {"smallest_id": min(lows), "largest_id": max(highs)}
        report.facts[f"as_{dtype}"] = told
        report.use.append(f"lmkit convert tokens {quote(path)} train.npy --from {name}")
    if not report.facts.keys() - {"bytes"}:
        report.damaged(MalformedError(f"{path}: {size:,} bytes are no whole number of tokens"))
    report.notes.append(
        "nothing in it says which of these it is; a largest id that is a vocabulary's does"
    )
    return report
