"""A checkpoint of the course's script, ``{"model", "optimizer", "iteration"}``, to one of a run.

Such a file holds tensors and no configuration. Their shapes tell the vocabulary, the width, the
layers, the feed-forward width and the heads of keys and values; how many heads there are, and the
base of the rotary positions, has to be given, for it can be read from nothing. AdamW's state is
taken over where it is one state a parameter, in the parameters' order, as torch saves it.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lmkit.config import TrainConfig, from_dict, to_dict
from lmkit.errors import MismatchError
from lmkit.lm.checkpoint import Notice, shape_differences
from lmkit.lm.model import Transformer
from lmkit.lm.optimizer import make_optimizer
from lmkit.model_config import ModelConfig
from lmkit.setting import own_settings

# What torch.compile, DistributedDataParallel and Lightning put before names.
WRAPPERS = ("_orig_mod.", "module.", "model.")
# How the two moments and the count of steps are called: by torch, and where the course's text is
# followed to the letter.
MOMENTS = (("exp_avg", "exp_avg_sq", "step"), ("m", "v", "t"), ("m", "v", "step"))
LAYER = re.compile(r"layers\.(\d+)\.")


def with_config(
    state: Mapping[str, Any], given: Mapping[str, object], name: str, notice: Notice
) -> dict[str, Any]:
    """The state with all that a run's checkpoint has, but for the tokenizer; a run's own as it is.

    Args:
        state: what the checkpoint holds.
        given: settings that are given, ``n_heads`` among them.
        name: what errors call the checkpoint.
        notice: told what had to be assumed.

    Raises:
        MismatchError: it is no such model, ``n_heads`` is not given, or what is given contradicts
            the shapes.
    """
    if "config" in state:
        return dict(state)
    weights = _unwrapped(state["model"])
    shape = _shape(weights, given, name, notice)
    with torch.device("meta"):
        model = Transformer(shape)
    if shape.tie_embeddings:
        weights.setdefault("lm_head.weight", weights["token_embeddings.weight"])
    differences = shape_differences(model.state_dict(), weights)
    if differences:
        raise MismatchError(f"{name} is of another kind of model: {'; '.join(differences)}")
    length = given.get("context_length", min(TrainConfig.context_length, shape.max_seq_len))
    known = {n: value for n, value in given.items() if n in ("optimizer", "decay_all")}
    config = from_dict(TrainConfig, {**to_dict(shape), **known, "context_length": length})
    result: dict[str, Any] = {
        "model": {own: weights[own] for own in model.state_dict()},
        "iteration": int(state["iteration"]),
        "config": to_dict(shape) | {"context_length": length},
    }
    moments = _moments(state.get("optimizer"), model, weights, config)
    if moments is None:
        notice(f"the optimizer's state in {name} cannot be taken over: it begins anew")
    else:
        result["optimizer"] = moments
    return result


def _unwrapped(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under their own names, without the tables of angles some models save."""
    weights = dict(model)
    for wrapper in WRAPPERS:
        if weights and all(name.startswith(wrapper) for name in weights):
            weights = {name.removeprefix(wrapper): weight for name, weight in weights.items()}
    return {name: weight for name, weight in weights.items() if "rope" not in name}


def _shape(
    weights: Mapping[str, Tensor], given: Mapping[str, object], name: str, notice: Notice
) -> ModelConfig:
    """The shape that the tensors have, and where they are silent the one that is given."""
    try:
        found = _told_by(weights)
    except (KeyError, ValueError, AttributeError) as error:
        raise MismatchError(
            f"{name} holds no configuration, and no model that lmkit knows: it has no "
            f"{error.args[0]}",
            hint="its weights must have the names of CS336, layers.0.attn.q_proj.weight and so on",
        ) from error
    for setting, value in found.items():
        if setting in given and given[setting] != value:
            raise MismatchError(
                f"{name} is of another model: --{setting} {given[setting]} "
                f"(its tensors have {value})"
            )
    if "n_heads" not in given:
        raise MismatchError(
            f"{name} holds no configuration, and its tensors do not say how many heads it has",
            hint="pass the --n_heads it was trained with, and --rope_theta if that was not 10000",
        )
    heads = _heads(found, int(str(given["n_heads"])), name)
    named = {n: given[n] for n in own_settings(ModelConfig) if n in given}
    shape = from_dict(ModelConfig, named | found | heads)
    texts = {"rope_theta": f"{shape.rope_theta:g}", "max_seq_len": f"{shape.max_seq_len}"}
    assumed = [f"--{setting} {text}" for setting, text in texts.items() if setting not in given]
    if assumed:
        notice(f"{name} holds no configuration: taking {' and '.join(assumed)}")
    return shape


def _heads(found: dict[str, Any], n_heads: int, name: str) -> dict[str, int]:
    """What follows of the widths of queries and keys, which are taken out of ``found``."""
    width, kv_width = found.pop("q_width"), found.pop("kv_width")
    if width % n_heads:
        raise MismatchError(
            f"{name}: --n_heads {n_heads} does not divide its queries, which are {width} wide"
        )
    d_head = width // n_heads
    heads = {}
    if width != found["d_model"]:
        heads["head_dim"] = d_head
    if kv_width != width:
        heads["n_kv_heads"] = max(1, kv_width // d_head)
    return heads


def _told_by(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the tensors' shapes say; a KeyError with the name of one that is not there."""
    vocab_size, d_model = weights["token_embeddings.weight"].shape
    layers = [int(match[1]) for match in map(LAYER.match, weights) if match]
    found = {
        "vocab_size": vocab_size,
        "d_model": d_model,
        "n_layers": max(layers, default=-1) + 1,
        "d_ff": weights["layers.0.ffn.w1.weight"].shape[0],
        "q_width": weights["layers.0.attn.q_proj.weight"].shape[0],
        "kv_width": weights["layers.0.attn.k_proj.weight"].shape[0],
        "qk_norm": "layers.0.attn.q_norm.weight" in weights,
    }
    head = weights.get("lm_head.weight")
    tied = head is None or _same_storage(head, weights["token_embeddings.weight"])
    return found | {"tie_embeddings": tied}


def _same_storage(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.data_ptr() == other.data_ptr()


def _moments(
    optimizer: object,
    model: Transformer,
    weights: Mapping[str, Tensor],
    config: TrainConfig,
) -> dict[str, Any] | None:
    """The state for lmkit's optimizer with the moments of another AdamW's; None where none fit.

    ``model`` has no numbers, only shapes.
    """
    if config.optimizer != "adamw" or not isinstance(optimizer, Mapping):
        return None
    names = _parameter_order(optimizer, model, weights, config)
    states = optimizer.get("state", {})
    if names is None or not isinstance(states, Mapping):
        return None
    converted: dict[str, dict[str, Tensor]] = {}
    for number, name in enumerate(names):
        found = _one_moment(states.get(number), weights[name])
        if found is None:
            return None
        converted[name] = found
    ours = make_optimizer(model, config)
    by_identity = {id(parameter): name for name, parameter in model.named_parameters()}
    order = [by_identity[id(p)] for group in ours.param_groups for p in group["params"]]
    packed = ours.state_dict()
    packed["state"] = {number: converted[name] for number, name in enumerate(order)}
    return packed


def _parameter_order(
    optimizer: Mapping[str, Any],
    model: Transformer,
    weights: Mapping[str, Tensor],
    config: TrainConfig,
) -> list[str] | None:
    """The names of the parameters in the order in which the optimizer numbers them."""
    try:
        sizes = [len(group["params"]) for group in optimizer["param_groups"]]
    except (KeyError, TypeError):
        return None
    by_identity = {id(parameter): name for name, parameter in model.named_parameters()}
    if len(sizes) == 1:  # all of model.parameters(), which have the order of the saved weights
        names = [name for name in weights if name in by_identity.values()]
        return names if sizes[0] == len(names) else None
    groups = make_optimizer(model, config).param_groups
    if sizes != [len(group["params"]) for group in groups]:
        return None
    return [by_identity[id(p)] for group in groups for p in group["params"]]


def _one_moment(state: object, weight: Tensor) -> dict[str, Tensor] | None:
    """One parameter's state as torch's AdamW has it; None where it is something else."""
    if not isinstance(state, Mapping):
        return None
    for first, second, step in MOMENTS:
        if {first, second, step} <= state.keys():
            moments = [state[first], state[second]]
            if any(not isinstance(m, Tensor) or m.shape != weight.shape for m in moments):
                return None
            taken = float(state[step])
            if not math.isfinite(taken):
                return None
            return {"step": torch.tensor(taken), "exp_avg": moments[0], "exp_avg_sq": moments[1]}
    return None
