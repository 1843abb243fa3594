"""The shape of a model, as flags, TOML and Python name it: frozen and checked. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from lmkit.errors import UsageError
from lmkit.rope_scaling import RopeScaling
from lmkit.setting import check_settings, setting, shown


@dataclass(frozen=True, repr=False)
class ModelConfig:
    """The shape of a Transformer: all that its tensors follow from.

    Its fields are the flags of ``lmkit train --help`` under *Model*, with the same defaults.

    Raises:
        UsageError: a field is out of range, or two do not fit each other; it names the flag.

    Examples:
        >>> shape = ModelConfig(vocab_size=1000, d_model=256, n_layers=4, n_heads=4, d_ff=704)
        >>> shape.d_head
        64
        >>> ModelConfig(d_model=100, n_heads=3)
        Traceback (most recent call last):
            ...
        lmkit.errors.UsageError: --d_model 100 is not divisible by --n_heads 3
    """

    vocab_size: int = setting(
        10_000, "Give the model N token ids; the data's must lie below.", group="model", at_least=1
    )
    d_model: int = setting(768, "Make each hidden state N wide.", group="model", at_least=2)
    n_layers: int = setting(12, "Stack N blocks.", group="model", at_least=1)
    n_heads: int = setting(
        12, "Split attention into N heads; must divide d_model.", group="model", at_least=1
    )
    max_seq_len: int = setting(
        1024, "Let the model see at most N tokens at once.", group="model", at_least=1
    )
    rope_theta: float = setting(
        10_000.0, "Base of the rotary position frequencies.", group="model", above=0
    )
    d_ff: int = setting(
        3072,
        "Make the feed-forward layer N wide; 8/3 of d_model is usual.",
        group="model",
        at_least=1,
    )

    n_kv_heads: int | None = setting(
        None,
        "Let the heads share N heads of keys and values; must divide n_heads.  [default: n_heads]",
        group="model",
        at_least=1,
    )
    qk_norm: bool = setting(False, "Normalise queries and keys.", group="model")
    tie_embeddings: bool = setting(
        False, "Use the embedding's weights as the head's too.", group="model"
    )
    head_dim: int | None = setting(
        None,
        "Make each attention head N wide.  [default: d_model / n_heads]",
        group="model",
        at_least=2,
    )
    norm_eps: float = setting(
        1e-5, "Add this to the mean square in norms.", group="model", at_least=0
    )
    rope_scaling: str | None = setting(
        None,
        "Slow rotary positions down as Llama 3.1 does, by FACTOR,LOW,HIGH,LENGTH; its own are "
        "8,1,4,8192.",
        group="model",
        metavar="NUMBERS",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        _ = self.scaling  # refuses what is none
        if self.n_kv_heads is not None and self.n_heads % self.n_kv_heads:
            raise UsageError(
                f"--n_heads {self.n_heads} is not divisible by --n_kv_heads {self.n_kv_heads}"
            )
        if self.head_dim is not None:
            if self.head_dim % 2:
                raise UsageError(
                    f"--head_dim {self.head_dim} is odd; rotary positions need an even width"
                )
            return
        if self.d_model % self.n_heads:
            raise UsageError(
                f"--d_model {self.d_model} is not divisible by --n_heads {self.n_heads}",
                hint=f"with this --d_model, --n_heads can be {_even_divisors(self.d_model)}",
            )
        if self.d_head % 2:
            raise UsageError(
                f"--d_model {self.d_model} with --n_heads {self.n_heads} makes heads "
                f"{self.d_head} wide; rotary positions need an even width",
                hint=f"with this --d_model, --n_heads can be {_even_divisors(self.d_model)}",
            )

    def __repr__(self) -> str:
        return shown(self, _SHAPE)

    @property
    def scaling(self) -> RopeScaling | None:
        """What ``rope_scaling`` says."""
        return None if self.rope_scaling is None else RopeScaling.parse(self.rope_scaling)

    @property
    def d_head(self) -> int:
        """The width of one attention head."""
        return self.head_dim or self.d_model // self.n_heads


# What every repr of a model's shape tells.
_SHAPE = ("vocab_size", "d_model", "n_layers", "n_heads", "max_seq_len", "rope_theta", "d_ff")


def _even_divisors(d_model: int) -> str:
    fitting = [n for n in range(1, min(d_model, 128) + 1) if d_model % (2 * n) == 0]
    return ", ".join(str(n) for n in fitting) or "nothing: take an even --d_model"
