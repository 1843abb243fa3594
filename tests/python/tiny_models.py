"""Models of a few thousand parameters for the tests of what goes to other tools and comes back."""

from pathlib import Path

import torch

from lmkit.config import to_dict
from lmkit.lm.checkpoint import write_checkpoint
from lmkit.lm.model import Transformer
from lmkit.model_config import ModelConfig
from lmkit.tokenizer import Tokenizer

ENDOFTEXT = "<|endoftext|>"
BASE = {"vocab_size": 310, "d_model": 32, "n_layers": 2, "n_heads": 4, "d_ff": 48}
# name of the kind -> what it has beside, and the architecture that computes it.
KINDS = {
    "plain": ({}, "llama"),
    "grouped": ({"n_kv_heads": 2}, "llama"),
    "tied": ({"tie_embeddings": True}, "llama"),
    "grouped_and_tied": ({"n_kv_heads": 1, "tie_embeddings": True}, "llama"),
    "other_numbers": ({"rope_theta": 500.0, "norm_eps": 1e-3, "head_dim": 6}, "llama"),
    "scaled": ({"rope_scaling": "8,1,4,16", "rope_theta": 500.0}, "llama"),
    "normalised": ({"qk_norm": True}, "qwen3"),
    "normalised_and_grouped": ({"qk_norm": True, "n_kv_heads": 2, "head_dim": 16}, "qwen3"),
    "undivided": ({"n_heads": 3, "head_dim": 10}, "mistral"),
}


def shape(kind: str, **others: object) -> ModelConfig:
    """The configuration of a kind of model."""
    return ModelConfig(**{**BASE, "max_seq_len": 48, **KINDS[kind][0], **others})


def small_tokenizer() -> Tokenizer:
    """A vocabulary of a few merges, learned here."""
    text = "the cat sat on the mat, and then the rat sat on the cat; 12 times, 123 in all.\n" * 20
    return Tokenizer.train(texts=[text], vocab_size=300, special_tokens=[ENDOFTEXT, "<|other|>"])


def random_model(config: ModelConfig, seed: int = 0) -> Transformer:
    """A model all of whose numbers are drawn, those of the norms too, so that none is neutral."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(config, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if parameter.ndim == 1 else 0.2 * noise)
    return model.eval()


def checkpoint_of(model: Transformer, tokenizer: Tokenizer, path: Path, **more: object) -> Path:
    """The checkpoint of a run with this model, as far as export reads one."""
    state = {
        "format": 1,
        "model": model.state_dict(),
        "iteration": 7,
        "config": to_dict(model.config) | {"context_length": 24},
        "tokenizer": tokenizer.to_json(),
    }
    path.parent.mkdir(exist_ok=True)
    write_checkpoint(path, state | more)
    return path


def some_ids(length: int, seed: int = 0) -> torch.Tensor:
    """Two rows of ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(BASE["vocab_size"], (2, length), generator=generator)
