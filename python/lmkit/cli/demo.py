"""`lmkit demo`: text found on the machine to a model that writes, one shown command at a time.

Every step is an ordinary lmkit command, printed before it runs and run exactly as printed, so that
the reader can go on alone. Only the gathering of the text is the demo's own.
"""

import shlex
import shutil
import sysconfig
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from lmkit.cli.options import Command
from lmkit.cli.shared_options import force_option, whole_number
from lmkit.durable import refused
from lmkit.errors import MissingFileError, UsageError

SEPARATOR = "<|endoftext|>"
# Enough text that 300 steps of 1,024 tokens see no window twice, little enough to read in a second.
MEGABYTES = 8
MARKER = "made-by-lmkit-demo"


def _standard_library() -> Iterator[Path]:
    """The standard library's own sources, in a fixed order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"}
    for path in sorted(root.rglob("*.py")):
        if not skipped.intersection(path.relative_to(root).parts):
            yield path


def _gather(sources: Iterable[Path], out: Path) -> tuple[int, int]:
    """Write ``sources`` to ``out``, each followed by the separator; returns (files, bytes)."""
    files = size = 0
    with out.open("wb") as text:
        for source in _texts(sources):
            size += text.write((source + SEPARATOR + "\n").encode())
            files += 1
            if size > MEGABYTES * 10**6:
                break
    return files, size


def _texts(sources: Iterable[Path]) -> Iterator[str]:
    """What is in ``sources``, without those that are no document."""
    for path in sources:
        try:
            source = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue  # a few of the library's files are in other encodings, to test decoders
        if SEPARATOR not in source and source.strip():
            yield source


def _prepare(folder: Path, *, force: bool) -> None:
    """Make ``folder``, replacing what an earlier demo left there if ``force``."""
    if folder.exists():
        ours = (folder / MARKER).exists()
        if not (force and ours):
            hint = "replace it with --force" if ours else "choose another --output_path"
            raise UsageError(f"{folder}: already exists", hint=hint)
        shutil.rmtree(folder)
    if not folder.parent.is_dir():
        raise UsageError(f"{folder.parent}: no such folder", hint="make it, or choose another")
    folder.mkdir()
    (folder / MARKER).touch()


class _Guide:
    """Tells what comes, shows the command, runs it as shown."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.number = 0

    def say(self, sentence: str) -> None:
        if not self.quiet:
            click.echo(sentence, err=self.as_json)

    def step(self, why: str, *words: str) -> None:
        """Run ``lmkit WORDS``, after saying why."""
        from lmkit.cli import call

        if self.as_json:
            words = (*words, "--json")
        self.number += 1
        self.say("")
        self.say(click.style(f"{self.number}. {why}", bold=True))
        self.say(f"   $ {shlex.join(['lmkit', *words])}")
        start = time.perf_counter()
        code = call(list(words), color=click.get_current_context().color)
        if code:
            raise click.exceptions.Exit(code)  # stopped by the reader: go no further
        self.say(f"   ({time.perf_counter() - start:.1f} s)")


@click.command(cls=Command)
@click.option(
    "--output_path",
    type=click.Path(path_type=Path),
    default=Path("lmkit-demo"),
    show_default=True,
    metavar="FOLDER",
    help="Keep everything that is made in this folder.",
)
@click.option(
    "--data_path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Use this text instead of the Python standard library's sources.",
)
@whole_number("--steps", "Train for N steps of 8 x 128 tokens.", default=300)
@click.option("--prompt", metavar="TEXT", help="Begin the text that the model writes with TEXT.")
@force_option("Replace the folder of an earlier demo.")
@click.option("--json", "as_json", is_flag=True, help="Let the commands print JSON.")
@click.option("--quiet", is_flag=True, help="Show only what the commands print.")
def command(
    *,
    output_path: Path,
    data_path: Path | None,
    steps: int,
    prompt: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the whole pipeline on text found on this machine, in minutes.

    Learns a vocabulary, turns text into token ids, trains a small model, measures it and lets it
    write. Shows each command it runs, so that you can go on alone.

    \b
    Examples:
      lmkit demo
      lmkit demo --data_path my_book.txt --steps 1000
    """  # noqa: D301 - \b is click's mark for lines to keep
    if data_path is not None and not data_path.exists():
        raise MissingFileError(f"{data_path}: no such file or folder")
    start = time.perf_counter()
    _prepare(output_path, force=force)
    guide = _Guide(as_json=as_json, quiet=quiet)
    text = _text(guide, data_path, output_path)
    checkpoint = _pipeline(guide, text, output_path, steps, prompt or _prompt(data_path))
    took = time.perf_counter() - start
    guide.say("")
    guide.say(f"Done in {took:.0f} s. Everything is in {output_path}:")
    for path in sorted(output_path.iterdir()):
        if path.name != MARKER:
            guide.say(f"  {path}")
    picture = str(output_path / "plot.html")
    look = ["lmkit", "plot", str(checkpoint.parent), "--output_path", picture]
    guide.say("To see how it learned, as a page for your browser:")
    guide.say(f"   $ {shlex.join(look)}")
    more = ["lmkit", "train", "--load_checkpoint", "latest", "--checkpoint_dir",
            str(checkpoint.parent), "--max_iters", str(10 * steps)]  # fmt: skip
    guide.say("The model is small and has seen little; to train it ten times as long:")
    guide.say(f"   $ {shlex.join(more)}")


def _text(guide: _Guide, data_path: Path | None, folder: Path) -> Path:
    """The text to use, gathered where none is given."""
    if data_path is not None:
        guide.say(f"Text: {data_path}")
        return data_path
    text = folder / "text.txt"
    try:
        files, size = _gather(_standard_library(), text)
    except OSError as error:
        raise refused("write", text, error) from error
    if not files:
        raise UsageError(
            "this Python has no standard library sources to read",
            hint="name a text of your own with --data_path",
        )
    guide.say(
        f"Text: {files} files of the Python standard library, {size / 1e6:.1f} MB, "
        f"joined with {SEPARATOR} between them in {text}"
    )
    return text


def _prompt(data_path: Path | None) -> str:
    return "def " if data_path is None else "The"


def _pipeline(guide: _Guide, text: Path, folder: Path, steps: int, prompt: str) -> Path:
    """The five commands; returns the checkpoint."""
    tokenizer, tokens = str(folder / "tokenizer"), folder / "train.npy"
    checkpoint = folder / "checkpoints" / f"checkpoint_{steps}.pt"
    guide.step(
        "Learn a vocabulary of 1,000 tokens.",
        "train-tokenizer", "--data_path", str(text), "--vocab_size", "1000",
        "--output_path", tokenizer,
    )  # fmt: skip
    held_out = _tokenize(guide, text, tokenizer, tokens)
    warmup = str(min(steps // 10, 100))
    guide.step(
        "Train the small model. Ctrl-C would finish the step, save, and say how to go on.",
        "train", "--tokenizer", tokenizer, "--train_data", str(tokens),
        "--val_data", str(held_out), "--preset", "small", "--batch_size", "8",
        "--context_length", "128", "--max_iters", str(steps), "--learning_rate", "1e-3",
        "--lr_schedule", "cosine", "--warmup_iters", warmup, "--min_lr", "1e-4",
        "--log_interval", str(max(1, steps // 10)), "--eval_interval", str(max(1, steps // 3)),
        "--num_eval_batches", "10", "--checkpoint_dir", str(checkpoint.parent),
    )  # fmt: skip
    guide.step(
        "Measure it on the documents kept aside." if held_out != tokens else "Measure it.",
        "evaluate", "--checkpoint", str(checkpoint), "--data", str(held_out),
    )  # fmt: skip
    guide.step(
        "Let it write.",
        "generate", "--checkpoint", str(checkpoint), "--prompt", prompt,
        "--max_new_tokens", "120", "--temperature", "0.8", "--top_k", "50",
    )  # fmt: skip
    return checkpoint


def _tokenize(guide: _Guide, text: Path, tokenizer: str, tokens: Path) -> Path:
    """Make the token file; that of documents kept aside, or the same where none can be."""
    words = ["tokenize", "--data_path", str(text), "--tokenizer", tokenizer,
             "--output_path", str(tokens)]  # fmt: skip
    why = "Turn the text into token ids. It is one document"
    if _has_documents(text):
        try:
            guide.step(
                "Turn the text into token ids; keep some documents aside to measure the model on.",
                *words, "--val_fraction", "0.05",
            )  # fmt: skip
        except UsageError as error:  # there are few, and they are chosen by a hash
            guide.say(f"   {error}")
            why = "Turn the text into token ids. It has too few documents"
        else:
            return tokens.with_name("train.val.npy")
    guide.step(
        f"{why}, so nothing is kept aside, and the model is measured on what it has seen.", *words
    )
    return tokens


def _has_documents(text: Path) -> bool:
    """Whether ``text`` holds several documents: a folder, or a file with separators inside."""
    if not text.is_file():
        return True
    rest = b""
    with text.open("rb") as source:
        while piece := source.read(1 << 20):
            before, found, after = (rest + piece).partition(SEPARATOR.encode())
            while found and not before.strip():  # it ends no document
                before, found, after = after.partition(SEPARATOR.encode())
            if found and (after.strip() or source.read(1)):
                return True
            rest = piece[-len(SEPARATOR) :]
    return False
