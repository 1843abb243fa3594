"""A killed `lmkit tokenize` goes on where it was and ends with the same bytes."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lmkit
from lmkit.tokenize_files import plan

END = "<|endoftext|>"
LONG = 4  # so often is the text read by a run that must not end within 50 ms: it takes 2 s

# A run that notes after every slice, of about 4 KB, how far it is, on its way through a text that
# takes it a second or so; started by the tests as a process of its own, to be killed.
SLOW_RUN = """
import json, sys
from lmkit import Tokenizer
from lmkit.tokenize_files import plan
inputs, output, folder, options = json.loads(sys.argv[1])
job = plan(inputs, output, Tokenizer.load(folder), note_every=0.0, **options)
print(json.dumps(job.run(None)))
"""
USUAL: dict[str, Any] = {
    "dtype": "int32",
    "special": "encode",
    "end_of_document": None,
    "val_fraction": None,
    "num_threads": 2,
    "force": False,
    "errors": "strict",
    "text_field": None,
    "max_record_bytes": 1 << 30,
    "slice_bytes": 1 << 12,
}
LARGE_SLICES = {"slice_bytes": 1 << 20}  # for what nobody is to interrupt


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "tok"
    lmkit.Tokenizer.train(texts=["the cat sat on the mat, naïve café\n"], vocab_size=290).save(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six megabytes of documents of all lengths."""
    words = ["the", "cat", "sat", "on", "mat", "naïve", "café", "\n"]
    order = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "raw.txt"
    with path.open("w", encoding="utf-8", newline="") as file:
        for _ in range(1500):
            file.write(" ".join(order.choices(words, k=order.randrange(1, 2000))) + END)
    return path


class Runs:
    """Runs of one job, to be killed and resumed, in a folder of their own."""

    def __init__(self, inputs: list[Path], folder: Path, tokenizer: Path, name: str) -> None:
        self.inputs = [str(path) for path in inputs]
        self.output = folder / name
        self.tokenizer = tokenizer

    def start(self, **options: object) -> "subprocess.Popen[str]":
        asked = [self.inputs, str(self.output), str(self.tokenizer), {**USUAL, **options}]
        command = [sys.executable, "-c", SLOW_RUN, json.dumps(asked)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)

    def finish(self, **options: object) -> dict[str, Any]:
        process = self.start(**options)
        stdout, stderr = process.communicate()
        assert process.returncode == 0, stderr
        return json.loads(stdout)

    def kill_after_notes(self, more_than: int = -1, **options: object) -> int:
        """Start, kill once it has noted more than so many slices, and say how many it had.

        One that is over before we look begins anew, unless it is one that goes on.
        """
        while True:
            process = self.start(**options)
            while self.noted() <= more_than and process.poll() is None:
                time.sleep(0.001)
            process.kill()
            process.communicate()
            if options.get("resume") or not self.output.exists():
                return self.noted()
            self.clear()

    def clear(self) -> None:
        """Remove all that is in the folder."""
        for path in self.output.parent.iterdir():
            path.unlink()

    def noted(self) -> int:
        """How many slices a journal in the folder speaks of; -1 where there is none."""
        for path in self.output.parent.glob(f".{self.output.name}.journal.*.lmkit-tmp"):
            try:
                return json.loads(path.read_text())["position"]["slices"]
            except FileNotFoundError:
                pass  # renamed by the run that has just claimed it
        return -1

    def files(self) -> dict[str, bytes]:
        """What is in the folder, without what differs from run to run."""
        found = {path.name: path.read_bytes() for path in self.output.parent.iterdir()}
        for name in [name for name in found if name.endswith(".json")]:
            sidecar = json.loads(found[name])
            assert sidecar["modified_ns"] == (self.output.parent / name[:-5]).stat().st_mtime_ns
            del sidecar["modified_ns"]
            found[name] = json.dumps(sidecar).encode()
        return found


def runs_of(
    inputs: list[Path], tmp_path: Path, tokenizer: Path, name: str = "a.npy", **options: object
) -> tuple[Runs, dict[str, bytes]]:
    """Runs in a folder of their own, and the files that an undisturbed one leaves."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    expected = Runs(inputs, whole, tokenizer, name)
    expected.finish(**{**LARGE_SLICES, **options})
    return Runs(inputs, broken, tokenizer, name), expected.files()


@pytest.mark.parametrize(
    ("name", "form", "options"),
    [
        ("a.npy", "plain", {}),
        ("a.bin", "gz", {"dtype": "uint16"}),
        ("a.npy", "plain", {"val_fraction": 0.3}),
        ("a.npy", "several", {}),
        ("a.npy", "parquet", {"val_fraction": 0.3}),
    ],
)
def test_killed_again_and_again_it_ends_with_the_same_bytes(
    text: Path, tokenizer: Path, tmp_path: Path, name: str, form: str, options: dict[str, Any]
) -> None:
    inputs = [text]
    if form == "gz":
        inputs = [tmp_path / "raw.txt.gz"]
        inputs[0].write_bytes(gzip.compress(text.read_bytes(), 1))
    elif form == "parquet":
        inputs = [tmp_path / "raw.parquet"]
        rows = [None, *text.read_text().split(END)]
        pq.write_table(pa.table({"text": rows}), inputs[0], row_group_size=300)
    elif form == "several":
        small = tmp_path / "small.txt"
        small.write_text("one small text")
        inputs = [small, text, small]
    if "val_fraction" in options:
        options = {**options, "val_output": str(tmp_path / "broken" / "b.npy")}
        whole = {**options, "val_output": str(tmp_path / "whole" / "b.npy")}
    else:
        whole = options
    runs, expected = runs_of(inputs, tmp_path, tokenizer, name, **whole)
    done = 0
    for turn in range(4):
        noted = runs.kill_after_notes(more_than=done, resume=turn > 0, **options)
        if noted < 0:
            break  # quicker than we are: it has ended
        assert noted >= done, "nothing that was noted is lost"
        done = noted
    assert done > 0
    if not runs.output.exists():
        summary = runs.finish(resume=True, num_threads=1, **{**options, "slice_bytes": 1 << 15})
        assert summary["resumed_bytes"] > 0
    assert runs.files() == expected


def test_ctrl_c_keeps_what_was_noted(text: Path, tokenizer: Path, tmp_path: Path) -> None:
    runs, expected = runs_of([text], tmp_path, tokenizer)
    code = 0
    while not code or runs.output.exists():  # a run may be over before we look
        runs.clear()
        process = runs.start()
        while runs.noted() < 0 and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
        code = process.returncode
    assert "KeyboardInterrupt" in stderr
    assert sorted(runs.files()) == [".a.npy.0.lmkit-tmp", ".a.npy.journal.0.lmkit-tmp"]
    assert runs.finish(resume=True)["resumed_bytes"] > 0
    assert runs.files() == expected


def test_interrupted_and_resumed_in_one_process(
    text: Path, tokenizer: Path, tmp_path: Path
) -> None:
    runs, expected = runs_of([text] * LONG, tmp_path, tokenizer)
    tok = lmkit.Tokenizer.load(tokenizer)

    def stop(*_: int) -> None:
        if runs.noted() > 0:
            raise RuntimeError("enough")

    job = plan(runs.inputs, runs.output, tok, note_every=0.0, **USUAL)
    with pytest.raises(RuntimeError, match="enough"):
        job.run(stop)
    assert job.is_resumable
    job = plan(runs.inputs, runs.output, tok, resume=True, **{**USUAL, **LARGE_SLICES})
    assert job.run(None)["resumed_bytes"] > 0
    assert runs.files() == expected


def test_what_differs_is_refused_by_name(text: Path, tokenizer: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_bytes(text.read_bytes())
    folder = tmp_path / "out"
    folder.mkdir()
    runs = Runs([own], folder, tokenizer, "a.npy")
    assert runs.kill_after_notes() >= 0
    before = runs.files()
    tok = lmkit.Tokenizer.load(tokenizer)
    other = lmkit.Tokenizer(tok.vocab, tok.merges[:-1], list(tok.special_tokens))

    def refusal(tokenizer: lmkit.Tokenizer = tok, **options: object) -> str:
        with pytest.raises(lmkit.errors.MismatchError) as refused:
            plan(runs.inputs, runs.output, tokenizer, resume=True, **{**USUAL, **options})
        return str(refused.value)

    assert "begun with another tokenizer" in refusal(other)
    assert "--dtype was int32, and is now uint16" in refusal(dtype="uint16")
    assert "--errors was strict, and is now bytes" in refusal(errors="bytes")
    assert "--val_fraction was none, and is now 0.1" in refusal(val_fraction=0.1)
    stat = own.stat()
    own.write_bytes(text.read_bytes() + b"more")
    assert f"{own} has changed since" in refusal()
    own.write_bytes(text.read_bytes())
    assert f"{own} has changed since" in refusal(), "its time is another"
    os.utime(own, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    runs.inputs = [str(text)]
    assert f"begun from {own}, not {text}" in refusal()
    runs.inputs = [str(own), str(own)]
    assert "other inputs" in refusal(end_of_document="")
    assert runs.files() == before, "a refusal touches nothing"
    runs.inputs = [str(own)]
    (journal,) = folder.glob(".a.npy.journal.*")
    told = journal.read_text()
    journal.write_text(json.dumps({**json.loads(told), "format": 1}))
    assert "another version of lmkit began it" in refusal()
    journal.write_text(told)
    (partial,) = folder.glob(".a.npy.[0-9]*.lmkit-tmp")
    partial.write_bytes(partial.read_bytes()[:1000])
    with pytest.raises(lmkit.errors.MismatchError, match="1000 bytes are left"):
        plan(runs.inputs, runs.output, tok, resume=True, **USUAL).run(None)


def test_without_resume_what_a_killed_run_left_is_swept(
    text: Path, tokenizer: Path, tmp_path: Path
) -> None:
    runs, expected = runs_of([text], tmp_path, tokenizer)
    runs.kill_after_notes()
    runs.finish()
    assert runs.files() == expected


def test_resume_with_nothing_to_resume_begins_at_the_start(
    text: Path, tokenizer: Path, tmp_path: Path
) -> None:
    runs, expected = runs_of([text], tmp_path, tokenizer)
    assert runs.finish(resume=True)["resumed_bytes"] == 0
    assert runs.files() == expected


@pytest.mark.parametrize("step", ["sidecar", "renamed", "validation"])
def test_killed_while_outputs_are_put_in_place(
    text: Path, tokenizer: Path, tmp_path: Path, step: str
) -> None:
    """The last steps are too quick to be killed in between: their traces are made by hand."""
    options: dict[str, Any] = {"val_fraction": 0.3} if step == "validation" else {}
    runs, expected = runs_of([text], tmp_path, tokenizer, **options)
    runs.kill_after_notes(**options)
    (journal,) = runs.output.parent.glob(".a.npy.journal.*")
    told = json.loads(journal.read_text())
    process = told["process"]
    whole = {name: tmp_path / "whole" / name for name in expected}
    counts = {"a.npy": "train", "a.val.npy": "validation"}
    for name, part in counts.items():
        if name not in whole:
            continue
        sidecar = json.loads(whole[f"{name}.json"].read_text())
        told["position"][part] = {
            "tokens": sidecar["tokens"],
            "documents": sidecar["documents"],
            "text_bytes": sidecar["text_bytes"],
            "range": [sidecar["smallest_id"], sidecar["largest_id"]],
        }
        partial = runs.output.with_name(f".{name}.{process}.lmkit-tmp")
        partial.write_bytes(whole[name].read_bytes())
    told["position"]["slices"] = -(-text.stat().st_size // USUAL["slice_bytes"])
    told["position"]["is_whole"] = True
    moved = {"sidecar": [], "renamed": ["a.npy"], "validation": ["a.val.npy"]}[step]
    for name in moved:
        runs.output.with_name(f".{name}.{process}.lmkit-tmp").rename(runs.output.with_name(name))
    if step == "validation":
        # Read as a stream, where slices are not cells: as many as there are.
        told["position"]["slices"] = slices_of(text, tmp_path, tokenizer, options)
    runs.output.with_name("a.npy.json").write_text("{}")
    journal.write_text(json.dumps(told))
    runs.finish(resume=True, **options)
    assert runs.files() == expected


def slices_of(text: Path, tmp_path: Path, tokenizer: Path, options: dict[str, Any]) -> int:
    """How many slices the text has with these options: what the last of all notes says.

    A folder in the place of a sidecar keeps the run from removing that one.
    """
    folder = tmp_path / "counted"
    (folder / "a.npy.json" / "in the way").mkdir(parents=True)
    runs = Runs([text], folder, tokenizer, "a.npy")
    process = runs.start(**options)
    assert "SystemRefusedError" in process.communicate()[1]
    return runs.noted()


def test_what_cannot_be_resumed_says_so(tokenizer: Path, text: Path, tmp_path: Path) -> None:
    tok = lmkit.Tokenizer.load(tokenizer)
    with pytest.raises(lmkit.UsageError, match="not standard input"):
        plan("-", tmp_path / "a.npy", tok, resume=True, **USUAL)
    with pytest.raises(lmkit.UsageError, match="no effect with --method in-memory"):
        plan(text, tmp_path / "a.npy", tok, resume=True, method="in-memory", **USUAL)


def test_the_command_says_what_it_resumed(tokenizer: Path, text: Path, tmp_path: Path) -> None:
    runs = Runs([text], tmp_path, tokenizer, "a.npy")
    assert runs.kill_after_notes() >= 0
    command = [sys.executable, "-m", "lmkit", "tokenize", "--data_path", str(text), "--resume"]
    command += ["--output_path", str(runs.output), "--tokenizer", str(tokenizer)]
    refused = subprocess.run(
        [*command, "--dtype", "uint16"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 5
    assert refused.stderr.strip().splitlines()[-1] == (
        f"error: {runs.output}: cannot resume: --dtype was int32, and is now uint16; "
        "without --resume it begins anew"
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "bytes of these were done before" in done.stdout
