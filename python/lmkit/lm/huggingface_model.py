"""A folder of Hugging Face to lmkit's weights and configuration; all of it fits, or it is refused.

Costs the model in float32, and one tensor more.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmkit.config import to_dict
from lmkit.errors import LmkitError, MalformedError, MismatchError, MissingFileError, UsageError
from lmkit.lm.checkpoint_names import CHECKPOINT_NAME
from lmkit.lm.huggingface_config import from_huggingface_config, read_config
from lmkit.lm.huggingface_weights import from_huggingface, huggingface_name, to_huggingface
from lmkit.lm.model import Transformer
from lmkit.lm.safetensors_files import read_folder
from lmkit.model_config import ModelConfig

HEAD = "lm_head.weight"
EMBEDDING = "token_embeddings.weight"
ANGLES = "rotary_emb.inv_freq"  # which old Llamas save, and everybody computes


def from_folder(path: Path, typed: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What kind of model a folder holds, and a checkpoint's state of it but for the tokenizer.

    Args:
        path: the folder.
        typed: what errors call it.
        given: ``max_seq_len`` and ``context_length``, where they are.
    """
    if not (path / "config.json").exists():
        if any(CHECKPOINT_NAME.fullmatch(entry.name) for entry in path.iterdir()):
            raise UsageError(
                f"{typed} is the folder of a run of lmkit already",
                hint=f"lmkit train --load_checkpoint {typed} goes on with it",
            )
        raise MissingFileError(f"{typed} holds no model: it has no config.json")
    where = f"{typed.rstrip('/')}/config.json"
    content = read_config(path / "config.json")
    config = from_huggingface_config(content, where, given.get("max_seq_len"))
    weights = _renamed_weights(path, typed, config)
    length = given.get("context_length") or _trained_length(path, config)
    return content["model_type"], fresh_state(weights, config, length)


def _renamed_weights(path: Path, typed: str, config: ModelConfig) -> dict[str, Tensor]:
    """The weights of a Hugging Face folder in lmkit's names and order, all of them and no other."""
    expected = expected_weights(config)
    ours = {huggingface_name(name): name for name in expected}
    weights: dict[str, Tensor] = {}
    for theirs, tensor in read_folder(path):
        name = ours.get(theirs)
        if name is None and theirs.endswith(ANGLES):
            continue
        if name is None:
            raise MalformedError(f"{typed}: lmkit's model has no place for {theirs}")
        as_theirs = to_huggingface(name, expected[name], config.d_head)
        if tensor.shape != as_theirs.shape:
            raise MismatchError(
                f"{typed}: {theirs} is {tuple(tensor.shape)}, config.json makes it "
                f"{tuple(as_theirs.shape)}"
            )
        weights[name] = from_huggingface(name, tensor.float(), config.d_head).contiguous()
    return complete(weights, config, typed, {name: theirs for theirs, name in ours.items()})


def expected_weights(config: ModelConfig) -> dict[str, Tensor]:
    """The model's parameters without numbers, by lmkit's names."""
    with torch.device("meta"):
        return dict(Transformer(config).state_dict())


def complete(
    weights: dict[str, Tensor], config: ModelConfig, typed: str, names: Mapping[str, str]
) -> dict[str, Tensor]:
    """The weights in lmkit's order; a tied head is the embedding, and a missing one is refused.

    Args:
        weights: those found, by lmkit's names.
        config: the model's shape.
        typed: what errors call their source.
        names: what they are called there.
    """
    if config.tie_embeddings and EMBEDDING in weights:
        head = weights.get(HEAD)
        if head is not None and not torch.equal(head, weights[EMBEDDING]):
            raise MismatchError(
                f"{typed}: {names[HEAD]} is not {names[EMBEDDING]}, though they are said to be one "
                "(tie_word_embeddings)"
            )
        weights[HEAD] = weights[EMBEDDING]
    expected = expected_weights(config)
    missing = [name for name in expected if name not in weights]
    if missing:
        raise MismatchError(f"{typed} has no {names[missing[0]]}")
    return {name: weights[name] for name in expected}


def fresh_state(weights: dict[str, Tensor], config: ModelConfig, length: int) -> dict[str, Any]:
    """A checkpoint's state before the first step, but for the tokenizer."""
    return {
        "model": weights,
        "iteration": 0,
        "config": to_dict(config) | {"context_length": length},
    }


def _trained_length(path: Path, config: ModelConfig) -> int:
    """How long the sequences were that the model was trained on, as far as the folder says."""
    try:
        length = read_config(path / "tokenizer_config.json").get("model_max_length")
    except LmkitError:
        length = None
    # Where it is not known transformers writes 10^30.
    known = isinstance(length, int) and 0 < length <= config.max_seq_len
    return length if known and isinstance(length, int) else config.max_seq_len
