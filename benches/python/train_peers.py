"""The models that a training step is measured against, each as ``step() -> loss``, same batch.

The loss stays on its device: asking for it is what would make the host wait.

``plain`` is lmkit's model as one writes it in PyTorch on a page: whole logits, nothing tuned.
``nanogpt`` is the shape of nanoGPT's (LayerNorm, learned positions, merged projections, GELU, tied
head), written anew, its feed-forward width chosen for the same work. All take AdamW, fused, with
the same settings, and clip the gradient's norm to 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Shape:
    """What all models of a row share."""

    vocab_size: int = 1000
    d_model: int = 256
    n_layers: int = 4
    n_heads: int = 4
    d_ff: int = 704
    batch: int = 16
    context: int = 256
    tied: bool = False  # nanogpt is in any case
    device: str = "cpu"

    def flops_per_token(self) -> float:
        """6 N + 12 L d T: N counts parameters used in matrix products, the head included."""
        d, layers = self.d_model, self.n_layers
        matrices = layers * (4 * d * d + 3 * d * self.d_ff) + self.vocab_size * d
        return 6.0 * matrices + 12.0 * layers * d * self.context


def lmkit_step(shape: Shape, *, compiled: bool) -> Step:
    """One update as lmkit's trainer does it."""
    from lmkit.config import TrainConfig
    from lmkit.lm.device import compile_model
    from lmkit.lm.model import Transformer
    from lmkit.lm.optimizer import clip_gradients, make_optimizer, step_if_finite
    from lmkit.model_config import ModelConfig

    config = TrainConfig(
        model=ModelConfig(
            vocab_size=shape.vocab_size,
            d_model=shape.d_model,
            n_layers=shape.n_layers,
            n_heads=shape.n_heads,
            d_ff=shape.d_ff,
            max_seq_len=shape.context,
        ),
        batch_size=shape.batch,
        context_length=shape.context,
    )
    model = Transformer(config.model, torch.Generator().manual_seed(0))
    optimizer = make_optimizer(model, config)
    if compiled:
        compile_model(model, print)

    def step() -> Tensor:
        inputs, targets = batch_of(shape)
        loss = model(inputs, targets)
        loss.backward()
        norm = clip_gradients(model.parameters(), 1.0)
        step_if_finite(optimizer, torch.stack((loss.detach(), norm)))
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def llama_step(shape: Shape, *, compiled: bool) -> Step:
    """One update of Hugging Face's LlamaForCausalLM."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_ff,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    forward = torch.compile(model) if compiled else model

    def loss_of(inputs: Tensor, _: Tensor) -> Tensor:
        return forward(input_ids=inputs, labels=inputs).loss  # shifts the labels itself

    return _step(shape, model, loss_of)


def plain_step(shape: Shape, *, compiled: bool) -> Step:
    """One update of a plain model of lmkit's shape."""
    model = Plain(shape)
    return _step(shape, model, torch.compile(model) if compiled else model)


def nanogpt_step(shape: Shape, *, compiled: bool) -> Step:
    """One update of a model of nanoGPT's shape."""
    model = NanoGPT(shape)
    return _step(shape, model, torch.compile(model) if compiled else model)


MAKERS: dict[str, Callable[..., Step]] = {
    "lmkit": lmkit_step,
    "llama": llama_step,
    "plain": plain_step,
    "nanogpt": nanogpt_step,
}


def batch_of(shape: Shape) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T), drawn anew."""
    ids = torch.randint(
        shape.vocab_size, (shape.batch, shape.context + 1), device=torch.device(shape.device)
    )
    return ids[:, :-1], ids[:, 1:]


def _step(shape: Shape, model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor]) -> Step:
    """AdamW and clipping around a model's loss."""
    model.to(shape.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01, fused=True)

    def step() -> Tensor:
        with torch.autocast(shape.device, torch.bfloat16, enabled=shape.device != "cpu"):
            loss = loss_of(*batch_of(shape))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


class Plain(nn.Module):
    """RMSNorm, rotary positions, SwiGLU; no biases."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.n_heads
        d = shape.d_model
        self.embed = nn.Embedding(shape.vocab_size, d)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.RMSNorm(d, eps=1e-5),
                    "norm2": nn.RMSNorm(d, eps=1e-5),
                    **{name: nn.Linear(d, d, bias=False) for name in "qkvo"},
                    "gate": nn.Linear(d, shape.d_ff, bias=False),
                    "up": nn.Linear(d, shape.d_ff, bias=False),
                    "down": nn.Linear(shape.d_ff, d, bias=False),
                }
            )
            for _ in range(shape.n_layers)
        )
        self.norm = nn.RMSNorm(d, eps=1e-5)
        self.head = nn.Linear(d, shape.vocab_size, bias=False)
        if shape.tied:
            self.head.weight = self.embed.weight
        head_width = d // shape.n_heads
        frequencies = 10_000.0 ** (-torch.arange(0, head_width, 2) / head_width)
        angles = torch.outer(torch.arange(shape.context), frequencies).repeat_interleave(2, -1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def turned(self, x: Tensor) -> Tensor:
        """Rotate the pairs of the last axis by their positions."""
        other = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
        return x * self.cos + other * self.sin

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, all logits held at once."""
        x = self.embed(ids)
        for layer in self.layers:
            y = layer["norm1"](x)
            q, k, v = (
                layer[name](y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in "qkv"
            )
            mixed = functional.scaled_dot_product_attention(
                self.turned(q), self.turned(k), v, is_causal=True
            )
            x = x + layer["o"](mixed.transpose(1, 2).flatten(-2))
            y = layer["norm2"](x)
            x = x + layer["down"](functional.silu(layer["gate"](y)) * layer["up"](y))
        logits = self.head(self.norm(x))
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class NanoGPT(nn.Module):
    """LayerNorm, learned positions, GELU, tied head; no biases."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.n_heads
        d, wide = shape.d_model, 3 * shape.d_ff // 2
        self.embed = nn.Embedding(shape.vocab_size, d)
        self.positions = nn.Embedding(shape.context, d)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(d, bias=False),
                    "qkv": nn.Linear(d, 3 * d, bias=False),
                    "o": nn.Linear(d, d, bias=False),
                    "norm2": nn.LayerNorm(d, bias=False),
                    "up": nn.Linear(d, wide, bias=False),
                    "down": nn.Linear(wide, d, bias=False),
                }
            )
            for _ in range(shape.n_layers)
        )
        self.norm = nn.LayerNorm(d, bias=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, all logits held at once."""
        x = self.embed(ids) + self.positions.weight
        for layer in self.layers:
            q, k, v = (
                part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for part in layer["qkv"](layer["norm1"](x)).chunk(3, -1)
            )
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + layer["o"](mixed.transpose(1, 2).flatten(-2))
            x = x + layer["down"](functional.gelu(layer["up"](layer["norm2"](x))))
        logits = functional.linear(self.norm(x), self.embed.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
