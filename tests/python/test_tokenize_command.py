"""`lmkit tokenize` as it is typed: output, exit codes, interruption, full disks, memory."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lmkit

END = "<|endoftext|>"
TEXT = f"It's the end of the world as we know it.{END}naïve café\n" * 40


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "tok"
    lmkit.Tokenizer.train(texts=[TEXT], vocab_size=300).save(folder)
    return folder


def lmkit_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "lmkit", *map(str, arguments)]


def run(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        lmkit_command("tokenize", *arguments), input=stdin, capture_output=True, check=False
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def test_the_original_command(tokenizer: Path, tmp_path: Path) -> None:
    text, vocab, merges = (tmp_path / name for name in ["raw.txt", "t.vocab", "t.merges"])
    text.write_text(TEXT, encoding="utf-8", newline="")
    vocab.write_bytes((tokenizer / "vocab.json").read_bytes())
    merges.write_bytes((tokenizer / "merges.txt").read_bytes())
    files = ["--vocab_path", vocab, "--merges_path", merges]
    outputs = [tmp_path / "a.npy", tmp_path / "b.npy"]
    for output, method in zip(outputs, ["streaming", "in-memory"], strict=True):
        done = run("--data_path", text, *files, "--output_path", output, "--method", method)
        assert done.returncode == 0, done.stderr
        assert END in done.stderr, "it says what is special"
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    tok = lmkit.Tokenizer.from_files(vocab, merges)
    assert np.load(outputs[0]).tolist() == tok.encode(TEXT)
    plain = tmp_path / "c.npy"
    run("--data_path", text, *files, "--output-path", plain, "--no-special-tokens")
    assert np.load(plain).tolist() == tok.encode(TEXT, special="none")


def test_standard_input_and_json(tokenizer: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.npy"
    options = ["--data_path", "-", "--tokenizer", tokenizer, "--output_path", output, "--json"]
    done = run(*options, stdin=TEXT.encode())
    assert done.returncode == 0, done.stderr
    tok = lmkit.Tokenizer.load(tokenizer)
    ids = np.load(output).tolist()
    assert ids == tok.encode(TEXT)
    summary = json.loads(done.stdout)
    assert summary["tokens"] == len(ids)
    assert summary["documents"] == 41
    records = "".join(json.dumps({"body": text}) + "\n" for text in ["one", "two"]).encode()
    done = run(*options, "--force", "--text_field", "body", stdin=records)
    assert np.load(output).tolist() == tok.encode(f"one{END}two{END}")


def test_dry_run_writes_nothing(tokenizer: Path, tmp_path: Path) -> None:
    text = tmp_path / "raw.txt"
    text.write_text(TEXT)
    options = ["--data_path", text, "--tokenizer", tokenizer]
    done = run(*options, "--output_path", tmp_path / "a.npy", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "1 file" in done.stdout
    done = run(*options, "--output_path", tmp_path / "no" / "a.npy", "--dry_run")
    assert done.returncode == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["raw.txt"]


def test_exit_codes_of_bad_input(tokenizer: Path, tmp_path: Path) -> None:
    text, bad, cut = (tmp_path / name for name in ["raw.txt", "bad.txt", "cut.gz"])
    text.write_text(TEXT)
    bad.write_bytes(b"one\ntwo \xff")
    cut.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\x03KL")
    vocab, merges = tokenizer / "vocab.json", tokenizer / "merges.txt"
    few = tmp_path / "few.json"
    few.write_text('{"a": 0}')
    unknown = tmp_path / "unknown.txt"
    unknown.write_text("#version: 0.2\nz q\n")
    there = tmp_path / "there.npy"
    there.write_bytes(b"")
    tok = ["--tokenizer", tokenizer]
    cases: list[tuple[int, str, list[object]]] = [
        (3, "line 2, byte offset 8", ["--data_path", bad, *tok]),
        (3, "cut off", ["--data_path", cut, *tok]),
        (2, "missing.txt", ["--data_path", tmp_path / "missing.txt", *tok]),
        (2, "tokenizer", ["--data_path", text]),
        (2, "nothing", ["--data_path", text, "--tokenizer", tmp_path / "nothing"]),
        (3, "few.json", ["--data_path", text, "--vocab_path", few, "--merges_path", merges]),
        (3, "unknown.txt", ["--data_path", text, "--vocab_path", vocab, "--merges_path", unknown]),
        (3, "", ["--data_path", text, "--vocab_path", merges, "--merges_path", vocab]),
        (2, "<|new|>", ["--data_path", text, *tok, "--special_token", "<|new|>"]),
        (2, "--end_of_document", ["--data_path", text, *tok, "--end_of_document", END]),
        (2, "--val_fraction", ["--data_path", text, *tok, "--val_fraction", "2"]),
        (2, "dtype", ["--data_path", text, *tok, "--dtype", "int8"]),
        (2, "--text_field", ["--data_path", text, *tok, "--text_field", "x"]),
        (2, "--val_output_path", ["--data_path", text, *tok, "--val_output_path", "x.npy"]),
    ]
    before = sorted(tmp_path.iterdir())
    for code, message, options in cases:
        done = run(*options, "--output_path", tmp_path / "out.npy")
        assert done.returncode == code, (options, done.stderr)
        assert message in done.stderr, (options, done.stderr)
        assert "Traceback" not in done.stderr
        assert sorted(tmp_path.iterdir()) == before, options
    done = run("--data_path", text, *tok, "--output_path", there)
    assert done.returncode == 2
    assert "--force" in done.stderr


def test_a_full_disk_is_exit_4_and_leaves_nothing(tokenizer: Path, tmp_path: Path) -> None:
    text = tmp_path / "raw.txt"
    text.write_text(TEXT * 200)
    command = lmkit_command("tokenize", "--data_path", text, "--tokenizer", tokenizer)
    done = subprocess.run(
        [*command, "--output_path", tmp_path / "a.npy"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert done.returncode == 4, done.stderr
    assert "a.npy" in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["raw.txt"]


@pytest.mark.parametrize("waiting", [False, True])
def test_ctrl_c_ends_the_run_at_once(tokenizer: Path, tmp_path: Path, waiting: bool) -> None:
    """Long before all is read, which would take it minutes, or for ever."""
    text = tmp_path / "raw.txt"
    text.write_text("x" if waiting else "word " * 6_000_000)
    output = tmp_path / "a.npy"
    source = ["-"] if waiting else [text] * 5000
    named = [part for path in source for part in ("--data_path", path)]
    process = subprocess.Popen(
        lmkit_command("tokenize", *named, "--tokenizer", tokenizer, "--output_path", output),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not list(tmp_path.glob(".a.npy.*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    process.communicate()
    assert [entry.name for entry in tmp_path.iterdir()] == ["raw.txt"]


def test_kill_leaves_a_temporary_file_that_the_next_run_sweeps(
    tokenizer: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a.npy"
    command = lmkit_command("tokenize", "--data_path", "-", "--tokenizer", tokenizer)
    with subprocess.Popen([*command, "--output_path", output], stdin=subprocess.PIPE) as process:
        while not list(tmp_path.glob(".a.npy.*")):
            time.sleep(0.01)
        process.kill()
    assert len(list(tmp_path.iterdir())) == 1
    done = run("--data_path", "-", "--tokenizer", tokenizer, "--output_path", output)
    assert done.returncode == 0, done.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.npy", "a.npy.json"]


@pytest.mark.slow
def test_memory_stays_bounded(tokenizer: Path, tmp_path: Path) -> None:
    text = tmp_path / "raw.txt"
    words = [f"w{number * 2654435761 % 1_000_003:x}" for number in range(100_000)]
    block = (" ".join(words) + "\n").encode()
    with text.open("wb") as file:
        for _ in range(200_000_000 // len(block) + 1):
            file.write(block)
    for threads in [2, 8]:
        # Not getrusage, whose peak a child inherits from the process that started it.
        script = (
            "import sys\n"
            "from pathlib import Path\n"
            "from lmkit.__main__ import run\n"
            "try: run()\n"
            "finally:\n"
            "    status = Path('/proc/self/status').read_text()\n"
            "    print(status.split('VmHWM:')[1].split()[0], file=sys.stderr)\n"
        )
        arguments = ["--data_path", text, "--tokenizer", tokenizer, "--quiet", "--force"]
        arguments += ["--output_path", tmp_path / "a.npy", "--num_threads", threads]
        done = subprocess.run(
            [sys.executable, "-c", script, "tokenize", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        peak = int(done.stderr.split()[-1]) << 10
        assert peak < 256 << 20, f"{peak >> 20} MiB on {threads} threads"


def test_a_named_pipe_waits_for_its_writer_and_can_be_interrupted(
    tokenizer: Path, tmp_path: Path
) -> None:
    pipe, output = tmp_path / "pipe", tmp_path / "a.npy"
    os.mkfifo(pipe)
    command = lmkit_command("tokenize", "--data_path", pipe, "--tokenizer", tokenizer)
    command += ["--output_path", str(output)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while not list(tmp_path.glob(".a.npy.*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, "there was never a writer"
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while not list(tmp_path.glob(".a.npy.*")):
            assert process.poll() is None
            time.sleep(0.01)
        with pipe.open("w", encoding="utf-8", newline="") as writer:
            for piece in (TEXT[:100], TEXT[100:]):
                writer.write(piece)
                writer.flush()
                time.sleep(0.05)
        assert process.wait(60) == 0
    assert np.load(output).tolist() == lmkit.Tokenizer.load(tokenizer).encode(TEXT)
