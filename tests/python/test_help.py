"""Help: the same as the golden texts, quick, and without what only the work itself needs.

``LMKIT_UPDATE_GOLDEN=1 pytest tests/python/test_help.py`` writes the texts anew.
"""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from lmkit.cli import COMMANDS, main
from lmkit.cli.convert import CONVERSIONS
from lmkit.cli.options import LONG
from lmkit.config import TrainConfig, settings

HEAVY = (
    "{'torch', 'numpy', 'rich', 'matplotlib', 'pyarrow', 'distributed', 'fsspec', 'transformers'}"
)
GOLDEN = Path(__file__).parents[1] / "golden" / "help"
# What does work, by its words; groups only list it.
WORKING = [name for name in COMMANDS if name != "convert"]
WORKING += [f"convert {name}" for name in CONVERSIONS]


def command_of(words: str) -> click.Command:
    command: click.Command | None = main
    for word in words.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    assert command is not None
    return command


def help_of(*words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if "LMKIT" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "lmkit", *words, "--help"],
        env=environment | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", ["lmkit", "convert", *WORKING])
def test_help_is_the_golden_text(name):
    said = help_of(*([] if name == "lmkit" else name.split()))
    path = GOLDEN / f"{name.replace(' ', '-')}.txt"
    if os.environ.get("LMKIT_UPDATE_GOLDEN") == "1":
        path.write_text(said, encoding="utf-8")
    assert said == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", WORKING)
def test_help_teaches(name):
    said = help_of(*name.split())
    assert "Example" in said
    assert f"lmkit {name} " in said.partition("Example")[2]
    assert max(map(len, said.splitlines())) <= 100
    for option in command_of(name).params:
        if isinstance(option, click.Argument):
            assert option.metavar in said.partition("Example")[0]
            continue
        assert isinstance(option, click.Option)
        assert option.help
        assert option.help[0].isupper()
        for flag in (*option.opts, *option.secondary_opts):
            assert "-" not in flag.lstrip("-"), f"{flag} is not spelt with underscores"


@pytest.mark.parametrize("name", WORKING)
def test_every_command_has_the_options_that_all_have(name):
    flags = {flag for option in command_of(name).params for flag in option.opts}
    assert {"--json", "--quiet", "--config"} <= flags


@pytest.mark.parametrize("name", WORKING)
def test_many_options_are_grouped(name):
    """None of a long list of options is left over, and what belongs together stands together."""
    said = help_of(*name.split())
    if len(command_of(name).params) > LONG:
        assert "\nOptions:" not in said
        assert said.count(":\n  --") >= 3


def test_train_has_a_flag_for_every_setting():
    flags = {flag for option in command_of("train").params for flag in option.opts}
    assert {one.flag for one in settings(TrainConfig).values()} | {"--preset"} <= flags


@pytest.mark.parametrize("words", [[], *(name.split() for name in WORKING)], ids=str)
def test_help_loads_no_torch(words):
    code = (
        "import sys; sys.argv = ['lmkit', *sys.argv[1:]]\n"
        "from lmkit.__main__ import run\n"
        "try: run()\n"
        f"except SystemExit: print(*{HEAVY} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == ""


def test_importing_lmkit_loads_none_of_the_heavy_ones():
    code = f"import sys, lmkit; print(*({HEAVY} | {{'click'}}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_no_command_at_all_shows_the_help():
    done = subprocess.run(
        [sys.executable, "-m", "lmkit"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: lmkit ")
