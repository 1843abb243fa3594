"""A checkpoint to a folder that Hugging Face transformers loads as it is, or to bare weights.

Costs the checkpoint in memory, which is verified first, and a copy of one shard. The output appears
under its name when it is whole. Where lmkit's model and its tokenizer cannot be said in the formats
of transformers, nothing is written and the error says what is in the way.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lmkit._core import __version__
from lmkit.config import to_dict
from lmkit.durable import durable_file, durable_folder
from lmkit.errors import MismatchError, MissingFileError, UsageError, already_exists
from lmkit.lm.checkpoint import (
    Notice,
    read_weights,
    run_shape,
    shape_differences,
)
from lmkit.lm.checkpoint_names import BEST_NAMES, is_folder
from lmkit.lm.end_of_text import end_of_text
from lmkit.lm.huggingface_config import architecture, to_huggingface_config
from lmkit.lm.huggingface_weights import huggingface_name, to_huggingface
from lmkit.lm.model import Transformer
from lmkit.lm.model_card import model_card
from lmkit.lm.safetensors_files import write_shards, write_tensors
from lmkit.model_config import ModelConfig
from lmkit.tokenizer import Tokenizer

DTYPES = ("float32", "bfloat16", "float16")
MAX_SHARD_SIZE = 5 << 30
HEAD = "lm_head.weight"

FilePath = str | os.PathLike[str]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: where.
        checkpoint: what it was made of, as printed.
        iteration: the steps that its model had taken.
        weights: ``"average"`` or ``"raw"``.
        architecture: the ``model_type`` of Hugging Face; None for bare weights.
        parameters: how many numbers the model has.
        dtype: of the numbers.
        files: the names of what is in the folder, or of the one file.
    """

    path: str
    checkpoint: str
    iteration: int
    weights: str
    architecture: str | None
    parameters: int
    dtype: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A checkpoint as it is to be exported.

    Attributes:
        name: the checkpoint as printed.
        state: all it holds.
        config: the model's shape.
        tokenizer: the model's.
        weights: its parameters by lmkit's names, a tied head left out.
        averaged: whether they are the average that the run kept.
    """

    name: str
    state: Mapping[str, Any]
    config: ModelConfig
    tokenizer: Tokenizer
    weights: Mapping[str, Tensor]
    averaged: bool

    @property
    def parameters(self) -> int:
        """How many numbers the model has."""
        return sum(weight.numel() for weight in self.weights.values())


def export_model(
    run: FilePath,
    out: FilePath,
    *,
    checkpoint: str | None = None,
    format: Literal["huggingface", "safetensors"] = "huggingface",  # noqa: A002 - as the flag
    weights: Literal["average", "raw"] | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    max_shard_size: int = MAX_SHARD_SIZE,
    force: bool = False,
    notice: Notice | None = None,
) -> Exported:
    """Write a model for other tools.

    Args:
        run: a checkpoint, or the folder of a run.
        out: the folder to make; with ``format="safetensors"`` the file.
        checkpoint: which one of a run's folder: ``"best"``, ``"latest"`` or a file of it. None
            takes the best by validation loss where there is one, else the latest.
        format: ``"huggingface"`` for a folder that ``AutoModelForCausalLM`` and ``AutoTokenizer``
            load; ``"safetensors"`` for one file of weights under lmkit's names.
        weights: the ``"average"`` that a run with ``ema_decay`` kept, or the ``"raw"`` weights.
            None takes the average where there is one.
        dtype: of the numbers written.
        max_shard_size: the most bytes a file of the folder holds.
        force: replace what was exported to ``out`` before.
        notice: told what had to be chosen or passed over.

    Raises:
        UsageError: ``out`` exists, or the model or its tokenizer cannot be said in the format.
        MissingFileError: there is no such checkpoint.
        MismatchError: the checkpoint is damaged, or is not of a run.
        SystemRefusedError: the system refused a write.

    Examples:
        >>> exported = export_model("checkpoints/", "for_others", dtype="bfloat16")
        >>> exported.architecture, exported.files[:2]
        ('llama', ('README.md', 'config.json'))
    """
    tell = notice or _ignore
    target = Path(out)
    _refuse_existing(target, format, force=force)
    name, state = choose_checkpoint(run, checkpoint, tell)
    source = _source(name, state, weights)
    _refuse_numbers_that_do_not_fit(source, dtype)
    if format == "safetensors":
        files: tuple[str, ...] = (_write_bare(source, target, dtype),)
    else:
        files = _write_folder(source, target, dtype, max_shard_size, tell)
    return Exported(
        path=os.fspath(out),
        checkpoint=source.name,
        iteration=int(state["iteration"]),
        weights="average" if source.averaged else "raw",
        architecture=architecture(source.config) if format == "huggingface" else None,
        parameters=source.parameters,
        dtype=dtype,
        files=files,
    )


def choose_checkpoint(
    run: FilePath, checkpoint: str | None, notice: Notice
) -> tuple[str, dict[str, Any]]:
    """The checkpoint that is meant: its path as printed, and its state, verified.

    Of either kind; the optimizer's state is left out.
    """
    typed = os.fspath(run).rstrip("/")
    if not Path(run).is_dir() or is_folder(run):
        if checkpoint is not None:
            raise UsageError(
                f"--checkpoint {checkpoint} has no effect: {typed} is a checkpoint itself"
            )
        return read_weights(typed, notice)
    found = [one for one in BEST_NAMES if Path(f"{typed}/{one}").exists()]
    best = f"{typed}/{found[0] if found else BEST_NAMES[0]}"
    if checkpoint is None and found:
        try:
            return read_weights(best, notice)
        except MismatchError as error:
            notice(f"passed over {found[0]}: {error}")
    if checkpoint in (None, "latest"):
        return read_weights(typed, notice)
    name = best if checkpoint == "best" else f"{typed}/{checkpoint}"
    if not Path(name).exists() and checkpoint != "best":
        name = str(checkpoint)
    return read_weights(name, notice)


def _source(name: str, state: dict[str, Any], weights: str | None) -> Source:
    config = run_shape(state, name)
    if weights == "average" and "average" not in state:
        raise UsageError(
            f"{name} holds no average of its weights",
            hint="--weights raw, or train with --ema_decay",
        )
    with torch.device("meta"):
        expected = Transformer(config).state_dict()
    differences = shape_differences(expected, state["model"])
    if differences:
        raise MismatchError(f"{name} is not what its configuration says: {'; '.join(differences)}")
    averaged = weights != "raw" and "average" in state
    values = {**state["model"], **(state["average"] if averaged else {})}
    if config.tie_embeddings:
        values.pop(HEAD)
    tokenizer = Tokenizer.from_json(state["tokenizer"])
    return Source(name, state, config, tokenizer, values, averaged)


def _refuse_numbers_that_do_not_fit(source: Source, dtype: str) -> None:
    kind = getattr(torch, dtype)
    for name, weight in source.weights.items():
        if not bool(weight.isfinite().all()):
            raise MismatchError(f"{source.name}: {name} is not all numbers: its run diverged")
        if dtype == "float16" and not bool(weight.to(kind).isfinite().all()):
            raise UsageError(
                f"--dtype float16 cannot hold {name}: it has numbers up to "
                f"{float(weight.abs().max()):.3g}",
                hint="--dtype bfloat16 can",
            )


def _refuse_existing(target: Path, kind: str, *, force: bool) -> None:
    """Raise where the output exists, unless it is an earlier one that may be replaced."""
    if not target.parent.is_dir():
        raise MissingFileError(f"there is no folder {target.parent} to write {target.name} into")
    if not target.exists() and not target.is_symlink():
        return
    if not force:
        raise already_exists(target)
    if kind == "safetensors" and target.is_dir():
        raise UsageError(f"{target} is a folder; --format safetensors writes one file")
    if kind == "safetensors" or (target.is_dir() and _is_replaceable(target)):
        return
    raise UsageError(f"{target} is not the folder of an exported model, so it is not replaced")


def _is_replaceable(folder: Path) -> bool:
    names = {entry.name for entry in folder.iterdir()}
    weights = any(name.startswith("model") and ".safetensors" in name for name in names)
    return not names or ("config.json" in names and weights)


def _write_bare(source: Source, target: Path, dtype: str) -> str:
    """One file of lmkit's names; its metadata says all that a model needs but the tokenizer."""
    kind = getattr(torch, dtype)
    metadata = {
        "format": "pt",
        "lmkit": __version__,
        "config": json.dumps(
            to_dict(source.config) | {"context_length": source.state["config"]["context_length"]}
        ),
        "tokenizer": source.tokenizer.fingerprint,
        "iteration": str(source.state["iteration"]),
    }
    tensors = {name: weight.to(kind) for name, weight in source.weights.items()}
    with durable_file(target) as file:
        write_tensors(Path(file.name), tensors, metadata)
    return target.name


def _write_folder(
    source: Source, target: Path, dtype: str, max_shard_size: int, notice: Notice
) -> tuple[str, ...]:
    """All that transformers reads, in one folder."""
    end = end_of_text(source.tokenizer)
    if end is None:
        notice("the tokenizer has no token that ends a text: generation elsewhere will not stop")
    end_id = None if end is None else end[1]
    documents = {
        "config.json": to_huggingface_config(source.config, end_id, dtype),
        "generation_config.json": {
            "bos_token_id": end_id,
            "eos_token_id": end_id,
            "pad_token_id": end_id,
        },
        "tokenizer_config.json": _tokenizer_config(source, None if end is None else end[0]),
    }
    with durable_folder(target) as folder:
        _write_tokenizer(source.tokenizer, folder / "tokenizer.json")
        for name, content in documents.items():
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (folder / name).write_text(text, encoding="utf-8")
        sizes, make = _renamed(source, getattr(torch, dtype))
        written = write_shards(folder, sizes, make, max_shard_size)
        card = model_card(source, target.name, dtype, architecture(source.config))
        (folder / "README.md").write_text(card, encoding="utf-8")
    return tuple(sorted([*documents, *written, "tokenizer.json", "README.md"]))


def _renamed(source: Source, dtype: torch.dtype) -> tuple[dict[str, int], Callable[[str], Tensor]]:
    """The bytes of each tensor by Hugging Face's name, and what makes it."""
    ours = {huggingface_name(name): name for name in source.weights}
    sizes = {theirs: source.weights[name].numel() * dtype.itemsize for theirs, name in ours.items()}

    def make(theirs: str) -> Tensor:
        name = ours[theirs]
        return to_huggingface(name, source.weights[name].to(dtype), source.config.d_head)

    return sizes, make


def _tokenizer_config(source: Source, end: str | None) -> dict[str, Any]:
    content: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": source.state["config"]["context_length"],
        "clean_up_tokenization_spaces": False,
    }
    return content if end is None else content | {"bos_token": end, "eos_token": end}


def _write_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write the ``tokenizer.json`` that gives the same ids."""
    try:
        tokenizer.save(path, format="huggingface")
    except UsageError as error:
        reason = str(error).removeprefix(f"{path}: ")  # which is a temporary one
        raise UsageError(
            f"transformers cannot have this model's tokenizer: {reason}",
            hint="--format safetensors exports the weights without it",
        ) from error


def _ignore(_sentence: str) -> None:
    """Say nothing."""
