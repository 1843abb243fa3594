"""What is given and a checkpoint to the configuration a run goes on with.

What is not given comes from the checkpoint. The model's shape cannot change; everything else can,
and each change is said. Settings that bit-exactness depends on (threads, torch, device) are stored
with the checkpoint and compared, because with others the run goes on, only not bit for bit.
"""

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from lmkit.config import TrainConfig, from_dict, settings, to_dict
from lmkit.errors import MismatchError
from lmkit.lm.checkpoint import Notice, read_latest, read_outline, restore
from lmkit.lm.checkpoint_names import is_folder
from lmkit.lm.device import Device
from lmkit.lm.distributed import Ranks
from lmkit.lm.optimizer import Optimizer
from lmkit.lm.sharding import cut_state, empty_like_cut, is_cut
from lmkit.lm.weight_average import WeightAverage
from lmkit.model_config import ModelConfig
from lmkit.run_place import run_folder_of
from lmkit.setting import own_settings

TOKENIZER_FLAGS = ("tokenizer", "vocab_path", "merges_path")
NOT_A_CHANGE = ("load_checkpoint", *TOKENIZER_FLAGS)


@dataclass(frozen=True)
class Progress:
    """How far a run has come; the rest of its state is the model's and the optimizer's.

    Attributes:
        iteration: the steps taken.
        best_val_loss: the lowest validation loss found, or None.
        batch_offset: batches passed over in going back from bad ones; step k learns from batch
            k + ``batch_offset``.
        bad_in_a_row: the updates skipped just before, and
        bad_skipped: in the whole run.
        evaluation_due: whether the evaluation after the last step is still to be made.
        tokens: learned from, repeats included, and
        seconds: spent on them, evaluations and saves included, in all sittings.
    """

    iteration: int = 0
    best_val_loss: float | None = None
    batch_offset: int = 0
    bad_in_a_row: int = 0
    bad_skipped: int = 0
    evaluation_due: bool = False
    tokens: int = 0
    seconds: float = 0.0

    def to_state(self) -> dict[str, Any]:
        """The parts of a checkpoint that tell it."""
        return {
            "iteration": self.iteration,
            "best_val_loss": self.best_val_loss,
            "data": {"next_batch": self.iteration + 1 + self.batch_offset},
            "bad_steps": {"in_a_row": self.bad_in_a_row, "skipped": self.bad_skipped},
            "evaluation_due": self.evaluation_due,
            "spent": {"tokens": self.tokens, "seconds": self.seconds},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Progress":
        """What a checkpoint tells; older ones tell less."""
        iteration = int(state.get("iteration", 0))
        next_batch = state.get("data", {}).get("next_batch", iteration + 1)
        bad: Mapping[str, int] = state.get("bad_steps", {})
        spent: Mapping[str, Any] = state.get("spent", {})
        return cls(
            iteration=iteration,
            best_val_loss=state.get("best_val_loss"),
            batch_offset=int(next_batch) - iteration - 1,
            bad_in_a_row=bad.get("in_a_row", 0),
            bad_skipped=bad.get("skipped", 0),
            evaluation_due=bool(state.get("evaluation_due", False)),
            tokens=int(spent.get("tokens", iteration * _tokens_per_step(state.get("config", {})))),
            seconds=float(spent.get("seconds", 0.0)),
        )


def _tokens_per_step(config: Mapping[str, Any]) -> int:
    """What a step learned from, in a run whose checkpoint does not tell the tokens so far."""
    sizes = ("batch_size", "context_length", "grad_accum_steps")
    return math.prod(int(config[name]) for name in sizes) if config.keys() >= set(sizes) else 0


def restore_run(
    state: Mapping[str, Any],
    model: torch.nn.Module,
    optimizer: Optimizer,
    average: WeightAverage | None,
    checkpoint: str,
) -> None:
    """Put model, optimizer, average and generators back to where a checkpoint has them.

    Tensors that the state leaves on the disk are read here, as the model is: whole or cut. The
    optimizer keeps its own rates and decays, which may have been given anew.
    """
    state = _with_tensors(state, model, checkpoint)
    own = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    # A model that was imported has no optimizer's state: it begins anew.
    restore(state, model, optimizer if "optimizer" in state else None, checkpoint)
    for group, values in zip(optimizer.param_groups, own, strict=True):
        group.update(values)
    if average is not None and "average" in state:
        average.load_state_dict(state["average"])
    elif average is not None:
        average.restart()
    restore_generators(state.get("generators", {}))


def open_checkpoint(
    typed: str, folder: str, notice: Notice, ranks: Ranks
) -> tuple[str, dict[str, Any]]:
    """The checkpoint that ``--load_checkpoint`` names: its path as printed, and its state.

    ``latest`` is the newest of the run's folder that verifies, another folder that folder's newest.
    Tensors that are cut over processes stay on the disk until `restore_run`. All ``ranks`` must
    call this, and all get the same checkpoint.
    """
    if typed != "latest" and Path(typed).is_dir() and not is_folder(typed):
        typed, folder = "latest", typed
    if typed == "latest":
        return read_latest(folder, notice, ranks)
    typed = typed.rstrip("/")
    return typed, read_outline(typed, notice, ranks)


def _with_tensors(
    state: Mapping[str, Any], model: torch.nn.Module, checkpoint: str
) -> Mapping[str, Any]:
    """The state with its tensors as the model has its own: whole, or cut over the processes."""
    if not is_folder(checkpoint):
        return cut_state(state, model) if is_cut(model) else state
    from lmkit.lm.sharded_checkpoint import Stored, fill, whole

    def rows(stored: Stored) -> torch.Tensor:
        return empty_like_cut(stored.shape, stored.dtype, model)

    return fill(state, checkpoint, rows if is_cut(model) else whole)


def resumed_config(
    given: Mapping[str, object], state: Mapping[str, Any], checkpoint: str, notice: Notice
) -> TrainConfig:
    """The configuration to go on with: what is given, over what the checkpoint holds."""
    stored = _stored_config(state, checkpoint, notice)
    _refuse_another_shape(given, stored, checkpoint)
    for name, value in given.items():
        if name not in NOT_A_CHANGE and name in stored and value != stored[name]:
            notice(f"--{name} {value} from here on; the checkpoint has {stored[name]}")
    if any(given.get(name) for name in TOKENIZER_FLAGS):
        stored = {name: value for name, value in stored.items() if name not in TOKENIZER_FLAGS}
    if "checkpoint_dir" not in given:
        stored["checkpoint_dir"] = run_folder_of(checkpoint)
    return from_dict(TrainConfig, {**stored, **given})


def given_settings(config: TrainConfig) -> dict[str, object]:
    """The settings of a config that are not the defaults: what its author must have given."""
    defaults = {name: one.default for name, one in settings(TrainConfig).items()}
    return {name: value for name, value in to_dict(config).items() if value != defaults[name]}


def checked(given: Mapping[str, object]) -> dict[str, object]:
    """The given settings as their fields' types, so that they compare with stored ones."""
    known = settings(TrainConfig)
    return {
        name: known[name].check_given(value) if name in known else value
        for name, value in given.items()
    }


def exactness_settings(device: Device, config: TrainConfig) -> dict[str, object]:
    """What decides the last bit of a result, beside what the run learns."""
    processes = distributed.get_world_size() if distributed.is_initialized() else 1
    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "device": device.device.type,
        "dtype": str(device.dtype),
        "compile": device.compile,
        "processes": processes,
        "parallel": config.parallel if processes > 1 else "none",
        "matmul_precision": torch.get_float32_matmul_precision(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def compare_exactness(state: Mapping[str, Any], now: Mapping[str, object], notice: Notice) -> None:
    """Say which settings differ from those the checkpoint was made with."""
    then: Mapping[str, object] = state.get("settings", {})
    changed = [
        f"{name} {now[name]} (was {then[name]})"
        for name in now
        if name in then and then[name] != now[name]
    ]
    if changed:
        notice(f"going on with {', '.join(changed)}: results will not be equal bit for bit")


def restore_generators(states: Mapping[str, Any]) -> None:
    """Put the random number generators back to where they stood."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


def generator_states() -> dict[str, Any]:
    """The state of every random number generator a run may use."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call] # torch has no type for it
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def _stored_config(state: Mapping[str, Any], checkpoint: str, notice: Notice) -> dict[str, object]:
    stored: dict[str, object] = state["config"]
    known = settings(TrainConfig)
    unknown = sorted(stored.keys() - known.keys())
    if unknown:
        notice(f"{checkpoint} has settings this version does not know: {', '.join(unknown)}")
    return {name: value for name, value in stored.items() if name in known}


def _refuse_another_shape(
    given: Mapping[str, object], stored: Mapping[str, object], checkpoint: str
) -> None:
    differing = [
        f"--{name} {given[name]} (the checkpoint has {stored[name]})"
        for name in (*own_settings(ModelConfig), "optimizer", "decay_all")
        if name in given and name in stored and given[name] != stored[name]
    ]
    if differing:
        raise MismatchError(
            f"{checkpoint} is of another model: {'; '.join(differing)}",
            hint="leave these out: what is not given comes from the checkpoint",
        )
