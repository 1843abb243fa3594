"""Checkpoints, in one file or cut over a folder → what they hold. Their state needs torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from lmkit.counted import counted
from lmkit.errors import LmkitError, MismatchError
from lmkit.inspection.blocks import sha256
from lmkit.inspection.report import Ask, Report, size_in

CONFIG_SHOWN = (
    "vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff", "max_seq_len",
    "context_length", "batch_size", "learning_rate", "max_iters", "optimizer", "parallel",
)  # fmt: skip
_ANOTHER = (
    "take an earlier one; a folder as --checkpoint, or --load_checkpoint latest, "
    "takes the newest that is whole"
)


def checkpoint(path: str, ask: Ask) -> Report:
    """A checkpoint of lmkit's, of one file or cut, or of the CS336 course's script."""
    kind = "a checkpoint cut over processes" if Path(path).is_dir() else "a checkpoint"
    report = Report(path, kind, {"bytes": size_in(path)})
    verify(report, ask)
    if report.damage is not None:
        return report
    try:
        state = _outline(path) if Path(path).is_dir() else _state(path)
        _tell(report, state)
    except LmkitError as error:
        report.damaged(error)
    return report


def verify(report: Report, ask: Ask) -> None:
    """Compare the checkpoint at the report's path with the checksums that were written with it."""
    if Path(report.path).is_dir():
        _verify_folder(report, ask)
    else:
        _verify_file(report, ask)


def _verify_file(report: Report, ask: Ask) -> None:
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
                hint=_ANOTHER,
            )
        )
    else:
        report.whole, report.checked = True, "the sha256 in its sidecar is right"
        report.facts["sha256"] = found


def _verify_folder(report: Report, ask: Ask) -> None:
    folder = Path(report.path)
    manifest = folder / "checkpoint.json"
    try:
        told = json.loads(manifest.read_bytes())["files"]
        known = {str(name): (int(one["size"]), str(one["sha256"])) for name, one in told.items()}
    except FileNotFoundError:
        report.damaged(
            MismatchError(f"{folder}: damaged: it has no {manifest.name}", hint=_ANOTHER)
        )
        return
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        report.damaged(MismatchError(f"{manifest}: damaged: {error!r}", hint=_ANOTHER))
        return
    report.facts["files"] = len(known)
    for name, (size, digest) in known.items():
        file = folder / Path(name).name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            held = "is not there" if found is None else f"has {found:,} bytes"
            report.damaged(
                MismatchError(f"{file}: damaged: it {held}, not {size:,} bytes", hint=_ANOTHER)
            )
            return
        if ask.verify and sha256(file, ask) != digest:
            report.damaged(
                MismatchError(f"{file}: damaged: its sha256 is not the manifest's", hint=_ANOTHER)
            )
            return
    report.whole = True if ask.verify else None
    said = "the sha256 of each file is right" if ask.verify else "not checked (--no_verify)"
    report.checked = f"{counted(len(known), 'file')}: {said}"


def _state(path: str) -> dict[str, Any]:
    """What one file holds, its tensors left on the disk."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        int(state["iteration"])
        state["model"].items()
    except OSError:
        raise
    except Exception as error:  # of damaged bytes torch's reader makes errors of almost any kind
        first = next(iter(str(error).splitlines()), "")
        raise MismatchError(f"{path}: not a checkpoint that can be read: {first}") from error
    return dict(state)


def _outline(path: str) -> dict[str, Any]:
    """What a folder holds, shapes and dtypes in the place of its tensors."""
    from lmkit.lm.sharded_checkpoint import read_outline

    return read_outline(path, verify=False)


def _tell(report: Report, state: Mapping[str, Any]) -> None:
    from lmkit.tokenizer import Tokenizer

    path = report.path
    weights = list(state["model"].values())
    config = dict(state.get("config") or {})
    report.facts |= {
        "iteration": int(state["iteration"]),
        "parameters": sum(weight.shape.numel() for weight in weights),
        "tensors": len(weights),
        "dtype": str(weights[0].dtype).removeprefix("torch.") if weights else "none",
        "has_optimizer": bool(state.get("optimizer")),
        "has_average": "average" in state,
        "best_val_loss": state.get("best_val_loss"),
        "config": {name: config[name] for name in CONFIG_SHOWN if name in config},
    }
    if "tokenizer" in state:
        tokenizer = Tokenizer.from_json(state["tokenizer"])
        report.facts |= {
            "tokenizer": tokenizer.fingerprint,
            "tokenizer_vocab_size": tokenizer.vocab_size,
        }
        report.use += [
            f'lmkit generate --checkpoint {quote(path)} --prompt "Once upon a time"',
            f"lmkit evaluate --checkpoint {quote(path)} --data val.npy",
            f"lmkit export {quote(path)} model/",
        ]
    else:
        report.notes.append("it carries no tokenizer")
        report.kind = report.kind if config else "a checkpoint of another script"
    report.use.append(f"lmkit train --load_checkpoint {quote(path)} --train_data train.npy")
