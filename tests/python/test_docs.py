"""The commands in the documentation exist, with the options they are shown with."""

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

from lmkit.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").rglob("*.md"))]


def shell_lines(markdown: str) -> list[str]:
    lines: list[str] = []
    for block in re.findall(r"^ *```sh\n(.*?)^ *```$", markdown, re.DOTALL | re.MULTILINE):
        lines += block.replace("\\\n", " ").splitlines()
    return lines


def words_of(part: str) -> list[str]:
    try:
        return shlex.split(part, comments=True)
    except ValueError:  # the end of a quotation that began outside of it
        return part.replace("'", " ").replace('"', " ").split()


def commands_of(markdown: str) -> list[list[str]]:
    """What follows each ``lmkit`` in blocks of shell, and in text set as code."""
    inline = re.findall(r"`(lmkit [^`]*)`", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL))
    found = []
    for line in [*shell_lines(markdown), *inline]:
        for part in re.split(r"[|;&]|\$\(", line):
            words = words_of(part)
            while words and "=" in words[0]:
                words.pop(0)
            if words[:1] == ["lmkit"]:
                found.append([word for word in words[1:] if word not in {"…", "..."}])
    return found


def check(words: list[str]) -> None:
    command: click.Command = main
    path = ["lmkit"]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if words[0].isupper():
            return
        context = click.Context(command)
        command = command.get_command(context, words[0])
        path.append(words.pop(0))
        assert command is not None, f"no command {' '.join(path)}"
    known = {name for option in command.params for name in option.opts + option.secondary_opts}
    known |= {"--help", "-h", "--version"}
    for word in words:
        if word.startswith("--"):
            name = word.split("=", 1)[0].replace("-", "_").replace("__", "--", 1)
            assert name in known, f"{' '.join(path)} has no {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_are_shown_exist(page):
    for words in commands_of(page.read_text(encoding="utf-8")):
        check(words)


def test_a_command_that_does_not_exist_is_found():
    (words,) = commands_of("Say `lmkit train --no_such_option 3`.")
    with pytest.raises(AssertionError, match="lmkit train has no --no_such_option"):
        check(words)


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_the_pipeline_that_packages_are_tried_with_is_in_the_readme():
    spec = importlib.util.spec_from_file_location("try_package", ROOT / "tests" / "try_package.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    commands = module.shell_commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert [command.split()[1] for command in commands][:3] == [
        "train-tokenizer",
        "tokenize",
        "train",
    ]
    assert sum("--max_iters 8 " in command for command in commands) == 1
    assert any("checkpoint_12.pt" in command for command in commands)


@pytest.mark.parametrize("name", ["first-model.md", "first-model.zh.md"])
def test_a_guide_goes_on_with_a_learning_rate(name: str):
    """A schedule keeps its length when a run goes on: after it the rate is what it ended with."""
    page = (ROOT / "docs" / "guides" / name).read_text(encoding="utf-8")
    begun, resumed = (
        dict(zip(words[1::2], words[2::2], strict=False))
        for words in commands_of(page)
        if words[0] == "train" and "--dry_run" not in words
    )
    assert begun["--lr_schedule"] == "cosine"
    assert "--min_lr" not in begun
    assert resumed["--lr_decay_iters"] == resumed["--max_iters"]
