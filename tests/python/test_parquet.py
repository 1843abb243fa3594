"""Parquet in: the ids and counts of the same rows as lines of JSON, whatever their layout."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lmkit
from lmkit import _core, parquet
from lmkit.errors import MalformedError, MissingFileError, UsageError

END = "<|endoftext|>"
DATA = Path(__file__).parents[1] / "data"
TEXT = "".join((DATA / name).read_text() for name in ["stories.txt", "code.txt", "languages.txt"])
ROWS = [
    *(
        TEXT[at : at + length]
        for at, length in zip(range(0, 30_000, 11), range(1, 9999), strict=False)
    ),
    "",
    f"within {END} a row",
    f"at the end{END}",
    "😀" * 3000,
]
TOK = lmkit.Tokenizer.train(texts=ROWS[::50], vocab_size=400)


def write_jsonl(path: Path, rows: Sequence[str], field: str = "text") -> Path:
    path.write_text("".join(json.dumps({"n": 1, field: row}) + "\n" for row in rows))
    return path


def write(path: Path, rows: Any, **options: Any) -> Path:
    column = rows if isinstance(rows, pa.Array | pa.ChunkedArray) else pa.array(rows, pa.string())
    table = pa.table({"n": range(len(column)), "text": column})
    pq.write_table(table, path, **{"row_group_size": 100, **options})
    return path


def tokenized(path: Path | list[Path], output: Path, **options: Any) -> dict[str, Any]:
    summary = lmkit.tokenize(path, output, TOK, force=True, **options)
    del summary["seconds"]
    return summary


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("jsonl")
    path = write_jsonl(folder / "rows.jsonl", ROWS)
    return folder / "a.npy", tokenized(path, folder / "a.npy", val_fraction=0.2)


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"row_group_size": 1 << 20, "compression": "zstd"},
        {"row_group_size": 1, "compression": "none"},
        {"use_dictionary": False, "data_page_version": "2.0", "compression": "gzip"},
    ],
)
def test_rows_give_the_ids_of_the_same_rows_as_jsonl(
    tmp_path: Path, expected: tuple[Path, dict[str, Any]], layout: dict[str, Any]
) -> None:
    path = write(tmp_path / "rows.parquet", ROWS[-200:] if "row" in layout else ROWS, **layout)
    rows = pq.read_table(path)["text"].to_pylist()
    reference, summary = expected
    if len(rows) != len(ROWS):
        lines = write_jsonl(tmp_path / "rows.jsonl", rows)
        reference = tmp_path / "a.npy"
        summary = tokenized(lines, reference, val_fraction=0.2)
    for threads in (1, 3):
        output = tmp_path / "b.npy"
        assert tokenized(path, output, val_fraction=0.2, num_threads=threads) == summary
        assert output.read_bytes() == reference.read_bytes()
        val = output.with_name("b.val.npy"), reference.with_name(f"{reference.stem}.val.npy")
        assert val[0].read_bytes() == val[1].read_bytes()


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_every_type_of_text_column(tmp_path: Path, kind: pa.DataType) -> None:
    rows = ["one", "two", "", None, "one", "naïve café"]
    column = pa.array(rows, pa.string())
    column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
    summary = tokenized(write(tmp_path / "rows.parquet", column), tmp_path / "a.npy")
    lines = write_jsonl(tmp_path / "rows.jsonl", [row for row in rows if row is not None])
    same = tokenized(lines, tmp_path / "b.npy")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert (summary.pop("null_rows"), same.pop("null_rows")) == (1, 0)
    assert summary == same


def test_nulls_are_counted_and_passed_over(tmp_path: Path) -> None:
    rows = [None, None, "a", None, "b", *[None] * 150, "c"]
    path = write(tmp_path / "rows.parquet", rows)
    assert tokenized(path, tmp_path / "a.npy")["null_rows"] == 153
    end = TOK.special_tokens[END]
    ids = np.load(tmp_path / "a.npy").tolist()
    assert ids == [part for row in "abc" for part in (*TOK.encode(row), end)]
    nothing = tokenized(write(tmp_path / "no.parquet", [None, None]), tmp_path / "b.npy")
    assert (nothing["tokens"], nothing["documents"], nothing["null_rows"]) == (0, 0, 2)
    assert tokenized(write(tmp_path / "none.parquet", []), tmp_path / "b.npy")["tokens"] == 0


def test_a_tokenizer_learned_from_rows_is_that_of_the_same_jsonl(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", [*ROWS[:500], None])
    lines = write_jsonl(tmp_path / "rows.jsonl", ROWS[:500])
    learned = lmkit.Tokenizer.train(path, vocab_size=350, sample=0.5)
    assert learned == lmkit.Tokenizer.train(lines, vocab_size=350, sample=0.5)


def test_parquet_beside_other_files_and_in_folders(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    write(folder / "1.parquet", ["first", "second"])
    (folder / "2.txt").write_text("third")
    write_jsonl(folder / "3.jsonl", ["fourth"])
    write(folder / "4.PARQUET", ["fifth"])
    summary = tokenized(folder, tmp_path / "a.npy")
    assert summary["documents"] == 5
    words = ["first", "second", "third", "fourth", "fifth"]
    assert TOK.decode(np.load(tmp_path / "a.npy")) == "".join(f"{word}{END}" for word in words)


def test_text_field_names_the_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"body": ["a", "b"], "text": ["no", "no"]}), path)
    assert tokenized(path, tmp_path / "a.npy", text_field="body")["text_bytes"] == 2


@pytest.mark.parametrize(
    ("errors", "text"), [("replace", f"a\ufffdb{END}c{END}"), ("bytes", f"a\ufffdb{END}c{END}")]
)
def test_rows_that_are_not_utf8(tmp_path: Path, errors: str, text: str) -> None:
    column = pa.array([b"a\xffb", b"c"], pa.binary())
    path = write(tmp_path / "rows.parquet", column)
    tokenized(path, tmp_path / "a.npy", errors=errors)
    ids = np.load(tmp_path / "a.npy")
    assert TOK.decode(ids) == text
    assert (TOK.decode_bytes(ids)[:3] == b"a\xffb") is (errors == "bytes")
    with pytest.raises(MalformedError, match="row 0 is not UTF-8 at byte 1 of its text"):
        tokenized(path, tmp_path / "b.npy")
    assert not (tmp_path / "b.npy").exists()


def test_a_row_longer_than_allowed(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", ["short", None, "x" * 101])
    with pytest.raises(MalformedError, match="row 2 has 101 bytes of text, more than"):
        tokenized(path, tmp_path / "a.npy", max_record_bytes=100)


def test_what_is_wrong_is_said_before_any_work(tmp_path: Path) -> None:
    def refusal(path: Path, **options: Any) -> str:
        good = write(tmp_path / "good.parquet", ["a"])
        with pytest.raises(MalformedError) as refused:
            lmkit.tokenize_files.plan([good, path], tmp_path / "a.npy", TOK, **PLANNED | options)
        assert refused.value.exit_code == 3
        return str(refused.value)

    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"id": [1], "text": [2]}), path)
    assert refusal(path) == f"{path}: column 'text' holds int64, which is not text"
    pq.write_table(pa.table({"id": [1], "body": ["a"]}), path)
    assert refusal(path) == f"{path}: no column 'text' among id, body"
    path.write_bytes(b"PAR1 and then nothing")
    assert refusal(path).startswith(f"{path}: not sound Parquet: ")
    path.write_bytes(b"")
    assert refusal(path).startswith(f"{path}: not sound Parquet: ")
    with pytest.raises(MissingFileError):
        parquet.check(tmp_path / "missing.parquet", "text")


PLANNED = {
    "dtype": "int32",
    "errors": "strict",
    "special": "encode",
    "end_of_document": None,
    "val_fraction": None,
    "text_field": None,
    "num_threads": None,
    "max_record_bytes": 1 << 30,
    "force": False,
}


def test_a_damaged_page_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", ROWS, compression="zstd")
    torn = bytearray(path.read_bytes())
    torn[len(torn) // 2 : len(torn) // 2 + 4000] = bytes(4000)
    path.write_bytes(torn)
    with pytest.raises(MalformedError, match="not sound Parquet"):
        tokenized(path, tmp_path / "a.npy")
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.parquet"]


def test_without_pyarrow_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "rows.parquet", ["a"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match="needs pyarrow") as refused:
        tokenized(path, tmp_path / "a.npy")
    assert refused.value.hint == "pip install 'lmkit[parquet]'"


def test_progress_adds_up_to_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", ROWS)
    told: list[tuple[int, int, int]] = []
    tokenized(path, tmp_path / "a.npy", progress=lambda *now: told.append(now))
    assert told[-1] == (0, path.stat().st_size, path.stat().st_size)


def test_the_commands_say_what_they_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", [*ROWS[:300], None])
    folder, output = tmp_path / "tok", tmp_path / "a.npy"

    def said(*words: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "lmkit", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=True)

    told = said(
        "train-tokenizer", "--data_path", path, "--vocab_size", 300, "--output_path", folder
    )
    assert "note: passed over 1 row without text (null)" in told.stderr
    told = said("tokenize", "--data_path", path, "--tokenizer", folder, "--output_path", output)
    assert "Passed over 1 row without text (null)" in told.stderr
    assert "tokens of 300 documents" in told.stdout


@pytest.mark.slow
def test_memory_stays_bounded_whatever_the_row_group(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = [TEXT[number % 3000 :][: number % 7000] + str(number) for number in range(60_000)]
    write(path, rows, row_group_size=1 << 30)
    size = sum(map(len, rows))
    del rows
    assert size > 200_000_000
    TOK.save(tmp_path / "tok")
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
    for threads in ("2", "8"):
        arguments = ["--data_path", str(path), "--tokenizer", str(tmp_path / "tok"), "--quiet"]
        arguments += ["--output_path", str(tmp_path / "a.npy"), "--force", "--num_threads", threads]
        command = [sys.executable, "-c", script, "tokenize", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peak = int(done.stderr.split()[-1]) << 10
        assert peak < 256 << 20, f"{peak >> 20} MiB on {threads} threads"


def test_shards_take_whole_files(tmp_path: Path) -> None:
    sizes = []
    for number in range(4):
        path = write(tmp_path / f"{number}.parquet", ROWS[: 300 * number + 100])
        sizes.append(path.stat().st_size)
    inputs = _core.ShardInputs(
        [str(tmp_path)],
        errors="strict",
        text_field=None,
        max_record_bytes=1 << 30,
        left_out=[],
    )
    assert inputs.has_documents
    cuts = inputs.cuts(TOK._native, "encode", 3)
    assert cuts[0] == (0, 0)
    assert cuts[-1] == (4, 0)
    assert all(offset == 0 for _, offset in cuts)
    tokens, read = inputs.sample(TOK._native, "encode")
    assert tokens > 0
    assert read > 0
