"""lmkit's weights to Hugging Face's names and order, and back; no bit of a number changes.

A Llama of Hugging Face rotates dimension i of a head together with i + D / 2, lmkit 2i together
with 2i + 1. Both turn the pair by the same angle, so the rows of the query and key projections,
and what normalises them, only stand in another order. Values are views: nothing is copied here.

Axes: H heads, P pairs (D / 2), D head width; that of the model's width, if any, follows unnamed.
"""

import re

import torch
from torch import Tensor

_NAMES = {
    "token_embeddings.weight": "model.embed_tokens.weight",
    "ln_final.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
_PARTS = {
    "ln1": "input_layernorm",
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.output_proj": "self_attn.o_proj",
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "ln2": "post_attention_layernorm",
    "ffn.w1": "mlp.gate_proj",
    "ffn.w2": "mlp.down_proj",
    "ffn.w3": "mlp.up_proj",
}
_ROTATED = ("q_proj.weight", "k_proj.weight", "q_norm.weight", "k_norm.weight")


def huggingface_name(name: str) -> str:
    """What Hugging Face calls the parameter that lmkit calls ``name``.

    Examples:
        >>> huggingface_name("layers.3.ffn.w1.weight")
        'model.layers.3.mlp.gate_proj.weight'
    """
    if name in _NAMES:
        return _NAMES[name]
    found = re.fullmatch(r"layers\.(\d+)\.(.+)\.weight", name)
    if found is None or found[2] not in _PARTS:
        raise KeyError(name)
    return f"model.layers.{found[1]}.{_PARTS[found[2]]}.weight"


def to_huggingface(name: str, weight: Tensor, d_head: int) -> Tensor:
    """The weight that lmkit calls ``name`` in the order of Hugging Face: first halves, then second.

    Args:
        name: lmkit's name of the parameter.
        weight: its value.
        d_head: the width of a head.
    """
    if not name.endswith(_ROTATED):
        return weight
    pairs_HP2 = torch.unflatten(weight, 0, (-1, d_head // 2, 2))
    return pairs_HP2.transpose(1, 2).flatten(0, 2)


def from_huggingface(name: str, weight: Tensor, d_head: int) -> Tensor:
    """What `to_huggingface` was given: the weight in lmkit's order, pair after pair."""
    if not name.endswith(_ROTATED):
        return weight
    halves_H2P = torch.unflatten(weight, 0, (-1, 2, d_head // 2))
    return halves_H2P.transpose(1, 2).flatten(0, 2)
