"""A model made elsewhere to a checkpoint that a run goes on from.

Takes a folder of Hugging Face (Llama, Mistral without a window, Qwen3), the bare safetensors that
``lmkit export`` writes, and checkpoints of the course's script. The numbers are kept in float32,
which holds those of 16 bits exactly. What lmkit's model or tokenizer cannot hold is refused by
name; nothing is ever unpickled.

Costs the model in memory, once.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmkit.config import from_dict
from lmkit.errors import LmkitError, MalformedError, MismatchError, MissingFileError, UsageError
from lmkit.lm.checkpoint import Notice, read_checkpoint, write_checkpoint
from lmkit.lm.checkpoint_names import checkpoint_name
from lmkit.lm.course_checkpoint import with_config
from lmkit.lm.huggingface_model import (
    EMBEDDING,
    complete,
    expected_weights,
    fresh_state,
    from_folder,
)
from lmkit.lm.run_folder import RunFolder, refuse_another_run
from lmkit.lm.safetensors_files import read_metadata, read_tensors
from lmkit.lm.trainer import CHECKPOINT_FORMAT
from lmkit.model_config import ModelConfig
from lmkit.setting import own_settings
from lmkit.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

FilePath = str | os.PathLike[str]


@dataclass(frozen=True)
class Imported:
    """What was made.

    Attributes:
        checkpoint: the checkpoint's path as printed.
        kind: the ``model_type`` of Hugging Face, ``"safetensors"``, or ``"course"``.
        parameters: how many numbers the model has.
        iteration: the steps it counts as having taken.
        config: the model's shape.
        context_length: the length of sequences it was trained on.
        tokenizer: the fingerprint of its tokenizer.
    """

    checkpoint: str
    kind: str
    parameters: int
    iteration: int
    config: ModelConfig
    context_length: int
    tokenizer: str


def import_model(
    source: FilePath,
    checkpoint_dir: FilePath,
    *,
    tokenizer: FilePath | None = None,
    max_seq_len: int | None = None,
    context_length: int | None = None,
    n_heads: int | None = None,
    rope_theta: float | None = None,
    force: bool = False,
    notice: Notice | None = None,
) -> Imported:
    """Make a checkpoint of a model that was made elsewhere.

    Args:
        source: a folder with ``config.json`` and safetensors, a ``.safetensors`` file of
            ``lmkit export``, or a ``.pt`` of the course's script.
        checkpoint_dir: the folder of the run to be; it may exist, without checkpoints.
        tokenizer: the model's, as `Tokenizer.load` takes it; None takes the one in the folder.
        max_seq_len: let the model see fewer positions than it was made for.
        context_length: the length of sequences it was trained on; None takes what the source says,
            else all positions.
        n_heads: of a course's checkpoint, whose tensors do not say it.
        rope_theta: of a course's checkpoint; None takes 10000, and says so.
        force: set a run that is in ``checkpoint_dir`` aside.
        notice: told what had to be assumed.

    Raises:
        MissingFileError: there is no such model, or only in pickles.
        MalformedError: lmkit's model cannot be that one; the message names the field.
        MismatchError: weights, configuration and tokenizer do not belong together.
        UsageError: the folder holds a run, or an argument has no effect or is out of range.

    Examples:
        >>> made = import_model("my_model/", "another_run")
        >>> made.checkpoint, made.kind, made.iteration
        ('another_run/checkpoint_0.pt', 'llama', 0)
    """
    tell = notice or _ignore
    typed, path = os.fspath(checkpoint_dir), Path(source)
    refuse_another_run(typed, force=force)
    numbers = {
        "n_heads": n_heads,
        "rope_theta": rope_theta,
        "max_seq_len": max_seq_len,
        "context_length": context_length,
    }
    given = {name: value for name, value in numbers.items() if value is not None}
    kind, state = _read(path, os.fspath(source), given, tokenizer, tell)
    config = _checked(state["config"])
    found = _tokenizer(path, tokenizer, kind)
    for remark in found.remarks:
        tell(remark)
    _refuse_another_tokenizer(found, state.pop("fingerprint", None), config, os.fspath(source))
    state |= {"format": CHECKPOINT_FORMAT, "tokenizer": found.to_json()}
    with RunFolder(typed, tell) as folder:
        folder.clear()
        place = folder.path / checkpoint_name(state["iteration"], cut=False)
        write_checkpoint(place, state)
    weights: dict[str, Tensor] = state["model"]
    tied = weights[EMBEDDING].numel() if config.tie_embeddings else 0
    return Imported(
        checkpoint=folder.printed(place.name),
        kind=kind,
        parameters=sum(weight.numel() for weight in weights.values()) - tied,
        iteration=state["iteration"],
        config=config,
        context_length=state["config"]["context_length"],
        tokenizer=found.fingerprint,
    )


def _checked(stored: Mapping[str, Any]) -> ModelConfig:
    """The model's shape, whose positions are enough for the sequences."""
    config = from_dict(ModelConfig, {n: v for n, v in stored.items() if n != "context_length"})
    if stored["context_length"] > config.max_seq_len:
        raise UsageError(
            f"--context_length {stored['context_length']} is above the model's "
            f"{config.max_seq_len} positions"
        )
    return config


def _read(
    path: Path,
    typed: str,
    given: dict[str, Any],
    tokenizer: FilePath | None,
    notice: Notice,
) -> tuple[str, dict[str, Any]]:
    """What kind of model it is, and a checkpoint's state but for the tokenizer."""
    if not path.exists():
        raise MissingFileError(f"there is no model at {typed}")
    is_course = path.is_file() and path.suffix != ".safetensors"
    for name in ("n_heads", "rope_theta"):
        if name in given and not is_course:
            raise UsageError(f"--{name} has no effect: {typed} says it itself")
    if path.is_dir():
        return from_folder(path, typed, given)
    if path.suffix == ".safetensors":
        return "safetensors", _from_bare(path, typed, given)
    if tokenizer is None:
        raise UsageError(
            f"{typed} holds no tokenizer", hint="pass the one it was trained with as --tokenizer"
        )
    state = read_checkpoint(path, notice)
    if "config" in state:
        raise UsageError(
            f"{typed} is a checkpoint of lmkit already",
            hint=f"lmkit train --load_checkpoint {typed} goes on with it",
        )
    return "course", with_config(state, given, typed, notice)


def _from_bare(path: Path, typed: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The state of bare weights under lmkit's names."""
    metadata = read_metadata(path)
    try:
        stored = json.loads(metadata["config"])
        shape = {name: stored[name] for name in own_settings(ModelConfig) if name in stored}
        config = from_dict(ModelConfig, shape | _fewer_positions(given, stored["max_seq_len"]))
        fingerprint = metadata["tokenizer"]
        length = given.get("context_length") or min(stored["context_length"], config.max_seq_len)
    except (KeyError, ValueError, TypeError) as error:
        if isinstance(error, LmkitError):
            raise
        raise MalformedError(
            f"{typed} says nothing of lmkit's model: it was not written by lmkit export",
            hint="of a model of Hugging Face give the folder, with its config.json",
        ) from error
    expected = expected_weights(config)
    weights: dict[str, Tensor] = {}
    for name, tensor in read_tensors(path):
        if name not in expected or tensor.shape != expected[name].shape:
            raise MismatchError(
                f"{typed}: {name} {tuple(tensor.shape)} is not of its configuration"
            )
        weights[name] = tensor.float()
    weights = complete(weights, config, typed, {name: name for name in expected})
    return fresh_state(weights, config, length) | {"fingerprint": fingerprint}


def _fewer_positions(given: Mapping[str, Any], limit: int) -> dict[str, int]:
    if "max_seq_len" not in given:
        return {}
    if given["max_seq_len"] > limit:
        raise UsageError(f"--max_seq_len {given['max_seq_len']} is above the model's {limit}")
    return {"max_seq_len": given["max_seq_len"]}


def _tokenizer(path: Path, given: FilePath | None, kind: str) -> Tokenizer:
    if given is not None:
        return Tokenizer.load(given)
    if kind == "safetensors":
        raise UsageError(
            f"{path} names its tokenizer and does not hold it",
            hint="pass the one it was trained with as --tokenizer",
        )
    if not (path / "tokenizer.json").exists():
        raise MissingFileError(
            f"{path} has no tokenizer.json", hint="pass the model's tokenizer as --tokenizer"
        )
    return Tokenizer.load(path / "tokenizer.json")


def _refuse_another_tokenizer(
    tokenizer: Tokenizer, fingerprint: str | None, config: ModelConfig, typed: str
) -> None:
    """Raise where the tokenizer cannot be the model's."""
    if fingerprint not in (None, tokenizer.fingerprint):
        raise MismatchError(f"the tokenizer is not the one that {typed} was exported with")
    if tokenizer.vocab_size > config.vocab_size:
        raise MismatchError(
            f"the tokenizer has {tokenizer.vocab_size:,} ids, {typed} only {config.vocab_size:,}: "
            "they do not belong together"
        )


def _ignore(_sentence: str) -> None:
    """Say nothing."""
