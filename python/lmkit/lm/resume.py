"""What is given and a checkpoint to the configuration a run goes on with.

What is not given comes from the checkpoint. The model's shape cannot change; everything else can,
and each change is said. Settings that bit-exactness depends on (threads, torch, device) are stored
with the checkpoint and compared, because with others the run goes on, only not bit for bit.
"""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lmkit.config import ModelConfig, TrainConfig, from_dict, own_settings, settings, to_dict
from lmkit.errors import MismatchError
from lmkit.lm.checkpoint import Notice, read_checkpoint, read_latest
from lmkit.lm.device import Device

TOKENIZER_FLAGS = ("tokenizer", "vocab_path", "merges_path")
NOT_A_CHANGE = ("load_checkpoint", *TOKENIZER_FLAGS)


def open_checkpoint(typed: str, folder: str, notice: Notice) -> tuple[str, dict[str, Any]]:
    """The checkpoint that ``--load_checkpoint`` names: its path as printed, and its state.

    ``latest`` is the newest of the run's folder that verifies, another folder that folder's newest.
    """
    if typed != "latest" and Path(typed).is_dir():
        typed, folder = "latest", typed
    if typed == "latest":
        return read_latest(folder, notice)
    return typed, read_checkpoint(typed, notice)


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


def run_folder_of(checkpoint: str) -> str:
    """The run's folder, as typed: the checkpoint's own, or the one above ``superseded/``."""
    folder, slash, _ = checkpoint.rpartition("/")
    if not slash:
        return "."
    above, _, last = folder.rpartition("/")
    return (above or ".") if last == "superseded" else folder or "/"


def given_settings(config: TrainConfig) -> dict[str, object]:
    """The settings of a config that are not the defaults: what its author must have given."""
    defaults = {name: one.default for name, one in settings(TrainConfig).items()}
    return {name: value for name, value in to_dict(config).items() if value != defaults[name]}


def checked(given: Mapping[str, object]) -> dict[str, object]:
    """The given settings as their fields' types, so that they compare with stored ones."""
    known = settings(TrainConfig)
    return {
        name: known[name].check(value) if name in known else value for name, value in given.items()
    }


def exactness_settings(device: Device) -> dict[str, object]:
    """What, beside the configuration, decides the last bit of a result."""
    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "device": device.device.type,
        "dtype": str(device.dtype),
        "compile": device.compile,
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
    stored: dict[str, object] | None = state.get("config")
    if stored is None:
        raise MismatchError(
            f"{checkpoint} holds no configuration, so no run can be resumed from it",
            hint="load it with lmkit.lm.checkpoint.load_checkpoint, which saved it",
        )
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
        for name in (*own_settings(ModelConfig), "decay_all")
        if name in given and name in stored and given[name] != stored[name]
    ]
    if differing:
        raise MismatchError(
            f"{checkpoint} is of another model: {'; '.join(differing)}",
            hint="leave these flags out: what is not given comes from the checkpoint",
        )
