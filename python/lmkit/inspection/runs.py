"""Checkpoints, runs and models of other tools → what they hold. Checkpoints alone need torch."""

import json
import re
import struct
import tomllib
from pathlib import Path
from typing import Any

from lmkit.errors import LmkitError, MalformedError, MismatchError
from lmkit.inspection import tokenizers
from lmkit.inspection.blocks import sha256
from lmkit.inspection.report import Ask, Report, size_in

_NAME = re.compile(r"checkpoint_(\d+)\.pt")
_CONFIG_SHOWN = (
    "vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff", "max_seq_len",
    "context_length", "batch_size", "learning_rate", "max_iters", "optimizer",
)  # fmt: skip
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4}


def checkpoint(path: str, ask: Ask) -> Report:
    """A checkpoint of lmkit's or of the CS336 course's script."""
    report = Report(path, "a checkpoint", {"bytes": size_in(path)})
    _verify_checkpoint(report, ask)
    if report.damage is None:
        _tell_checkpoint(report)
    return report


def _verify_checkpoint(report: Report, ask: Ask) -> None:
    beside = Path(f"{report.path}.json")
    try:
        told = json.loads(beside.read_bytes())
        vouched = [told, told["replaces"]] if "replaces" in told else [told]
        known = {(int(entry["size"]), str(entry["sha256"])) for entry in vouched}
    except FileNotFoundError:
        report.checked = "it has no sidecar with a checksum"
        return
    except (ValueError, KeyError, TypeError) as error:
        report.damaged(MismatchError(f"{beside}: not the sidecar of a checkpoint: {error!r}"))
        return
    size = report.facts["bytes"]
    if size not in {entry[0] for entry in known}:
        speaks = ", ".join(f"{entry[0]:,}" for entry in known)
        report.damaged(
            MismatchError(f"{report.path}: damaged: {size:,} bytes, its sidecar speaks of {speaks}")
        )
    elif not ask.verify:
        report.checked = "not checked (--no_verify): its size is right"
    elif (size, found := sha256(report.path, ask)) not in known:
        report.damaged(
            MismatchError(
                f"{report.path}: damaged: its sha256 is {found[:12]}..., and not the sidecar's",
                hint="take an earlier one; --load_checkpoint latest takes the newest that is whole",
            )
        )
    else:
        report.whole, report.checked = True, "the sha256 in its sidecar is right"
        report.facts["sha256"] = found


def _tell_checkpoint(report: Report) -> None:
    import pickle

    import torch

    from lmkit.tokenizer import Tokenizer

    path = report.path
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        weights = state["model"]
        iteration = int(state["iteration"])
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
    ) as error:
        first = next(iter(str(error).splitlines()), "")
        report.damaged(MismatchError(f"{path}: not a checkpoint that can be read: {first}"))
        return
    config = dict(state.get("config") or {})
    report.facts |= {
        "iteration": iteration,
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "tensors": len(weights),
        "dtype": str(next(iter(weights.values())).dtype).removeprefix("torch."),
        "has_optimizer": bool(state.get("optimizer")),
        "has_average": "average" in state,
        "best_val_loss": state.get("best_val_loss"),
        "config": {name: config[name] for name in _CONFIG_SHOWN if name in config},
    }
    if "tokenizer" in state:
        tokenizer = Tokenizer.from_json(state["tokenizer"])
        report.facts |= {
            "tokenizer": tokenizer.fingerprint,
            "tokenizer_vocab_size": tokenizer.vocab_size,
        }
        report.use += [
            f'lmkit generate --checkpoint {path} --prompt "Once upon a time"',
            f"lmkit evaluate --checkpoint {path} --data val.npy",
            f"lmkit export {path} model/",
        ]
    else:
        report.kind = "a checkpoint of another script"
        report.notes.append("it carries neither settings nor tokenizer")
    report.use.append(f"lmkit train --load_checkpoint {path} --train_data train.npy")


def run_folder(path: str, ask: Ask) -> Report:
    """The folder of a training run."""
    folder = Path(path)
    report = Report(path, "a run folder", {"bytes": size_in(path)})
    numbered = {
        int(match[1]): entry for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name))
    }
    found = [numbered[number] for number in sorted(numbered)]
    best = folder / "best.pt"
    report.facts["checkpoints"] = [entry.name for entry in found]
    report.facts["has_best"] = best.exists()
    _tell_settings(report, folder / "config.toml")
    _tell_metrics(report, folder / "metrics.jsonl")
    if (folder / "run.lock").exists():
        report.notes.append("run.lock is there: a run is going on, or was killed")
    _verify_run(report, [*found, *([best] if best.exists() else [])], ask)
    if found:
        report.use += [
            f'lmkit generate --checkpoint {path} --prompt "Once upon a time"',
            f"lmkit train --checkpoint_dir {path} --load_checkpoint latest --max_iters N",
        ]
    if (folder / "metrics.jsonl").exists():
        report.use.append(f"lmkit plot {path}")
    if (folder / "config.toml").exists():
        report.use.append(f"lmkit train --config {folder / 'config.toml'} --checkpoint_dir OTHER")
    return report


def _verify_run(report: Report, checkpoints: list[Path], ask: Ask) -> None:
    if not checkpoints:
        report.checked = "it has no checkpoint"
        return
    for place in checkpoints:
        told = Report(str(place), "a checkpoint", {"bytes": size_in(place)})
        _verify_checkpoint(told, ask)
        if told.damage is not None:
            report.damaged(told.damage)
        elif told.whole is None and report.whole is not False:
            report.notes.append(f"{place.name}: {told.checked}")
    if report.damage is None:
        report.whole = True if ask.verify else None
        said = "the checksums of all are right" if ask.verify else "not checked (--no_verify)"
        report.checked = f"{len(checkpoints)} checkpoints: {said}"


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
    report.facts["config"] = {name: flat[name] for name in _CONFIG_SHOWN if name in flat}


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
        f"lmkit import {path} run/",
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
    report.use.append(f"lmkit import {path} run/ --tokenizer TOKENIZER")
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
