"""A model's shape to the ``config.json`` of Hugging Face transformers, and back.

Of the architectures there, Llama is what lmkit's model is; with normalised queries and keys it is
Qwen3, and with heads that the model's width is no multiple of, Mistral without a window. Both
spellings of the rotary base are written (``rope_theta``, and ``rope_parameters`` of transformers 5)
and read. What a file says that lmkit's model cannot do is refused by the name of its field: a
model that computes something else is worse than none.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmkit.config import from_dict
from lmkit.durable import refused
from lmkit.errors import MalformedError, MissingFileError, UsageError
from lmkit.model_config import ModelConfig
from lmkit.rope_scaling import RopeScaling
from lmkit.setting import own_settings

# model_type -> its class for language models.
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# The fields of ModelConfig that a config.json can say; a new one is refused until it is here.
_SAID = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "max_seq_len": "max_position_embeddings",
    "d_ff": "intermediate_size",
    "rope_theta": "rope_theta",
    "n_kv_heads": "num_key_value_heads",
    "qk_norm": "model_type",
    "tie_embeddings": "tie_word_embeddings",
    "head_dim": "head_dim",
    "norm_eps": "rms_norm_eps",
    "rope_scaling": "rope_scaling",
}
_REQUIRED = ("vocab_size", "d_model", "n_layers", "n_heads", "max_seq_len", "d_ff")
_COUNTS = (
    *(_SAID[name] for name in (*_REQUIRED, "n_kv_heads", "head_dim")),
    "sliding_window",
)
# What transformers takes where a file is silent and the architectures differ.
_SILENT_HEAD_DIM = {"qwen3": 128}
_SILENT_KV_HEADS = {"mistral": 8, "qwen3": 32}
_SILENT_EPS = 1e-6
_SILENT_THETA = 10_000.0
_SILENT_WINDOW = {"mistral": 4096}


def architecture(config: ModelConfig) -> str:
    """The ``model_type`` that computes what this model computes.

    Raises:
        UsageError: none does; the message names the setting.
    """
    for name, one in own_settings(ModelConfig).items():
        if name not in _SAID and getattr(config, name) != one.default:
            raise UsageError(
                f"no architecture of Hugging Face that lmkit writes has {one.flag} "
                f"{getattr(config, name)}",
                hint="--format safetensors keeps the weights under lmkit's own names",
            )
    if config.qk_norm:
        return "qwen3"
    return "mistral" if config.d_model % config.n_heads else "llama"


def to_huggingface_config(config: ModelConfig, end_id: int | None, dtype: str) -> dict[str, Any]:
    """The content of ``config.json``.

    Args:
        config: the model's shape.
        end_id: the id of the token that ends a text and begins the next; None where there is none.
        dtype: of the weights: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    """
    kind = architecture(config)
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.scaling is not None:
        rope = {"rope_type": "llama3"} | dataclasses.asdict(config.scaling)
    content: dict[str, Any] = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads or config.n_heads,
        "head_dim": config.d_head,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.scaling is None else rope,
        "rope_parameters": rope | {"rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_embeddings,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": end_id,
        "eos_token_id": end_id,
        "pad_token_id": None,
        "torch_dtype": dtype,
    }
    if kind == "llama":
        content |= {"attention_bias": False, "mlp_bias": False}
    elif kind == "mistral":
        content |= {"sliding_window": None}
    else:
        content |= {"attention_bias": False, "use_sliding_window": False, "sliding_window": None}
    return content


def read_config(path: Path) -> dict[str, Any]:
    """The object in a ``config.json``."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no {path}") from error
    except OSError as error:
        raise refused("read", path, error) from error
    except ValueError as error:
        raise MalformedError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise MalformedError(f"{path} is not a JSON object")
    return content


def from_huggingface_config(
    content: Mapping[str, Any], where: str, max_seq_len: int | None = None
) -> ModelConfig:
    """The shape of the model that a ``config.json`` describes.

    Args:
        content: the file's object.
        where: what errors call the file.
        max_seq_len: let the model see fewer positions than the file says.

    Raises:
        MalformedError: lmkit's model cannot be that one; the message names the field.
    """
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise MalformedError(f"{where}: model_type is {kind!r}; lmkit's model can be {known}")
    missing = [_SAID[name] for name in _REQUIRED if content.get(_SAID[name]) is None]
    if missing:
        raise MalformedError(f"{where} has no {missing[0]}")
    for field in _COUNTS:
        value = content.get(field)
        if isinstance(value, bool) or not isinstance(value, int | None):
            raise MalformedError(f"{where}: {field} is {value!r}, which is no whole number")
    values: dict[str, Any] = {name: content[_SAID[name]] for name in _REQUIRED}
    positions = values["max_seq_len"]
    if max_seq_len is not None:
        if max_seq_len > positions:
            raise UsageError(f"--max_seq_len {max_seq_len} is above the model's {positions}")
        values["max_seq_len"] = max_seq_len
    _refuse_what_differs(content, kind, values["max_seq_len"], where)
    values |= {
        "n_kv_heads": _said(content, "num_key_value_heads", _SILENT_KV_HEADS.get(kind)),
        "head_dim": _said(content, "head_dim", _SILENT_HEAD_DIM.get(kind)),
        "norm_eps": _said(content, "rms_norm_eps", _SILENT_EPS),
        **_rope(content, where),
        "tie_embeddings": bool(content.get("tie_word_embeddings", False)),
        "qk_norm": kind == "qwen3",
    }
    if values["n_kv_heads"] == values["n_heads"]:
        values["n_kv_heads"] = None
    if values["head_dim"] and values["head_dim"] * values["n_heads"] == values["d_model"]:
        values["head_dim"] = None
    try:
        return from_dict(ModelConfig, values)
    except UsageError as error:
        raise MalformedError(f"{where}: {_in_its_words(str(error))}") from error


def _said(content: Mapping[str, Any], name: str, silent: object) -> object:
    """A field, or what transformers takes where the file does not have it; null may mean a lot."""
    return content.get(name, silent)


def _in_its_words(message: str) -> str:
    """An error about settings of lmkit in the names of config.json."""
    for name, theirs in _SAID.items():
        message = message.replace(f"--{name} ", f"{theirs} ")
    return message


def _refuse_what_differs(
    content: Mapping[str, Any], kind: str, max_seq_len: int, where: str
) -> None:
    """Raise where a field makes the model compute what lmkit's cannot."""
    if "quantization_config" in content:
        raise MalformedError(
            f"{where}: quantization_config: the weights are quantized",
            hint="take the model's unquantized weights",
        )
    activation = content.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise MalformedError(f"{where}: hidden_act is {activation!r}; lmkit's model has silu")
    for name in ("attention_bias", "mlp_bias"):
        if content.get(name):
            raise MalformedError(f"{where}: {name} is true; lmkit's model has no biases")
    layers = content.get("layer_types") or []
    if not isinstance(layers, list) or any(one != "full_attention" for one in layers):
        raise MalformedError(f"{where}: layer_types has more than full_attention")
    window = content.get("sliding_window", _SILENT_WINDOW.get(kind))
    used = content.get("use_sliding_window", False) if kind == "qwen3" else True
    # A window that no sequence is longer than hides nothing.
    if used and window is not None and window < max_seq_len:
        raise MalformedError(
            f"{where}: sliding_window is {window}; lmkit's attention sees all positions",
            hint=f"--max_seq_len {window} imports it for sequences that the window does not cut",
        )


def _rope(content: Mapping[str, Any], where: str) -> dict[str, object]:
    """The rotary positions' base and scaling, in the old spelling or the new.

    Scaling is Llama 3's or none; any other is refused.
    """
    found: dict[str, object] = {"rope_theta": content.get("rope_theta", _SILENT_THETA)}
    partial = content.get("partial_rotary_factor")
    for name in ("rope_parameters", "rope_scaling"):  # the latter wins, as in transformers
        rope = content.get(name) or {}
        if not isinstance(rope, dict) or any(isinstance(one, dict) for one in rope.values()):
            raise MalformedError(f"{where}: {name} is not one set of numbers for all layers")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind == "llama3":
            found["rope_scaling"] = _llama3(rope, f"{where}: {name}")
        elif kind != "default":
            raise MalformedError(f"{where}: {name} has rope_type {kind!r}; lmkit has llama3 alone")
        found["rope_theta"] = rope.get("rope_theta", found["rope_theta"])
        partial = rope.get("partial_rotary_factor", partial)
    if partial not in (None, 1, 1.0):
        raise MalformedError(
            f"{where}: partial_rotary_factor is {partial}; lmkit turns all of a head"
        )
    return found


def _llama3(rope: Mapping[str, Any], where: str) -> str:
    """The setting ``rope_scaling`` that says what these numbers say."""
    names = [field.name for field in dataclasses.fields(RopeScaling)]
    for name in names:
        if isinstance(rope.get(name), bool) or not isinstance(rope.get(name), int | float):
            raise MalformedError(f"{where} has no number {name}")
    return str(RopeScaling(**{name: rope[name] for name in names}))
