"""`lmkit train`: token files and a tokenizer to a folder of checkpoints."""

import os
from functools import partial
from typing import TYPE_CHECKING

import click

from lmkit.cli.launch import as_words, checkpoint_after_restart, launch
from lmkit.cli.options import Command, config_options, given, notices
from lmkit.cli.progress import progress_bar
from lmkit.cli.resolved_config import print_config as say_config
from lmkit.cli.resolved_config import refuse_misfits
from lmkit.cli.shared_options import (
    force_option,
    json_option,
    option,
    preset_option,
    quiet_option,
    whole_number,
)
from lmkit.cli.value_sources import say_with_sources
from lmkit.config import TrainConfig
from lmkit.presets import PRESETS
from lmkit.run_place import run_folder

if TYPE_CHECKING:
    from lmkit.lm.report import Report


_RUN = "Run"  # the group of help


@click.command(cls=Command)
@config_options(TrainConfig)
@preset_option
@force_option("Set a run that is in checkpoint_dir already aside.", group=_RUN)
@whole_number(
    "--nproc",
    "Train with N processes of this machine, one a GPU; the batch stays that of all together.",
    default=1,
    show_default=False,
    group=_RUN,
)
@whole_number(
    "--max_restarts",
    "With --nproc: begin again from the last checkpoint up to N times when a process dies.",
    default=0,
    at_least=0,
    show_default=False,
    group=_RUN,
)
@option(
    "--dry_run",
    is_flag=True,
    help="Check everything, print what the run would take, and stop before the first step.",
    group=_RUN,
)
@option(
    "--print_config",
    is_flag=True,
    help="Print every setting as it is resolved, as TOML that --config takes, and stop.",
    group=_RUN,
)
@json_option
@quiet_option
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    preset: str | None,
    force: bool,
    dry_run: bool,
    print_config: bool,
    nproc: int,
    max_restarts: int,
    as_json: bool,
    quiet: bool,
    **values: object,
) -> None:
    """Train a model on a token file, or go on with one.

    Writes checkpoints, metrics.jsonl, config.toml and train.log into checkpoint_dir. Ctrl-C
    finishes the step, saves, and prints the command that goes on; what is not given to that
    command comes from the checkpoint.

    \b
    Examples:
      lmkit train --tokenizer tokenizer/ --train_data train.npy --preset small
      lmkit train --load_checkpoint latest --max_iters 200000
      lmkit train --preset small --print_config > run.toml
      lmkit train --config run.toml --nproc 8 --parallel fsdp --max_restarts 3
    """  # noqa: D301 - \b is click's mark for lines to keep
    settings = given(values)
    if print_config:
        others = {"nproc": nproc, "max_restarts": max_restarts}
        say_config(settings, preset, others, notices(quiet=quiet), as_json=as_json)
        return
    folder = run_folder(settings, TrainConfig.checkpoint_dir)
    if (nproc > 1 or max_restarts) and not dry_run and "WORLD_SIZE" not in os.environ:
        refuse_misfits(settings, preset)
        words = as_words({**settings, **_options(preset, force=force, json=as_json, quiet=quiet)})
        context.exit(launch(words, nproc, max_restarts, folder, partial(say_with_sources, context)))
    settings |= given({"load_checkpoint": checkpoint_after_restart(folder)})

    from lmkit.lm.preparation import dry_run as rehearse
    from lmkit.lm.report import Report
    from lmkit.lm.trainer import Trainer

    report = Report(
        json_lines=as_json,
        quiet=quiet,
        progress=lambda label, unit: progress_bar(label, unit, quiet=quiet),
    )
    if preset is not None:
        if os.environ.get("RANK", "0") == "0":
            _tell_preset(preset, settings, report)
        settings["preset"] = preset
    if dry_run:
        rehearse(settings, report, force=force, processes=nproc)
        return
    trainer = Trainer(settings, report=report, force=force)
    trainer.train()
    context.exit(trainer.exit_code)


def _options(preset: str | None, **flags: bool) -> dict[str, object]:
    """The command's options that are no settings, where they were given."""
    return {name: True for name, value in flags.items() if value} | given({"preset": preset})


def _tell_preset(preset: str, settings: dict[str, object], report: "Report") -> None:
    """Say what the preset set, and what it would have set but for a flag."""
    chosen = {name: value for name, value in PRESETS[preset].items() if name not in settings}
    shown = ", ".join(f"{name} {value}" for name, value in chosen.items())
    told = shown or "all that it sets is given"
    report.line(f"Preset {preset}: {told}", event="preset", preset=preset, **chosen)
