"""Ids to logits: a decoder-only Transformer on one page, in the names and conventions of CS336.

Pre-norm RMSNorm, rotary positions over adjacent pairs, causal attention, SwiGLU, no biases. Cost:
about 2 FLOPs a parameter and token forward, plus attention's 4 * T * d_model a layer and token.

Axes: B batch, T time, S time of the keys, E model width, H heads, D head width, P pairs (D / 2),
F feed-forward width, V vocabulary, N tokens (B * T). A dot stands for any leading axes.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lmkit.errors import UsageError
from lmkit.lm.cross_entropy import head_cross_entropy
from lmkit.lm.document_mask import document_mask
from lmkit.lm.rope_frequencies import scaled
from lmkit.model_config import ModelConfig
from lmkit.rope_scaling import RopeScaling


class RMSNorm(nn.Module):
    """Scales a vector to root mean square 1, then by a learned weight; computes in float32."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x_E: Tensor) -> Tensor:
        """Normalise the last axis; the result has the dtype of the input."""
        weight_E = self.weight.float()
        return functional.rms_norm(x_E.float(), weight_E.shape, weight_E, self.eps).to(x_E.dtype)


class RotaryEmbedding(nn.Module):
    """Turns the pair (2i, 2i + 1) by the angle position * theta ** (-2i / d_head).

    With ``scaling``, slow pairs turn slower still, as Llama 3.1 has it.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        d_head: int,
        max_seq_len: int,
        theta: float = 10_000.0,
        scaling: RopeScaling | None = None,
    ) -> None:
        super().__init__()
        if d_head % 2:
            raise UsageError(f"rotary positions turn pairs: a head width of {d_head} is odd")
        # Angles in float64: at position 10^5 a float32 angle is off by 0.004.
        frequency_P = theta ** (-torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)
        if scaling is not None:
            frequency_P = scaled(frequency_P, scaling)
        angle_TP = torch.outer(torch.arange(max_seq_len, dtype=torch.float64), frequency_P)
        self.register_buffer("cos", angle_TP.cos().float(), persistent=False)
        self.register_buffer("sin", angle_TP.sin().float(), persistent=False)

    @classmethod
    def of(cls, config: ModelConfig) -> "RotaryEmbedding":
        """The one that a model of this shape has."""
        return cls(config.d_head, config.max_seq_len, config.rope_theta, config.scaling)

    def forward(self, x_TD: Tensor, positions_T: Tensor) -> Tensor:
        """Turn ``x`` (..., T, D) as its positions (T,) or (..., T) say."""
        cos_TP, sin_TP = self.cos[positions_T], self.sin[positions_T]
        if x_TD.device.type in {"cpu", "cuda"} and not torch.compiler.is_compiling():
            # The same products and sums in one pass, three times as fast; the compiler fuses the
            # lines below as well, and has no complex numbers.
            pairs_TP = torch.view_as_complex(torch.unflatten(x_TD.float(), -1, (-1, 2)))
            turned_TP = pairs_TP * torch.complex(cos_TP, sin_TP)
            return torch.view_as_real(turned_TP).flatten(-2).to(x_TD.dtype)
        even_TP, odd_TP = torch.unflatten(x_TD.float(), -1, (-1, 2)).unbind(-1)
        turned_TP2 = torch.stack(
            (even_TP * cos_TP - odd_TP * sin_TP, even_TP * sin_TP + odd_TP * cos_TP), dim=-1
        )
        return turned_TP2.flatten(-2).to(x_TD.dtype)


class LayerCache:
    """The keys and values one layer has seen: room for ``max_seq_len`` of them, made once."""

    def __init__(self, max_seq_len: int) -> None:
        self.max_seq_len = max_seq_len
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def extend(self, k_HTD: Tensor, v_HTD: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of the next positions; return those of all positions so far."""
        if self._keys is None or self._values is None:
            shape = (*k_HTD.shape[:-2], self.max_seq_len, k_HTD.shape[-1])
            self._keys, self._values = k_HTD.new_empty(shape), v_HTD.new_empty(shape)
        start, self.length = self.length, self.length + k_HTD.shape[-2]
        self._keys[..., start : self.length, :] = k_HTD
        self._values[..., start : self.length, :] = v_HTD
        return self._keys[..., : self.length, :], self._values[..., : self.length, :]


class Attention(nn.Module):
    """Causal multi-head self-attention; with ``rope``, queries and keys are turned by position.

    With fewer ``n_kv_heads`` than heads, several heads of queries share one of keys and values
    (grouped-query attention). With ``qk_norm``, queries and keys are normalised before they turn.
    Heads are ``d_model / n_heads`` wide unless ``head_dim`` says otherwise.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        rope: RotaryEmbedding | None = None,
        *,
        n_kv_heads: int | None = None,
        qk_norm: bool = False,
        head_dim: int | None = None,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        n_kv_heads = n_kv_heads or n_heads
        if head_dim is None and d_model % n_heads:
            raise UsageError(f"d_model {d_model} is not divisible by n_heads {n_heads}")
        if n_heads % n_kv_heads:
            raise UsageError(f"n_heads {n_heads} is not divisible by n_kv_heads {n_kv_heads}")
        d_head = head_dim or d_model // n_heads
        # Three products, not a merged one: compiled for a CPU it was no faster, nor was merging
        # the first two of the feed-forward part.
        self.n_heads = n_heads
        self.n_kv_heads = n_kv_heads
        self.rope = rope
        self.q_proj = nn.Linear(d_model, n_heads * d_head, bias=False)
        self.k_proj = nn.Linear(d_model, n_kv_heads * d_head, bias=False)
        self.v_proj = nn.Linear(d_model, n_kv_heads * d_head, bias=False)
        self.output_proj = nn.Linear(n_heads * d_head, d_model, bias=False)
        self.q_norm = RMSNorm(d_head, norm_eps) if qk_norm else None
        self.k_norm = RMSNorm(d_head, norm_eps) if qk_norm else None

    def forward(
        self,
        x_TE: Tensor,
        positions_T: Tensor | None = None,
        cache: LayerCache | None = None,
        seen_TS: Tensor | None = None,
    ) -> Tensor:
        """Let each position of ``x`` (..., T, E) look at itself and those before it.

        ``positions`` are 0 to T - 1 unless given. With a ``cache``, ``x`` continues what it holds.
        ``seen``, bool of (..., 1, T, S), says instead which positions look at which.
        """
        start = cache.length if cache else 0
        q_HTD, k_HTD, v_HTD = (
            projection(x_TE).unflatten(-1, (heads, -1)).transpose(-3, -2)
            for projection, heads in (
                (self.q_proj, self.n_heads),
                (self.k_proj, self.n_kv_heads),
                (self.v_proj, self.n_kv_heads),
            )
        )
        if self.q_norm is not None and self.k_norm is not None:
            q_HTD, k_HTD = self.q_norm(q_HTD), self.k_norm(k_HTD)
        if self.rope is not None:
            if positions_T is None:
                positions_T = torch.arange(start, start + x_TE.shape[-2], device=x_TE.device)
            positions_1T = positions_T.unsqueeze(-2)  # the same for all heads
            q_HTD, k_HTD = self.rope(q_HTD, positions_1T), self.rope(k_HTD, positions_1T)
        if cache is not None:
            k_HTD, v_HTD = cache.extend(k_HTD, v_HTD)
        if self.n_kv_heads != self.n_heads:
            # Copies, which every device's fast kernels take; the cache holds each head once.
            sharing = self.n_heads // self.n_kv_heads
            k_HTD, v_HTD = (x.repeat_interleave(sharing, dim=-3) for x in (k_HTD, v_HTD))
        mixed_HTD = _causal_attention(q_HTD, k_HTD, v_HTD, start, seen_TS)
        return cast("Tensor", self.output_proj(mixed_HTD.transpose(-3, -2).flatten(-2)))


def _causal_attention(
    q_HTD: Tensor, k_HSD: Tensor, v_HSD: Tensor, start: int, seen_TS: Tensor | None
) -> Tensor:
    """Attend from positions ``start`` and on to all up to each, or to those that are ``seen``."""
    if seen_TS is not None:
        return functional.scaled_dot_product_attention(q_HTD, k_HSD, v_HSD, attn_mask=seen_TS)
    if start == 0:
        # torch's own backward stays: compiled products over 1 to 8 blocks of rows took 1.0 to 2.5
        # times as long on a CPU with AVX-512 (one thread; T 256 and 512, heads 32 and 64 wide), and
        # 1.4 to 2.4 times with AVX2 (T 256, heads 64 wide), as did blocks of columns; uncompiled, a
        # sample at a time, 0.9 to 1.3 times. Nor does the layout of its inputs matter.
        return functional.scaled_dot_product_attention(q_HTD, k_HSD, v_HSD, is_causal=True)
    T, S = q_HTD.shape[-2], k_HSD.shape[-2]
    seen_TS = torch.ones(T, S, dtype=torch.bool, device=q_HTD.device).tril(start) if T > 1 else None
    return functional.scaled_dot_product_attention(q_HTD, k_HSD, v_HSD, attn_mask=seen_TS)


class SwiGLU(nn.Module):
    """The feed-forward part: ``w2(silu(w1 x) * w3 x)``."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(d_model, d_ff, bias=False)
        self.w2 = nn.Linear(d_ff, d_model, bias=False)
        self.w3 = nn.Linear(d_model, d_ff, bias=False)

    def forward(self, x_E: Tensor) -> Tensor:
        """Transform each position of ``x`` (..., E) by itself."""
        gate_F = functional.silu(self.w1(x_E))
        return cast("Tensor", self.w2(gate_F * self.w3(x_E)))


class Block(nn.Module):
    """One layer: attention, then feed-forward, each on the normalised stream and added to it."""

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int,
        rope: RotaryEmbedding | None = None,
        *,
        n_kv_heads: int | None = None,
        qk_norm: bool = False,
        head_dim: int | None = None,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.ln1 = RMSNorm(d_model, norm_eps)
        self.attn = Attention(
            d_model,
            n_heads,
            rope,
            n_kv_heads=n_kv_heads,
            qk_norm=qk_norm,
            head_dim=head_dim,
            norm_eps=norm_eps,
        )
        self.ln2 = RMSNorm(d_model, norm_eps)
        self.ffn = SwiGLU(d_model, d_ff)

    def forward(
        self,
        x_TE: Tensor,
        positions_T: Tensor | None = None,
        cache: LayerCache | None = None,
        seen_TS: Tensor | None = None,
    ) -> Tensor:
        """Carry the residual stream ``x`` (..., T, E) through the layer."""
        x_TE = x_TE + self.attn(self.ln1(x_TE), positions_T, cache, seen_TS)
        return cast("Tensor", x_TE + self.ffn(self.ln2(x_TE)))


class Transformer(nn.Module):
    """The language model: ids (B, T) to float32 logits (B, T, V), or to a loss given targets.

    Args:
        config: the model's shape.
        generator: where the initial weights are drawn from; torch's global one unless given.

    Attributes:
        config: the model's shape.
        z_loss: how much the gradient of a loss pulls each normaliser of the softmax towards 1, by
            its squared logarithm; the loss itself is told without.
        document_end: the id that ends a document, beyond which attention does not look; None lets
            it look at all that came before. It is for whole windows: with a cache it has no effect.
        context_length: the window to use it with by default. The positions there are, until
            loading a checkpoint sets the length it was trained on: beyond it a model guesses.

    Raises:
        UsageError: more ids are given than there are positions.

    Examples:
        >>> import torch
        >>> model = Transformer(ModelConfig(vocab_size=300, d_model=64, n_layers=2, n_heads=4))
        >>> ids = torch.tensor([[5, 17, 42, 7]])
        >>> model(ids).shape  # of the next token at each position
        torch.Size([1, 4, 300])
        >>> loss = model(ids[:, :-1], ids[:, 1:])
        >>> loss.shape, loss.requires_grad
        (torch.Size([]), True)
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.context_length = config.max_seq_len
        self.z_loss = 0.0
        self.document_end: int | None = None
        # One table of angles for all layers.
        rope = RotaryEmbedding.of(config)
        self.token_embeddings = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(
            Block(
                config.d_model,
                config.n_heads,
                config.d_ff,
                rope,
                n_kv_heads=config.n_kv_heads,
                qk_norm=config.qk_norm,
                head_dim=config.head_dim,
                norm_eps=config.norm_eps,
            )
            for _ in range(config.n_layers)
        )
        self.ln_final = RMSNorm(config.d_model, config.norm_eps)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.token_embeddings.weight
        self._initialise(generator)

    def forward(
        self,
        ids_BT: Tensor,
        targets_BT: Tensor | None = None,
        cache: list[LayerCache] | None = None,
    ) -> Tensor:
        """Logits of the next token at each position, or with ``targets`` their mean loss (nats).

        Asking for the loss lets a large vocabulary go without ever holding all logits.
        """
        x_BTE = self.hidden(ids_BT, cache)
        if targets_BT is not None:
            return head_cross_entropy(x_BTE, self.lm_head.weight, targets_BT, z_loss=self.z_loss)
        return cast("Tensor", self.lm_head(x_BTE)).float()

    def hidden(self, ids_BT: Tensor, cache: list[LayerCache] | None = None) -> Tensor:
        """What the head sees: the normalised residual stream (B, T, E) after the last layer."""
        start = cache[0].length if cache else 0
        end, limit = start + ids_BT.shape[-1], self.config.max_seq_len
        if end > limit:
            raise UsageError(f"a sequence of {end} tokens is longer than max_seq_len {limit}")
        positions_T = torch.arange(start, end, device=ids_BT.device)
        seen_B1TS = None
        if self.document_end is not None and cache is None:
            seen_B1TS = document_mask(ids_BT, self.document_end)
        x_BTE = self.token_embeddings(ids_BT)
        for index, layer in enumerate(self.layers):
            x_BTE = layer(x_BTE, positions_T, cache[index] if cache else None, seen_B1TS)
        return cast("Tensor", self.ln_final(x_BTE))

    def extra_repr(self) -> str:
        """What the module's repr tells before its parts."""
        return f"{self.config!r}, {self.parameter_count():,} parameters"

    def next_token_logits(self, ids_BT: Tensor, cache: list[LayerCache]) -> Tensor:
        """Logits (B, V) of what follows the last of ``ids``, which continue what ``cache`` holds.

        The first call takes the prompt, each later one the ids that came since.
        """
        return cast("Tensor", self.lm_head(self.hidden(ids_BT, cache)[:, -1])).float()

    def new_cache(self) -> list[LayerCache]:
        """Empty caches, one a layer, for `next_token_logits`."""
        return [LayerCache(self.config.max_seq_len) for _ in self.layers]

    def parameter_count(self, *, trainable_only: bool = False) -> int:
        """How many numbers the model learns."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable_only)

    def flops_per_token(self, context_length: int) -> int:
        """Forward and backward: 6 a parameter used in a matrix product, and 12 * L * d * T.

        d is the width of all heads together. The head counts, the embedding look-up does not; this
        is the convention of MFU figures.
        """
        matrices = sum(p.numel() for p in self.parameters() if p.ndim > 1)
        tied = self.lm_head.weight is self.token_embeddings.weight
        used = matrices if tied else matrices - self.token_embeddings.weight.numel()
        width = self.config.n_heads * self.config.d_head
        return 6 * used + 12 * self.config.n_layers * width * context_length

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator | None) -> None:
        """Draw all matrices with deviation 0.02, those that write to the stream with less.

        2 * n_layers outputs add up in the residual stream; scaled by 1 / sqrt(2 * n_layers) their
        sum keeps its size at any depth (GPT-2's recipe).
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:  # noqa: PLR2004 - norms have one axis, and start at 1
                continue
            writes_stream = name.endswith(("attn.output_proj.weight", "ffn.w2.weight"))
            scale = 1 / math.sqrt(2 * self.config.n_layers) if writes_stream else 1.0
            parameter.normal_(std=0.02 * scale, generator=generator)
