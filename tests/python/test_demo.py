"""`lmkit demo`: the whole pipeline, each command shown as it can be typed."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from full_disk import files_up_to
from lmkit import Tokenizer
from lmkit.cli import demo as demo_module

# Plain words with a separator between stories: a text with documents, quickly learned.
STORY = "Once there was a {} {} who lived in a {} by the sea. The {} sang, and it was good.\n"
WORDS = ("small", "cat", "house", "happy", "old", "dog", "tree", "bird", "red", "boat", "ship")


def lmkit(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if "LMKIT" not in name}
    # Compiling and threads cost such tiny models more than they save.
    environment |= {"LMKIT_TRAIN_COMPILE": "off", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "lmkit", *words],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_full_disk_is_named(tmp_path):
    with files_up_to(1000):
        done = lmkit("demo", cwd=tmp_path)
    assert done.returncode == 4
    assert done.stderr == "error: cannot write lmkit-demo/text.txt: File too large\n"


def write_stories(folder: Path) -> Path:
    path = folder / "stories.txt"
    pick = [[WORDS[(7 * i + 3 * j) % len(WORDS)] for j in range(4)] for i in range(400)]
    path.write_text("".join(STORY.format(*words) + "<|endoftext|>\n" for words in pick))
    return path


@pytest.fixture
def stories(tmp_path) -> Path:
    return write_stories(tmp_path)


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, str]:
    """A folder in which the demo has run, and what the demo said."""
    folder = tmp_path_factory.mktemp("demo")
    write_stories(folder)
    done = lmkit("demo", "--data_path", "stories.txt", "--steps", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    # What an untrained model writes may hold any byte.
    assert "\x1b" not in done.stdout.partition("5. Let it write.")[0] + done.stderr
    return folder, done.stdout


def commands_of(said: str) -> list[list[str]]:
    return [shlex.split(line)[2:] for line in said.splitlines() if line.startswith("   $ ")]


def test_the_demo_makes_what_it_says(demo):
    folder, said = demo
    names = ["train-tokenizer", "tokenize", "train", "evaluate", "generate", "plot", "train"]
    assert [words[0] for words in commands_of(said)] == names
    assert (folder / "lmkit-demo" / "checkpoints" / "checkpoint_2.pt").is_file()
    for line in said.partition("Everything is in")[2].splitlines()[1:]:
        if line.startswith("  lmkit-demo"):
            assert (folder / line.strip()).exists()


@pytest.mark.slow
def test_the_commands_shown_can_be_typed(demo, stories, tmp_path):
    folder, said = demo
    (tmp_path / "lmkit-demo").mkdir()
    assert stories.parent == tmp_path
    for words in commands_of(said):
        alone = lmkit(*words, cwd=tmp_path)
        assert alone.returncode == 0, f"{words}\n{alone.stderr}"
    assert (tmp_path / "lmkit-demo" / "checkpoints" / "checkpoint_20.pt").is_file()
    for name in ("train.npy", "train.val.npy", "tokenizer/merges.txt"):
        made = (folder / "lmkit-demo" / name).read_bytes()
        assert (tmp_path / "lmkit-demo" / name).read_bytes() == made


def test_generate_ends_quietly_when_nobody_reads_on(demo):
    checkpoint = demo[0] / "lmkit-demo" / "checkpoints" / "checkpoint_2.pt"
    child = subprocess.Popen(
        [sys.executable, "-m", "lmkit", "generate", "--checkpoint", str(checkpoint)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() == 0


@pytest.mark.parametrize("command", ["evaluate", "generate"])
def test_a_checkpoint_that_is_not_there_is_misuse(command, tmp_path):
    words = ["--data", "x.npy"] if command == "evaluate" else []
    done = lmkit(command, "--checkpoint", "no.pt", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_damaged_checkpoint_exits_with_5(demo, tmp_path):
    whole = demo[0] / "lmkit-demo" / "checkpoints" / "checkpoint_2.pt"
    torn = tmp_path / whole.name
    torn.write_bytes(whole.read_bytes()[:-1000])
    torn.with_name(whole.name + ".json").write_bytes(
        whole.with_name(whole.name + ".json").read_bytes()
    )
    done = lmkit("generate", "--checkpoint", torn, cwd=tmp_path)
    assert done.returncode == 5
    assert torn.name in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("stories")
def test_the_demo_speaks_json(tmp_path):
    done = lmkit("demo", "--data_path", "stories.txt", "--steps", "1", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(objects) >= 5


@pytest.mark.usefixtures("stories")
def test_the_demo_replaces_only_what_a_demo_made(tmp_path):
    folder = tmp_path / "lmkit-demo"
    folder.mkdir()
    (folder / "precious").touch()
    words = ("demo", "--data_path", "stories.txt", "--steps", "1")
    for more in ((), ("--force",)):
        done = lmkit(*words, *more, cwd=tmp_path)
        assert done.returncode == 2
        assert "lmkit-demo: already exists" in done.stderr
    assert (folder / "precious").exists()


@pytest.mark.parametrize(
    ("text", "aside"),
    [
        ("one\n<|endoftext|>two\n<|endoftext|>three\n", False),  # too few for a twentieth
        ("<|endoftext|>\nonly one\n", False),
        ("<|endoftext|>" + "<|endoftext|>".join(f"document {n}" for n in range(400)), True),
    ],
)
def test_documents_are_kept_aside_where_there_are_enough(tmp_path, text, aside):
    (tmp_path / "text.txt").write_text(text)
    Tokenizer.train(tmp_path / "text.txt", 257).save(tmp_path / "tokenizer")
    tokens = tmp_path / "train.npy"
    guide = demo_module._Guide(as_json=False, quiet=True)
    with click.Context(demo_module.command):
        made = demo_module._tokenize(
            guide, tmp_path / "text.txt", str(tmp_path / "tokenizer"), tokens
        )
    assert made == (tmp_path / "train.val.npy" if aside else tokens)
    assert made.exists()


def test_the_demo_refuses_a_missing_text_before_it_makes_anything(tmp_path):
    done = lmkit("demo", "--data_path", "nothing.txt", cwd=tmp_path)
    assert done.returncode == 2
    assert "nothing.txt" in done.stderr
    assert list(tmp_path.iterdir()) == []
