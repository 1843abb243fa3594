"""What was given to a run that can take its first step: everything is checked here, at the door.

Device, tokenizer, data, model, optimizer and folder are made in the order the user reads of them.
Nothing in the folder changes until all of them fit each other, so that a run refused here leaves
everything as it was.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lmkit.config import TrainConfig, from_dict
from lmkit.config_file import to_toml
from lmkit.counted import counted
from lmkit.errors import MismatchError, UsageError
from lmkit.lm import advice
from lmkit.lm.batches import TokenBatches, evaluation_windows
from lmkit.lm.course_checkpoint import with_config
from lmkit.lm.device import (
    Device,
    compile_blocks,
    compile_model,
    find_device,
    resolve,
    set_deterministic,
)
from lmkit.lm.distributed import Ranks
from lmkit.lm.document_mask import end_of_document_id
from lmkit.lm.estimate import Estimate, compiling_pays, estimate
from lmkit.lm.generate import first_ids
from lmkit.lm.loggers import check_installed
from lmkit.lm.micro_batch import with_largest_micro_batch
from lmkit.lm.model import Transformer
from lmkit.lm.optimizer import Optimizer, make_optimizer
from lmkit.lm.report import Report
from lmkit.lm.resume import (
    TOKENIZER_FLAGS,
    Progress,
    checked,
    compare_exactness,
    exactness_settings,
    given_settings,
    open_checkpoint,
    restore_run,
    resumed_config,
)
from lmkit.lm.run_folder import RunFolder, refuse_another_run
from lmkit.lm.sharding import (
    check_sharding,
    draw_weights,
    empty_model,
    is_cut,
)
from lmkit.lm.training_data import TrainingData, open_all, open_data
from lmkit.lm.weight_average import WeightAverage
from lmkit.presets import expand_preset
from lmkit.run_place import run_folder_of
from lmkit.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prepared:
    """A run before its next step.

    Attributes:
        folder: the run's; None where another rank has it.
        progress: how far it has come.
        checkpoint: what it goes on from, as printed; None for a new run.
    """

    config: TrainConfig
    device: Device
    folder: RunFolder | None
    tokenizer: Tokenizer
    train_data: TrainingData
    val_data: TrainingData | None
    model: Transformer
    optimizer: Optimizer
    average: WeightAverage | None
    progress: Progress
    checkpoint: str | None

    def data_identity(self) -> dict[str, Any]:
        """Which data this is, for a checkpoint."""
        val = self.val_data.identity() if self.val_data else None
        return {"train": self.train_data.identity(), "val": val, "seed": self.config.seed}


@dataclass(frozen=True)
class _Start:
    """Where a run starts from: its configuration, and the checkpoint if it is resumed."""

    config: TrainConfig
    tokenizer_given: bool
    auto_batch: bool
    checkpoint: str | None = None
    state: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def continues(self) -> bool:
        """Whether the run's folder is the checkpoint's own, rather than that of a new branch."""
        if self.checkpoint is None:
            return False
        own = Path(run_folder_of(self.checkpoint))
        return own.resolve() == Path(self.config.checkpoint_dir).resolve()


@contextmanager
def prepare(
    given: TrainConfig | Mapping[str, object],
    report: Report,
    ranks: Ranks,
    *,
    force: bool = False,
) -> Iterator[Prepared]:
    """Make a run ready, its folder locked and its log open until the block ends.

    The folder is the first rank's alone.
    """
    start = _start(given, report, ranks)
    config = start.config
    ranks.check(config)
    check_installed(config)
    if config.deterministic:
        set_deterministic()
    device = _device(start)
    if ranks.cut_model(config):
        check_sharding(config, device, auto_batch=start.auto_batch)
    if not ranks.is_first:
        yield _make(start, device, None, report, ranks)
        return
    with RunFolder(config.checkpoint_dir, report.notice) as folder, closing(report):
        if not start.continues:
            refuse_another_run(folder.typed, force=force)
        run = _make(start, device, folder, report, ranks)
        if start.checkpoint and start.continues:
            folder.go_back_to(run.progress.iteration, Path(start.checkpoint))
        else:
            folder.clear()
        folder.write_config(to_toml(dataclasses.replace(run.config, load_checkpoint=None)))
        report.attach(folder)
        report.loggers.open(run.config, folder.path, run.progress.iteration)
        yield run


def dry_run(
    given: TrainConfig | Mapping[str, object],
    report: Report,
    *,
    force: bool = False,
    processes: int = 1,
) -> Estimate:
    """Check all that a run checks before its first step, and say what it would take; no more."""
    start = _start(given, report, Ranks())
    ranks = Ranks(count=processes)
    ranks.check(start.config)
    check_installed(start.config)
    if not start.continues:
        refuse_another_run(start.config.checkpoint_dir, force=force)
    device = _device(start)
    if ranks.cut_model(start.config):
        check_sharding(start.config, device, auto_batch=start.auto_batch)
    _, train_data, _ = _inputs(start, device, report)
    with torch.device("meta"):
        model = Transformer(start.config.model)
    _tell_of_model(model, report)
    config = _fitted(start, device, model, report)
    iteration = Progress.from_state(start.state).iteration
    found = estimate(config, model, device, len(train_data.tokens), iteration, ranks)
    for sentence in found.sentences(config):
        report.line(sentence[0].upper() + sentence[1:])
    report.line("Dry run: nothing was written.", event="estimate", **found.fields())
    for sentence in found.warnings():
        report.notice(sentence)
    return found


def _start(given: TrainConfig | Mapping[str, object], report: Report, ranks: Ranks) -> _Start:
    """Read the checkpoint, if the run resumes, and settle the configuration."""
    settings = given_settings(given) if isinstance(given, TrainConfig) else checked(given)
    auto_batch = settings.get("batch_size") == "auto"
    if auto_batch:  # the batch of a step is then the default's, the preset's or the checkpoint's
        del settings["batch_size"]
    settings = expand_preset(settings)
    typed = settings.get("load_checkpoint")
    if typed is None:
        config = from_dict(TrainConfig, settings)
        config.check_inputs()
        return _Start(_with_schedule_fixed(config), tokenizer_given=True, auto_batch=auto_batch)
    folder = str(settings.get("checkpoint_dir", TrainConfig.checkpoint_dir))
    name, state = open_checkpoint(str(typed), folder, report.notice, ranks)
    report.line(f"Loading checkpoint from {name}", event="loading", path=name)
    state = with_config(state, settings, name, report.notice)
    config = resumed_config(settings, state, name, report.notice)
    _tell_what_has_ended(config, int(state["iteration"]), report)
    given_tokenizer = any(settings.get(flag) for flag in TOKENIZER_FLAGS)
    return _Start(_with_schedule_fixed(config), given_tokenizer, auto_batch, name, state)


def _device(start: _Start) -> Device:
    """What to compute on; a resumed run compiles as it did, or its bits would change."""
    before: Mapping[str, Any] = start.state.get("settings", {})
    if before.get("device") == find_device(start.config.device).type and "compile" in before:
        return resolve(start.config, compiling_pays=bool(before["compile"]))
    return resolve(start.config, compiling_pays=compiling_pays(start.config))


def _tell_what_has_ended(config: TrainConfig, iteration: int, report: Report) -> None:
    """Say when a resumed run has no steps to take, or a schedule that is over before they are."""
    if iteration >= config.max_iters:
        report.notice(
            f"nothing is left to do: the checkpoint has {counted(iteration, 'iteration')} and "
            f"--max_iters is {config.max_iters:,}"
        )
    elif config.lr_schedule != "constant" and config.max_iters > config.schedule_iters:
        report.notice(
            f"the schedule keeps its {config.schedule_iters:,} iterations, after which the "
            f"learning rate stays at {config.min_lr:g}; --lr_decay_iters stretches it"
        )


def _with_schedule_fixed(config: TrainConfig) -> TrainConfig:
    """Write the schedule's length down, so that more ``max_iters`` later do not stretch it."""
    return dataclasses.replace(config, lr_decay_iters=max(1, config.schedule_iters))


def _make(
    start: _Start, device: Device, folder: RunFolder | None, report: Report, ranks: Ranks
) -> Prepared:
    """Make the parts of a run, saying so line by line."""
    with ranks.first_goes_first():  # it may have to tokenize
        tokenizer, train_data, val_data = _inputs(start, device, report)
    with advice.explaining_memory(start.config, device):
        model, optimizer, average = _model(start, device, tokenizer, report, ranks)
    config = ranks.from_first(_fitted(start, device, model, report))
    if device.compile and is_cut(model):
        compile_blocks(model, report.notice)
    elif device.compile:
        compile_model(model, report.notice)
    progress = Progress.from_state(start.state)
    found = estimate(config, model, device, len(train_data.tokens), progress.iteration, ranks)
    for sentence in (*found.sentences(config), *found.warnings()):
        report.notice(sentence)
    return Prepared(
        config=config,
        device=device,
        folder=folder,
        tokenizer=tokenizer,
        train_data=train_data,
        val_data=val_data,
        model=model,
        optimizer=optimizer,
        average=average,
        progress=progress,
        checkpoint=start.checkpoint,
    )


def _inputs(
    start: _Start, device: Device, report: Report
) -> tuple[Tokenizer, TrainingData, TrainingData | None]:
    """Open what a run reads, up to the model, which is announced."""
    config = start.config
    report.line(f"Using device: {device.device}", event="device", device=str(device.device))
    for sentence in device.notices:
        report.notice(sentence)
    report.line("Loading tokenizer...")
    tokenizer = _tokenizer(start)
    _refuse_a_larger_vocabulary(tokenizer, config)
    if config.mask_documents:
        end_of_document_id(tokenizer, "--mask_documents")
    if config.sample_prompt is not None:
        first_ids(tokenizer, config.sample_prompt, "--sample_prompt")
    report.line("Tokenizer loaded.")
    train_data, val_data = _data(config, tokenizer, report)
    _tell_of_other_data(start.state, train_data, val_data, report)
    report.line("Creating model...")
    return tokenizer, train_data, val_data


def _fitted(start: _Start, device: Device, model: Transformer, report: Report) -> TrainConfig:
    """The configuration, its batch split so that it fits where that was asked for."""
    if not start.auto_batch:
        return start.config
    config = with_largest_micro_batch(start.config, device, model)
    report.notice(
        f"--batch_size auto: {config.batch_size} sequences fit, so {config.grad_accum_steps} "
        f"micro-batch{'es' if config.grad_accum_steps > 1 else ''} of them make a step "
        f"(--batch_size {config.batch_size} --grad_accum_steps {config.grad_accum_steps})"
    )
    return config


def _tell_of_model(model: Transformer, report: Report) -> None:
    total, trainable = model.parameter_count(), model.parameter_count(trainable_only=True)
    report.line(
        f"Model created with {total:,} total parameters ({trainable:,} trainable)",
        event="model",
        parameters=total,
        trainable=trainable,
    )


def _tokenizer(start: _Start) -> Tokenizer:
    """The one given, or the checkpoint's own; with both, they must be the same."""
    config, stored = start.config, start.state.get("tokenizer")
    # A resumed run has its files' names from the checkpoint, but needs the files no longer.
    if stored is not None and not start.tokenizer_given:
        return Tokenizer.from_json(stored)
    if config.tokenizer is not None:
        given = Tokenizer.load(config.tokenizer)
    elif config.vocab_path is not None and config.merges_path is not None:
        given = Tokenizer.from_files(config.vocab_path, config.merges_path)
    else:
        raise MismatchError(
            f"{start.checkpoint} holds no tokenizer", hint="pass --vocab_path and --merges_path"
        )
    if stored is not None and Tokenizer.from_json(stored).fingerprint != given.fingerprint:
        raise MismatchError(
            f"the tokenizer given is not the one {start.checkpoint} was trained with",
            hint="leave --vocab_path, --merges_path and --tokenizer out: "
            "the checkpoint holds its tokenizer",
        )
    return given


def _refuse_a_larger_vocabulary(tokenizer: Tokenizer, config: TrainConfig) -> None:
    size = config.model.vocab_size
    if tokenizer.vocab_size > size:
        raise UsageError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens, --vocab_size is {size}",
            hint=f"pass --vocab_size {tokenizer.vocab_size}",
        )


def _data(
    config: TrainConfig, tokenizer: Tokenizer, report: Report
) -> tuple[TrainingData, TrainingData | None]:
    """Open what to train on, and what to validate on where it is given."""
    report.line("Loading training data...")
    if config.train_data is None:
        raise UsageError("no data given: pass --train_data", hint="lmkit tokenize makes it")
    train_data = open_all(config.train_data, tokenizer, config, report)
    # Refuses what is too short, or goes together with nothing, before anything is made.
    TokenBatches(
        train_data.tokens,
        batch_size=config.batch_size,
        context_length=config.context_length,
        sampling=config.sampling,
    )
    if config.val_data is None:
        return train_data, None
    report.line("Loading validation data...")
    val_data = open_data(config.val_data, tokenizer, config, report)
    evaluation_windows(val_data.tokens, config.context_length, limit=1)
    return train_data, val_data


def _tell_of_other_data(
    state: Mapping[str, Any], train: TrainingData, val: TrainingData | None, report: Report
) -> None:
    """Say which data is no longer what the checkpoint was made with."""
    stored: Mapping[str, Any] = state.get("data", {})
    for name, data in (("train", train), ("val", val)):
        before = stored.get(name)
        if before and data and before["fingerprint"] != data.fingerprint:
            report.notice(
                f"--{name}_data {data.path} is not the data of the checkpoint, which was "
                f"{before['path']} with {counted(before['tokens'], 'token')}"
            )


def _model(
    start: _Start, device: Device, tokenizer: Tokenizer, report: Report, ranks: Ranks
) -> tuple[Transformer, Optimizer, WeightAverage | None]:
    """Make model, optimizer and, where wanted, the average, from the seed or the checkpoint."""
    config = start.config
    if ranks.cut_model(config):
        model = empty_model(config, device, ranks)
        if start.checkpoint is None:
            draw_weights(model, config, ranks)
    else:
        torch.manual_seed(config.seed)
        model = Transformer(config.model).to(device.device)
    model.z_loss = config.z_loss
    if config.mask_documents:
        model.document_end = end_of_document_id(tokenizer, "--mask_documents")
    _tell_of_model(model, report)
    optimizer = make_optimizer(model, config)
    average = None if config.ema_decay is None else WeightAverage(model, config.ema_decay)
    if start.checkpoint is not None:
        restore_run(start.state, model, optimizer, average, start.checkpoint)
        ranks.wait()  # until all have read the checkpoint, which the first may move
        compare_exactness(start.state, exactness_settings(device, config), report.notice)
    return model, optimizer, average
