"""What is typed, in a flag, a TOML file or Python, to what it means: frozen, checked settings.

Each setting is one dataclass field with its default, its sentence and its limits; flags, help,
TOML (`lmkit.config_file`) and checks follow from it. A config that exists is a config that makes
sense: every field is within its limits and the fields fit each other, so nobody behind this door
checks again. Errors are :class:`~lmkit.errors.UsageError` and name the flag as it is typed. Imports
no torch.

    >>> TrainConfig(batch_size=16, model=ModelConfig(d_model=256, n_heads=4)).model.d_head
    64
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from lmkit.byte_size import byte_size
from lmkit.errors import UsageError
from lmkit.model_config import ModelConfig
from lmkit.presets import expand_preset
from lmkit.setting import Setting, check_settings, near_miss, own_settings, setting, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

Config = TypeVar("Config")

# The tables of config.toml, in its order and that of help, which shows the longer names.
GROUPS: dict[str, str] = {
    "model": "Model",
    "training": "Training",
    "data": "Data and checkpoints",
    "logging": "Logging and evaluation",
    "device": "Device",
    "sampling": "Sampling",
}


@dataclass(frozen=True, repr=False)
class TrainConfig:
    """A training run: every flag of ``lmkit train``, the model's under ``model``.

    Raises:
        UsageError: a field is out of range, or two do not fit each other; it names the flag.

    Examples:
        >>> config = TrainConfig(
        ...     tokenizer="tokenizer/", train_data="train.npy", batch_size=16, max_time="3h50m"
        ... )
        >>> config.max_time
        13800.0
        >>> config.learning_rate
        0.0003
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)

    batch_size: int = setting(
        32,
        "Train on N sequences a micro-batch; auto takes as many as fit, and accumulates the rest.",
        group="training",
        at_least=1,
        metavar="N|auto",
        words=("auto",),
    )
    context_length: int = setting(
        512, "Make each sequence N tokens long.", group="training", at_least=1
    )
    optimizer: Literal["adamw", "muon"] = setting(
        "adamw",
        "Update with AdamW; or the blocks' matrices with Muon, scaled to AdamW's rates.",
        group="training",
        choices=("adamw", "muon"),
    )
    learning_rate: float = setting(
        3e-4, "Step size of the optimizer, the highest of the schedule.", group="training", above=0
    )
    weight_decay: float = setting(
        0.01, "Shrink weights by this times the learning rate.", group="training", at_least=0
    )
    beta1: float = setting(
        0.9, "AdamW's memory of the gradient.", group="training", at_least=0, below=1
    )
    beta2: float = setting(
        0.999, "AdamW's memory of the squared gradient.", group="training", at_least=0, below=1
    )
    decay_all: bool = setting(
        False, "Decay norms and embeddings too, not only matrices.", group="training"
    )
    max_grad_norm: float | None = setting(
        1.0, "Clip the gradient's norm to this; none to leave it be.", group="training", above=0
    )
    z_loss: float = setting(
        0.0,
        "Keep logits from drifting by this much, 1e-4 for example; not part of the loss told.",
        group="training",
        at_least=0,
    )
    ema_decay: float | None = setting(
        None,
        "Evaluate a moving average of the weights with this memory, 0.999 for example.",
        group="training",
        above=0,
        below=1,
    )
    max_iters: int = setting(100_000, "Stop after N steps in all.", group="training", at_least=0)
    grad_accum_steps: int = setting(
        1, "Add up N micro-batches for one step.", group="training", at_least=1
    )
    lr_schedule: Literal["constant", "cosine", "wsd"] = setting(
        "constant",
        "Learning rate over time; wsd is warm up, stay, decay.",
        group="training",
        choices=("constant", "cosine", "wsd"),
    )
    warmup_iters: int = setting(
        0, "Raise the learning rate linearly over the first N steps.", group="training", at_least=0
    )
    min_lr: float = setting(
        0.0, "Let the schedule end at this learning rate.", group="training", at_least=0
    )
    lr_decay_iters: int | None = setting(
        None, "Reach min_lr after N steps.  [default: max_iters]", group="training", at_least=1
    )
    max_time: float | None = setting(
        None,
        "Save and stop after this long, such as 3h50m; leave a batch queue time for the save.",
        group="training",
        metavar="TIME",
        above=0,
        duration=True,
    )
    max_bad_steps: int = setting(
        5,
        "Skip at most N updates in a row whose loss or gradient is not a number.",
        group="training",
        at_least=0,
    )
    on_bad_steps: Literal["stop", "rollback"] = setting(
        "stop",
        "After more of them: stop, or go back to the last good checkpoint and past that data.",
        group="training",
        choices=("stop", "rollback"),
    )
    seed: int = setting(
        0, "Seed of the weights and the order of the data.", group="training", at_least=0
    )

    vocab_path: str | None = setting(
        None, "Vocabulary, GPT-2 style JSON.", group="data", metavar="FILE"
    )
    merges_path: str | None = setting(
        None, "Merges of that vocabulary.", group="data", metavar="FILE"
    )
    tokenizer: str | None = setting(
        None,
        "Tokenizer folder, tokenizer.json or .tiktoken file, instead of these two.",
        group="data",
        metavar="PATH",
    )
    train_data: str | None = setting(
        None,
        "Token file to train on (.npy or .bin), folder of shards (or its address), or text, "
        "tokenized beside it once; several by weight as books/=3,code.npy=1.  [required]",
        group="data",
        metavar="PATH",
    )
    val_data: str | None = setting(
        None,
        "Token file, folder of shards, or text, to validate on.",
        group="data",
        metavar="PATH",
    )
    sampling: Literal["random", "epoch"] = setting(
        "random",
        "Learn from windows at random places, or from each window of the data once an epoch.",
        group="data",
        choices=("random", "epoch"),
    )
    respect_documents: bool = setting(
        False,
        "Let no window cross documents; those shorter than a window are padded.",
        group="data",
    )
    mask_documents: bool = setting(
        False,
        "Let attention look no further back than the <|endoftext|> before it.",
        group="data",
    )
    data_cache_dir: str | None = setting(
        None,
        "Keep copies of shards from elsewhere in this folder.  [default: ~/.cache/lmkit/data]",
        group="data",
        metavar="DIR",
    )
    data_cache_limit: str = setting(
        "20G",
        "Let these copies have this size at most; 0 reads ranges and keeps none.",
        group="data",
        metavar="SIZE",
    )
    checkpoint_dir: str = setting(
        "./checkpoints",
        "Folder of the run: checkpoints, metrics.jsonl, config.toml, train.log.",
        group="data",
        metavar="DIR",
    )
    load_checkpoint: str | None = setting(
        None,
        "Resume from this checkpoint, or from the latest of checkpoint_dir.",
        group="data",
        metavar="FILE|latest",
    )

    keep_last: int | None = setting(
        None,
        "Keep the N newest checkpoints only; the best by validation loss is best.pt.  "
        "[default: all]",
        group="data",
        at_least=1,
    )

    log_interval: int = setting(100, "Print the loss every N steps.", group="logging", at_least=1)
    eval_interval: int = setting(1000, "Validate every N steps.", group="logging", at_least=1)
    save_interval: int = setting(
        5000, "Save a checkpoint every N steps.", group="logging", at_least=1
    )
    num_eval_batches: int = setting(
        100, "Validate on N batches, always the same.", group="logging", at_least=1
    )

    sample_prompt: str | None = setting(
        None, "Let the model continue TEXT at each evaluation.", group="logging"
    )
    logger: str | None = setting(
        None,
        "Show the run in tensorboard or wandb too; both as tensorboard,wandb.",
        group="logging",
        metavar="NAME",
        choices=("tensorboard", "wandb"),
        several=True,
    )

    device: str = setting(
        "auto", "Compute on auto, cpu, cuda, cuda:0 or mps.", group="device", metavar="NAME"
    )
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto",
        "Number format of matrix products; auto takes bfloat16 where the device has it.",
        group="device",
        choices=("auto", "float32", "bfloat16"),
    )
    compile: Literal["auto", "on", "off"] = setting(
        "auto",
        "Compile the model with torch.compile; auto does where it works and pays.",
        group="device",
        choices=("auto", "on", "off"),
    )
    deterministic: bool = setting(
        False, "Use deterministic kernels only, also on a GPU.", group="device"
    )
    parallel: Literal["ddp", "fsdp"] = setting(
        "ddp",
        "With several processes, give each a copy of the model, or cut it over them: fsdp takes "
        "less memory, exchanges more, and saves folders checkpoint_<iter>.dcp.",
        group="device",
        choices=("ddp", "fsdp"),
    )

    def __post_init__(self) -> None:
        check_settings(self)
        self._check_data()
        if self.context_length > self.model.max_seq_len:
            raise UsageError(
                f"--context_length {self.context_length} is above "
                f"--max_seq_len {self.model.max_seq_len}",
                hint=f"lower --context_length or pass --max_seq_len {self.context_length}",
            )
        self._check_schedule()
        self._check_tokenizer()

    def _check_data(self) -> None:
        byte_size(self.data_cache_limit, "--data_cache_limit")
        if self.respect_documents and self.mask_documents:
            raise UsageError(
                "--mask_documents has no effect with --respect_documents, which leaves one "
                "document in a window",
                hint="pass one of them; --mask_documents pads nothing",
            )

    def _check_schedule(self) -> None:
        if self.min_lr > self.learning_rate:
            raise UsageError(
                f"--min_lr {self.min_lr} is above --learning_rate {self.learning_rate}"
            )
        if self.lr_schedule == "constant" and self.min_lr:
            raise UsageError(
                "--min_lr has no effect with --lr_schedule constant",
                hint="choose --lr_schedule cosine or wsd",
            )
        if self.lr_schedule != "constant" and self.warmup_iters > self.schedule_iters:
            raise UsageError(
                f"--warmup_iters {self.warmup_iters} is above the "
                f"{self.schedule_iters} steps of the schedule",
                hint="lower --warmup_iters, or raise --lr_decay_iters or --max_iters",
            )

    def _check_tokenizer(self) -> None:
        if self.tokenizer and (self.vocab_path or self.merges_path):
            raise UsageError(
                "--tokenizer and --vocab_path with --merges_path exclude each other",
                hint="pass the tokenizer folder alone, or the two files alone",
            )
        if bool(self.vocab_path) != bool(self.merges_path):
            missing = "--merges_path" if self.vocab_path else "--vocab_path"
            raise UsageError(
                f"{missing} is missing: a vocabulary and its merges come together",
                hint="or pass a tokenizer folder with --tokenizer",
            )

    def __repr__(self) -> str:
        return shown(self)

    @property
    def schedule_iters(self) -> int:
        """The step at which the schedule has reached ``min_lr``."""
        return self.max_iters if self.lr_decay_iters is None else self.lr_decay_iters

    def check_inputs(self) -> None:
        """Refuse a new run that names no tokenizer or no data; a resumed one has the former."""
        if not self.tokenizer and not self.vocab_path:
            raise UsageError(
                "no tokenizer given: pass --vocab_path and --merges_path, or --tokenizer"
            )
        if not self.train_data:
            raise UsageError("no data given: pass --train_data", hint="lmkit tokenize makes it")


def settings(config_class: type) -> dict[str, Setting]:
    """All settings of a config class by name, those of a nested model included, in help's order."""
    found = dict(own_settings(config_class))
    if config_class is TrainConfig:
        found = own_settings(ModelConfig) | found
    return found


def to_dict(config: object) -> dict[str, Any]:
    """A config as one flat dict of numbers, strings, booleans and None, for a checkpoint."""
    flat = {name: getattr(config, name) for name in own_settings(type(config))}
    if isinstance(config, TrainConfig):
        flat = to_dict(config.model) | flat
    return flat


def from_dict(config_class: type[Config], values: Mapping[str, object]) -> Config:
    """A config from a flat dict; what is absent takes its default, unknown names are refused."""
    known = settings(config_class)
    for name in values:
        if name not in known:
            raise UsageError(f"unknown setting {name}", hint=near_miss(name, known))
    own = {name: value for name, value in values.items() if name in own_settings(config_class)}
    if config_class is TrainConfig:
        of_model = {name: value for name, value in values.items() if name not in own}
        own["model"] = ModelConfig(**typing.cast("dict[str, Any]", of_model))
    return config_class(**own)


def train_config(given: Mapping[str, object]) -> TrainConfig:
    """What was given by name, a ``preset`` among it, to a config; what is given explicitly wins."""
    return from_dict(TrainConfig, expand_preset(given))
