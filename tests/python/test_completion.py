"""Completion: what the shells are told, and what they make of it, in the shells that are there."""

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lmkit.cli import COMMANDS, main

# Each runs the completion of a command line, as pressing the key does, and prints a word a line.
BASH = """
eval "$(lmkit completion bash)"
COMP_WORDS=({words}); COMP_CWORD={place}
compopt() {{ local IFS=' '; echo "compopt $*"; }}
"$(complete -p lmkit | sed 's/.*-F \\([^ ]*\\).*/\\1/')" lmkit
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
FISH = """
lmkit completion fish | source
complete --do-complete {line}
"""
ZSH = """
compdef() {{ :; }}
eval "$(lmkit completion zsh)"
words=({words}); CURRENT={place}
_describe() {{ local name=${{@[-2]}}; print -l -- ${{(P)name}}; }}
compadd() {{ local name=${{@[-1]}}; print -l -- ${{(P)name}}; }}
_path_files() {{ print "files $*"; }}
_lmkit_completion
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with an `lmkit` to call, and a file."""
    program = tmp_path / "bin" / "lmkit"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m lmkit "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "text.txt").touch()
    return tmp_path


def ask(shell: str, home: Path, *words: str) -> list[str]:
    """What a shell offers for the last of the words."""
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"no {shell} is installed")
    if shell == "bash":
        code = BASH.format(words=" ".join(map(quoted, words)), place=len(words) - 1)
    elif shell == "zsh":
        code = ZSH.format(words=" ".join(map(quoted, words)), place=len(words))
    else:
        code = FISH.format(line=quoted(" ".join(words)))
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    environment = {name: value for name, value in os.environ.items() if "LMKIT" not in name}
    environment |= {"PATH": f"{home / 'bin'}:{os.environ['PATH']}", "HOME": str(home)}
    done = subprocess.run([found, *options, "-c", code], cwd=home, env=environment,
                          capture_output=True, text=True, check=False, timeout=60)  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


def quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def test_bash_completes_commands_options_choices_and_files(home: Path):
    assert ask("bash", home, "lmkit", "tr") == ["train-tokenizer", "train"]
    assert ask("bash", home, "lmkit", "convert", "tok")[0] == "tokenizer"
    assert ask("bash", home, "lmkit", "train", "--lr_s") == ["--lr_schedule"]
    assert ask("bash", home, "lmkit", "train", "--lr_schedule", "c") == ["constant", "cosine"]
    files = ["compopt -o default", ""]
    assert ask("bash", home, "lmkit", "tokenize", "--data_path", "te") == files
    assert ask("bash", home, "lmkit", "train", "--train_data", "te") == files
    assert ask("bash", home, "lmkit", "plot", "te") == files
    assert ask("bash", home, "lmkit", "train", "--checkpoint_dir", "") == [
        "compopt -o dirnames", ""]  # fmt: skip


def test_whatever_takes_a_file_or_a_word_completes_it():
    """All options and arguments of all commands, those of one that is new among them."""

    def commands(group: click.Group) -> Iterator[click.Command]:
        for name in group.list_commands(click.Context(group)):
            one = group.get_command(click.Context(group), name)
            assert one is not None
            yield from commands(one) if isinstance(one, click.Group) else (one,)

    for command in commands(main):
        for parameter in command.params:
            named = {*re.findall(r"\w+", parameter.metavar or "")}
            items = parameter.shell_complete(click.Context(command), "")
            kinds = {item.type for item in items}
            if isinstance(parameter, click.Argument) or named & {"FILE", "PATH", "DIR", "FOLDER"}:
                assert kinds & {"file", "dir", "plain"}, (command.name, parameter.name)
            if parameter.name in {"device", "pattern", "logger"}:
                assert kinds == {"plain"}


def test_all_patterns_are_completed_that_help_names(home: Path):
    help_text = " ".join(lmkit_help("tokenize").split())
    named = re.search(r"Split text by (.*), or a regular expression", help_text)
    assert named is not None
    assert ask("bash", home, "lmkit", "tokenize", "--pattern", "") == named[1].split(", ")


def lmkit_help(command: str) -> str:
    return CliRunner().invoke(main, [command, "--help"]).output


def test_dashes_are_completed_as_underscores_are(home: Path):
    assert ask("bash", home, "lmkit", "train", "--lr-s") == ["--lr_schedule"]
    assert ask("bash", home, "lmkit", "train", "--lr-schedule", "w") == ["wsd"]
    assert ask("bash", home, "lmkit", "train_tokenizer", "--tie") == ["--tie_break"]


def test_a_word_beside_a_file_is_completed_once_it_is_begun(home: Path):
    assert ask("bash", home, "lmkit", "train", "--load_checkpoint", "la") == ["latest"]
    asked = ask("bash", home, "lmkit", "train", "--load_checkpoint", "")
    assert asked == ["compopt -o default", ""]
    assert ask("bash", home, "lmkit", "train", "--batch_size", "") == ["auto"]


def test_nothing_said_before_can_break_a_completion(home: Path):
    """Neither a wrong command nor a wrong value nor a config file that is not there."""
    assert ask("bash", home, "lmkit", "trian", "--vo") == [""]
    words = ["lmkit", "train", "--config", "none.toml", "--max_iters", "x", "--lr_s"]
    assert ask("bash", home, *words) == ["--lr_schedule"]


def test_fish_completes_with_a_sentence_each(home: Path):
    said = ask("fish", home, "lmkit tok")
    assert said == [f"tokenize\t{COMMANDS['tokenize']}"]
    assert ask("fish", home, "lmkit plot --x t") == ["time", "tokens"]
    assert ask("fish", home, "lmkit plot te") == ["text.txt"]


def test_zsh_completes_too(home: Path):
    said = ask("zsh", home, "lmkit", "tok")
    assert any("tokenize" in line for line in said)
    assert any(line.startswith("files") for line in ask("zsh", home, "lmkit", "plot", "te"))
    said = ask("zsh", home, "lmkit", "train", "--lr_schedule", "c")
    assert any("cosine" in line for line in said)


@pytest.mark.parametrize("words", [["train", "--lr"], ["plot", "x"], ["tr"]])
def test_completing_loads_nothing_heavy(words: list[str]):
    code = (
        "import sys\nfrom lmkit.__main__ import run\ntry: run()\n"
        "except SystemExit as end: print('ended with', end.code)\n"
        "print('heavy:', *{'torch', 'numpy', 'rich', 'matplotlib', 'pyarrow'} & set(sys.modules))"
    )
    asked = {"_LMKIT_COMPLETE": "bash_complete", "COMP_WORDS": "\n".join(["lmkit", *words]),
             "COMP_CWORD": str(len(words))}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | asked,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.splitlines()[-2:] == ["ended with 0", "heavy:"]


def test_an_unknown_shell_is_refused_and_the_known_ones_named():
    done = subprocess.run([sys.executable, "-m", "lmkit", "completion", "csh"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 2
    assert "'bash', 'zsh', 'fish'" in done.stderr
