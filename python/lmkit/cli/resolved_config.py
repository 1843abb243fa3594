"""What was given, anywhere, to every setting of the run it means: `lmkit train --print_config`."""

import json
from collections.abc import Callable, Mapping

import click

from lmkit.cli.options import given
from lmkit.config import TrainConfig, settings, to_dict, train_config
from lmkit.config_file import explained_toml

# Options of the command that are no settings of a run, with what they are when nobody gives them.
OTHERS = {"nproc": 1, "max_restarts": 0}


def print_config(
    typed: Mapping[str, object],
    preset: str | None,
    others: Mapping[str, int],
    notice: Callable[[str], None],
    *,
    as_json: bool,
) -> None:
    """Print every setting, as TOML that ``--config`` takes or as a JSON object.

    Args:
        typed: the settings that were given, by name.
        preset: the preset that was given.
        others: ``OTHERS`` as they are.
        notice: hears what a checkpoint's own settings are changed to.
        as_json: print JSON.
    """
    words, rest = _parted(typed)
    config = to_dict(_resolved(rest | given({"preset": preset}), notice)) | words
    changed = {name: value for name, value in others.items() if value != OTHERS[name]}
    if as_json:
        click.echo(json.dumps(changed | config))
        return
    shown = {name: "none" if _is_off(name, value) else value for name, value in config.items()}
    click.echo(explained_toml(changed | shown), nl=False)


def refuse_misfits(typed: Mapping[str, object], preset: str | None) -> None:
    """Refuse settings of a new run that do not fit each other, before there are processes."""
    if typed.get("load_checkpoint") is None:
        _, rest = _parted(typed)
        train_config(rest | given({"preset": preset}))


def _parted(typed: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """The words that are settled only when the run begins, and all the rest."""
    words = {name: value for name, value in typed.items() if _is_word(name, value)}
    return words, {name: value for name, value in typed.items() if name not in words}


def _is_word(name: str, value: object) -> bool:
    known = settings(TrainConfig)
    return name in known and value in known[name].words


def _is_off(name: str, value: object) -> bool:
    """Whether a setting was turned off that is on by default; TOML has no null to say so."""
    return value is None and settings(TrainConfig)[name].default is not None


def _resolved(typed: Mapping[str, object], notice: Callable[[str], None]) -> TrainConfig:
    """The settings with the defaults, the preset and the checkpoint's own beneath them."""
    checkpoint = typed.get("load_checkpoint")
    if checkpoint is None:
        return train_config(typed)
    from lmkit.lm.distributed import Ranks
    from lmkit.lm.resume import checked, open_checkpoint, resumed_config
    from lmkit.presets import expand_preset

    wanted = expand_preset(checked(typed))
    folder = str(wanted.get("checkpoint_dir", TrainConfig.checkpoint_dir))
    name, state = open_checkpoint(str(checkpoint), folder, notice, Ranks())
    return resumed_config(wanted, state, name, notice)
