"""Run folders and models of other tools → what they hold."""

import json
import re
import struct
import tomllib
from pathlib import Path
from shlex import quote
from typing import Any

from lmkit.counted import counted
from lmkit.errors import LmkitError, MalformedError
from lmkit.inspection import tokenizers
from lmkit.inspection.checkpoints import CONFIG_SHOWN, verify
from lmkit.inspection.report import Ask, Report, size_in
from lmkit.run_lock import is_going

_NAME = re.compile(r"checkpoint_(\d+)\.(?:pt|dcp)")
_BEST = ("best.pt", "best.dcp")
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4}


def run_folder(path: str, ask: Ask) -> Report:
    """The folder of a training run."""
    folder = Path(path)
    report = Report(path, "a run folder", {"bytes": size_in(path)})
    numbered = {
        int(match[1]): entry for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name))
    }
    found = [numbered[number] for number in sorted(numbered)]
    best = next((folder / name for name in _BEST if (folder / name).exists()), None)
    report.facts["checkpoints"] = [entry.name for entry in found]
    report.facts["has_best"] = best is not None
    _tell_settings(report, folder / "config.toml")
    _tell_metrics(report, folder / "metrics.jsonl")
    if is_going(folder):
        report.notes.append("a run is going on in it")
    _verify_run(report, [*found, *([best] if best else [])], ask)
    if found:
        report.use += [
            f'lmkit generate --checkpoint {quote(path)} --prompt "Once upon a time"',
            f"lmkit train --checkpoint_dir {quote(path)} --load_checkpoint latest --max_iters N",
        ]
    if (folder / "metrics.jsonl").exists():
        report.use.append(f"lmkit plot {quote(path)}")
    if (folder / "config.toml").exists():
        settings = quote(str(folder / "config.toml"))
        report.use.append(f"lmkit train --config {settings} --checkpoint_dir OTHER")
    return report


def _verify_run(report: Report, checkpoints: list[Path], ask: Ask) -> None:
    if not checkpoints:
        report.checked = "it has no checkpoint"
        return
    for place in checkpoints:
        told = Report(str(place), "a checkpoint", {"bytes": size_in(place)})
        verify(told, ask)
        if told.damage is not None:
            report.damaged(told.damage)
        elif told.whole is None and report.whole is not False:
            report.notes.append(f"{place.name}: {told.checked}")
    if report.damage is None:
        report.whole = True if ask.verify else None
        said = "the checksums of all are right" if ask.verify else "not checked (--no_verify)"
        report.checked = f"{counted(len(checkpoints), 'checkpoint')}: {said}"


def _tell_settings(report: Report, path: Path) -> None:
    if not path.exists():
        return
    try:
        told = tomllib.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        report.damaged(MalformedError(f"{path}: not TOML: {error}"))
        return
    flat: dict[str, Any] = {}
    for name, value in told.items():
        flat |= value if isinstance(value, dict) else {name: value}
    report.facts["config"] = {name: flat[name] for name in CONFIG_SHOWN if name in flat}


def _tell_metrics(report: Report, path: Path) -> None:
    if not path.exists():
        return
    last: dict[str, Any] = {}
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                last |= {name: row[name] for name in ("iter", "loss", "val_loss") if name in row}
            except (ValueError, TypeError):
                report.notes.append(f"{path.name}, line {number}: not JSON; it is passed over")
    report.facts |= {f"last_{name}": value for name, value in last.items()}


def huggingface_folder(path: str, ask: Ask) -> Report:
    """A model in Hugging Face's form: config.json and safetensors."""
    folder = Path(path)
    report = Report(path, "a model for transformers", {"bytes": size_in(path)})
    try:
        config = dict(json.loads((folder / "config.json").read_bytes()))
    except (ValueError, TypeError) as error:
        report.damaged(MalformedError(f"{folder / 'config.json'}: not a JSON object: {error}"))
        return report
    report.facts["architectures"] = config.get("architectures")
    report.facts["config"] = {
        name: config[name]
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                     "num_key_value_heads", "intermediate_size", "max_position_embeddings",
                     "tie_word_embeddings")
        if name in config
    }  # fmt: skip
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.exists():
        _check_index(report, index, files)
    _tell_weights(report, files)
    if (folder / "tokenizer.json").exists():
        told = tokenizers.tokenizer(str(folder / "tokenizer.json"), ask)
        report.facts["tokenizer"] = told.facts.get("fingerprint")
        report.notes += [f"tokenizer.json: {told.damage}"] if told.damage else []
    report.use += [
        f"lmkit import {quote(path)} run/",
        f'transformers.AutoModelForCausalLM.from_pretrained("{path}")',
    ]
    return report


def _check_index(report: Report, index: Path, files: list[Path]) -> None:
    """That all files which an index names are there."""
    try:
        named = json.loads(index.read_bytes())["weight_map"].values()
        wanted = {index.with_name(name) for name in named}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        report.damaged(MalformedError(f"{index}: no index of safetensors: {error!r}"))
        return
    for missing in sorted(wanted - set(files)):
        report.damaged(MalformedError(f"{missing}: named by {index.name}, and not there"))


def safetensors(path: str, _ask: Ask) -> Report:
    """One file of safetensors."""
    report = Report(path, "weights (safetensors)", {"bytes": size_in(path)})
    _tell_weights(report, [Path(path)])
    report.use.append(f"lmkit import {quote(path)} run/ --tokenizer TOKENIZER")
    return report


def _tell_weights(report: Report, files: list[Path]) -> None:
    """Parameters by what the headers say, and whether the files are as long as they say."""
    parameters, tensors, dtypes = 0, 0, set()
    for file in files:
        try:
            told = _tensors(file)
        except LmkitError as error:
            report.damaged(error)
            continue
        for dtype, size in told:
            dtypes.add(dtype)
            tensors += 1
            parameters += size // _WIDTHS.get(dtype, 1)
    report.facts |= {
        "files": [file.name for file in files],
        "tensors": tensors,
        "parameters": parameters,
        "dtype": ", ".join(sorted(dtypes)),
    }
    if report.damage is None:
        report.whole = True
        report.checked = "its files are as long as their headers say; the format has no checksum"


def _tensors(file: Path) -> list[tuple[str, int]]:
    """Dtype and bytes of each tensor, by the header, which fits the file's size."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        raw = opened.read(8)
        length = struct.unpack("<Q", raw)[0] if len(raw) == 8 else size  # noqa: PLR2004
        if length >= size:
            raise MalformedError(f"{file}: torn: it ends within its header")
        try:
            header = json.loads(opened.read(length))
            tensors = [told for name, told in header.items() if name != "__metadata__"]
            spans = [[int(end) for end in told["data_offsets"]] for told in tensors]
            told = [
                (str(one["dtype"]), end - start)
                for one, (start, end) in zip(tensors, spans, strict=True)
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MalformedError(f"{file}: not safetensors: {error!r}") from error
    whole = 8 + length + max((end for _, end in spans), default=0)
    if size != whole:
        raise MalformedError(
            f"{file}: torn: its header speaks of {whole:,} bytes in all, but it has {size:,}"
        )
    return told
