"""Text files to token files: the ids of `encode`, whatever the slices, threads and containers."""

import gzip
import inspect
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import lmkit
from lmkit import tokenize_files
from lmkit.errors import MalformedError, MissingFileError, UsageError
from lmkit.token_file import TokenReader

EXAMPLES = int(os.environ.get("LMKIT_EXAMPLES", "60"))
END = "<|endoftext|>"
SPECIALS = (END, END + END, "<|a|>", " <|b|>\n")
SAMPLE = (
    "It's the end of the world as we know it, isn't it? 1234567 times so!!\n\n"
    "naïve café — “déjà vu”… 春はあけぼの。\u3000やうやう白くなりゆく山ぎは、\u2003少しあかりて\n"
    "def f(x):\r\n\treturn x ** 2  # squared\x00\n😀👩‍👩‍👧‍👦 e\u0301 \u00a0\u2003x\u0085y \x1c\n"
)
TOKENIZERS = {
    pattern: lmkit.Tokenizer.train(
        texts=[SAMPLE * 3], vocab_size=400, special_tokens=SPECIALS, pattern=pattern
    )
    for pattern in ["gpt2", "cl100k", "o200k", r"[a-z]+|\s"]
}
GPT2 = TOKENIZERS["gpt2"]
# Those of `lmkit.tokenize`, which has no say about the slices.
DEFAULTS: dict[str, Any] = {
    name: parameter.default
    for name, parameter in inspect.signature(lmkit.tokenize).parameters.items()
    if parameter.default is not parameter.empty and name != "progress"
} | {"force": True}


def ids_of(path: Path) -> list[int]:
    return [int(token) for token in np.load(path)]


def tokenized(
    inputs: Path | Iterable[Path], output: Path, tok: lmkit.Tokenizer = GPT2, **options: Any
) -> list[int]:
    tokenize_files.plan(inputs, output, tok, **DEFAULTS | options).run(None)
    return ids_of(output)


PARTS = st.one_of(
    st.sampled_from([*SPECIALS, "<|endof", "text|>", " ", "\n", "\r\n", "\t ", "\u3000", "\u0085"]),
    st.sampled_from(SAMPLE.split()),
    st.text(max_size=6),
)


class TestTheIds:
    @settings(max_examples=EXAMPLES, deadline=None)
    @given(
        st.lists(PARTS, max_size=80).map("".join),
        st.sampled_from(list(TOKENIZERS)),
        st.sampled_from([1, 7, 64, 200]),
        st.sampled_from([1, 2, 5]),
    )
    def test_are_those_of_encode_whatever_the_slices_and_threads(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        text: str,
        pattern: str,
        slice_bytes: int,
        num_threads: int,
    ) -> None:
        folder = tmp_path_factory.mktemp("tokenize")
        tok = TOKENIZERS[pattern]
        path, packed = folder / "text.txt", folder / "text.gz"
        path.write_bytes(text.encode())
        packed.write_bytes(gzip.compress(text.encode()))
        options = {"slice_bytes": slice_bytes, "num_threads": num_threads}
        expected = tok.encode(text)
        assert tokenized(path, folder / "a.npy", tok, **options) == expected
        assert tokenized(packed, folder / "b.npy", tok, **options) == expected
        assert tokenized(path, folder / "c.npy", tok, method="in-memory", **options) == expected
        assert (folder / "a.npy").read_bytes() == (folder / "c.npy").read_bytes()
        plain = tokenized(path, folder / "d.npy", tok, special="none", **options)
        assert plain == tok.encode(text, special="none")

    def test_special_tokens_at_every_place_of_a_slice(self, tmp_path: Path) -> None:
        for shift in range(70):
            text = "x" * shift + f"{END}{END}{END} <|b|>\n  <|a|>" * 9
            path = tmp_path / "text.txt"
            path.write_text(text)
            assert tokenized(path, tmp_path / "a.npy", slice_bytes=64) == GPT2.encode(text)

    def test_a_million_of_one_character(self, tmp_path: Path) -> None:
        for character in "a \n\u3000":
            text = character * 1_000_000
            path = tmp_path / "text.txt"
            path.write_text(text, encoding="utf-8", newline="")
            ids = tokenized(path, tmp_path / "a.npy", slice_bytes=1 << 16)
            assert ids == GPT2.encode(text)

    @pytest.mark.shared
    def test_of_real_text_with_the_vocabulary_of_gpt2(
        self, shared_dir: Path, tmp_path: Path
    ) -> None:
        tok = lmkit.Tokenizer.from_files(
            shared_dir / "gpt2" / "vocab.json", shared_dir / "gpt2" / "merges.txt"
        )
        for corpus in sorted((shared_dir / "corpora").glob("*.zst")):
            with corpus.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as raw:
                text = raw.read(3_000_000).decode(errors="ignore")
            path = tmp_path / "text.txt"
            path.write_bytes(text.encode())
            ids = tokenized(path, tmp_path / "a.npy", tok, slice_bytes=1 << 16)
            assert ids == tok.encode(text)


class TestContainers:
    def test_archives_pipes_and_records_hold_the_same_text(self, tmp_path: Path) -> None:
        text = (SAMPLE + END) * 20
        expected = GPT2.encode(text)
        (tmp_path / "one.gz").write_bytes(gzip.compress(text.encode()))
        raw = text.encode()
        (tmp_path / "two.gz").write_bytes(gzip.compress(raw[:1001]) + gzip.compress(raw[1001:]))
        pack = zstandard.ZstdCompressor().compress
        (tmp_path / "one.zst").write_bytes(pack(raw))
        (tmp_path / "two.zst").write_bytes(pack(raw[:77]) + pack(raw[77:]))
        (tmp_path / "records.jsonl").write_text(json.dumps({"text": text}) + "\n")
        for name in ["one.gz", "two.gz", "one.zst", "two.zst", "records.jsonl"]:
            for slice_bytes in [100, 1 << 20]:
                ids = tokenized(tmp_path / name, tmp_path / "a.npy", slice_bytes=slice_bytes)
                assert ids == expected, name

    def test_each_file_and_record_is_a_document(self, tmp_path: Path) -> None:
        folder = tmp_path / "texts"
        (folder / "b").mkdir(parents=True)
        (folder / "a.txt").write_text("one")
        (folder / "b" / "c.txt").write_text(f"two{END}")
        (folder / "d.jsonl").write_text('{"text": "three"}\n{"text": ""}\n')
        (folder / "e.txt").write_text("")
        (folder / "f.bin").write_bytes(b"\0\1\2")
        expected = f"one{END}two{END}three{END}{END}{END}"
        for slice_bytes in [2, 1 << 20]:
            for threads in [1, 3]:
                ids = tokenized(
                    folder, tmp_path / "a.npy", slice_bytes=slice_bytes, num_threads=threads
                )
                assert ids == [t for part in expected.split(END)[:-1] for t in doc(part)]
        summary = lmkit.tokenize(folder, tmp_path / "a.npy", GPT2, force=True)
        assert summary["documents"] == 5
        assert [Path(path).name for path in summary["skipped"]] == ["f.bin"]

    def test_the_token_between_documents(self, tmp_path: Path) -> None:
        for name in ["a.txt", "b.txt"]:
            (tmp_path / name).write_text(f"text {name}")
        paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
        plain = [GPT2.encode(path.read_text()) for path in paths]
        output = tmp_path / "out.npy"
        assert tokenized(paths, output) == joined(plain, GPT2.encode(END))
        other = GPT2.encode("<|a|>")
        ids = tokenized(tmp_path / "?.txt", output, end_of_document="<|a|>")
        assert ids == joined(plain, other)
        assert tokenized(paths, output, end_of_document="") == joined(plain, [])
        with pytest.raises(UsageError, match="end_of_document"):
            tokenized(paths[0], output, end_of_document=END)
        with pytest.raises(UsageError, match="end_of_document"):
            tokenized(paths, output, end_of_document="not there")

    def test_one_text_stays_as_it_stands(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text(f"a{END}b")
        assert tokenized(path, tmp_path / "a.npy") == GPT2.encode(f"a{END}b")

    def test_order_is_that_of_the_names_given(self, tmp_path: Path) -> None:
        for name in "zay":
            (tmp_path / name).write_text(name)
        ids = tokenized([tmp_path / name for name in "zay"], tmp_path / "o.npy", end_of_document="")
        assert GPT2.decode(ids) == "zay"


def joined(documents: list[list[int]], end: list[int]) -> list[int]:
    return [token for document in documents for token in [*document, *end]]


def doc(text: str) -> list[int]:
    return [*GPT2.encode(text), *GPT2.encode(END)]


class TestBytesThatAreNoText:
    RAW = b"a \xf0\x9f\x98 b\xff\xfe c\xc3\xa9 \xed\xa0\x80 d \xe2\x82"

    def test_strict_names_line_and_offset(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(b"fine\nfine \xc3\xa9 \xff")
        for slice_bytes in [1, 4, 1 << 20]:
            with pytest.raises(
                MalformedError, match=r"a\.txt: not UTF-8 at line 2, byte offset 13"
            ):
                tokenized(path, tmp_path / "a.npy", slice_bytes=slice_bytes)
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.txt"]

    def test_an_early_error_ends_a_long_run(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(b"\xff" + b" word" * 200_000)
        for threads in [1, 2, 5]:
            with pytest.raises(MalformedError, match="byte offset 0"):
                tokenized(path, tmp_path / "a.npy", slice_bytes=1000, num_threads=threads)

    def test_the_first_error_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes((b"word " * 1000 + b"\xff") * 50)
        for _ in range(5):
            with pytest.raises(MalformedError, match="byte offset 5000"):
                tokenized(path, tmp_path / "a.npy", slice_bytes=500, num_threads=5)

    def test_replace_is_what_python_does(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(self.RAW * 20)
        expected = GPT2.encode((self.RAW * 20).decode(errors="replace"))
        for slice_bytes in [1, 13, 1 << 20]:
            ids = tokenized(path, tmp_path / "a.npy", errors="replace", slice_bytes=slice_bytes)
            assert ids == expected

    def test_bytes_are_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(self.RAW * 20)
        expected = tokenized(path, tmp_path / "a.npy", errors="bytes")
        assert GPT2.decode_bytes(expected) == self.RAW * 20
        for slice_bytes in [1, 13, 100]:
            ids = tokenized(path, tmp_path / "a.npy", errors="bytes", slice_bytes=slice_bytes)
            assert ids == expected

    def test_an_archive_that_is_cut_off(self, tmp_path: Path) -> None:
        for name, packed in [
            ("a.gz", gzip.compress(SAMPLE.encode())),
            ("a.zst", zstandard.ZstdCompressor().compress(SAMPLE.encode())),
        ]:
            (tmp_path / name).write_bytes(packed[:-9])
            with pytest.raises(MalformedError, match=rf"{name}: the \w+ data is cut off"):
                tokenized(tmp_path / name, tmp_path / "a.npy")
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.gz", "a.zst"]


class TestOutput:
    def test_numpy_and_reader_agree_for_every_dtype(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text(SAMPLE)
        expected = GPT2.encode(SAMPLE)
        for dtype in ["int32", "uint16", "uint32"]:
            npy, raw = tmp_path / f"{dtype}.npy", tmp_path / f"{dtype}.bin"
            first = lmkit.tokenize(path, npy, GPT2, dtype=dtype)
            second = lmkit.tokenize(path, raw, GPT2, dtype=dtype)
            assert first["checksum"] == second["checksum"]
            assert np.load(npy).dtype == np.dtype(dtype)
            assert np.load(npy).tolist() == expected
            assert np.fromfile(raw, dtype).tolist() == expected
            assert npy.stat().st_size == 128 + len(expected) * np.dtype(dtype).itemsize
            saved = tmp_path / "numpy.npy"
            np.save(saved, np.array(expected, dtype))
            assert saved.read_bytes() == npy.read_bytes()
            for place in [npy, raw]:
                assert lmkit.open_tokens(place).tolist() == expected
                assert TokenReader(place).read(3, 9).tolist() == expected[3:9]

    def test_the_sidecar_tells_what_the_file_holds(self, tmp_path: Path) -> None:
        path, output = tmp_path / "a.txt", tmp_path / "a.npy"
        path.write_text(SAMPLE + END + "more", encoding="utf-8", newline="")
        summary = lmkit.tokenize(path, output, GPT2)
        sidecar = json.loads((tmp_path / "a.npy.json").read_bytes())
        ids = ids_of(output)
        assert sidecar["dtype"] == "int32"
        assert sidecar["tokens"] == summary["tokens"] == len(ids)
        assert sidecar["documents"] == summary["documents"] == 2
        assert sidecar["text_bytes"] == summary["text_bytes"] == path.stat().st_size
        assert (sidecar["smallest_id"], sidecar["largest_id"]) == (min(ids), max(ids))
        assert sidecar["tokenizer"] == GPT2.fingerprint
        assert sidecar["vocab_size"] == GPT2.vocab_size
        assert sidecar["inputs"] == [str(path)]
        assert sidecar["modified_ns"] == output.stat().st_mtime_ns
        assert sidecar["checksum"].startswith("xxh3-128:")
        reader = TokenReader(output)
        assert reader.sidecar is not None
        assert reader.sidecar.largest_id == max(ids)

    def test_an_empty_text_is_an_empty_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(b"")
        for method in ["streaming", "in-memory"]:
            assert tokenized(path, tmp_path / "a.npy", method=method) == []
        assert len(lmkit.open_tokens(tmp_path / "a.npy")) == 0
        lmkit.tokenize(path, tmp_path / "a.bin", GPT2)
        assert (tmp_path / "a.bin").read_bytes() == b""
        sidecar = json.loads((tmp_path / "a.bin.json").read_bytes())
        assert (sidecar["tokens"], sidecar["documents"], sidecar["largest_id"]) == (0, 0, None)

    def test_refusals_leave_everything_as_it_was(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("text")
        there = tmp_path / "there.npy"
        there.write_bytes(b"something")
        cases: list[tuple[Any, ...]] = [
            (path, there, {}, UsageError, "already exists"),
            (path, tmp_path / "no" / "a.npy", {}, UsageError, "no"),
            (path, tmp_path / "a.txt", {"force": True}, UsageError, r"\.npy or \.bin"),
            (tmp_path / "missing", tmp_path / "a.npy", {}, MissingFileError, "missing"),
            (path, tmp_path / "a.npy", {"dtype": "int8"}, UsageError, "int8"),
            (path, tmp_path / "a.npy", {"method": "mapped"}, UsageError, "mapped"),
            (path, tmp_path / "a.npy", {"num_threads": 0}, UsageError, "num_threads"),
            (path, tmp_path / "a.npy", {"num_threads": -1}, UsageError, "num_threads must be"),
            (path, tmp_path / "a.npy", {"max_record_bytes": 1 << 70}, UsageError, "record_bytes"),
            (path, tmp_path / "a.npy", {"errors": "ignore"}, UsageError, "ignore"),
            (path, tmp_path / "a.npy", {"val_fraction": 1.0}, UsageError, "val_fraction"),
            (path, tmp_path / "a.npy", {"val_fraction": 0.5}, UsageError, "document"),
            (path, tmp_path / "a.npy", {"text_field": "x"}, UsageError, "text_field"),
        ]
        for inputs, output, options, error, match in cases:
            with pytest.raises(error, match=match):
                lmkit.tokenize(inputs, output, GPT2, **options)
        assert there.read_bytes() == b"something"
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.txt", "there.npy"]

    def test_uint16_needs_a_vocabulary_that_fits(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("text")
        vocab = {byte: bytes([byte]) for byte in range(256)}
        fits = lmkit.Tokenizer(vocab | {65_535: b"te"}, [(b"t", b"e")])
        assert tokenized(path, tmp_path / "a.npy", fits, dtype="uint16")[0] == 65_535
        large = lmkit.Tokenizer(vocab | {65_536: b"te"}, [(b"t", b"e")])
        with pytest.raises(UsageError, match="uint16"):
            tokenized(path, tmp_path / "b.npy", large, dtype="uint16")
        assert tokenized(path, tmp_path / "b.npy", large, dtype="uint32")[0] == 65_536

    def test_what_dead_runs_left_is_swept_and_what_others_own_is_not(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("text")
        dead = tmp_path / f".a.npy.{dead_process()}.lmkit-tmp"
        alive = tmp_path / f".a.npy.{os.getppid()}.lmkit-tmp"
        other = tmp_path / f".b.npy.{dead_process()}.lmkit-tmp"
        for left in [dead, alive, other]:
            left.write_bytes(b"half")
        lmkit.tokenize(path, tmp_path / "a.npy", GPT2)
        assert not dead.exists()
        assert alive.exists()
        assert other.exists()

    def test_a_folder_that_holds_the_output_too(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("text")
        first = tokenized(tmp_path, tmp_path / "a.npy")
        assert tokenized(tmp_path, tmp_path / "a.npy") == first
        (tmp_path / "deep").mkdir()
        (tmp_path / "deep" / "b.txt").write_text(" and more")
        (tmp_path / "deep" / "same.npy").symlink_to(tmp_path / "a.npy")
        (tmp_path / "deep" / "c.txt").symlink_to(tmp_path / "a.txt")
        summary = lmkit.tokenize(tmp_path, tmp_path / "a.npy", GPT2, force=True)
        assert summary["skipped"] == []
        assert summary["text_bytes"] == len("text and moretext")


def dead_process() -> int:
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitpid(process, 0)
    return process


class TestValidation:
    def test_whole_documents_go_the_same_way_every_time(self, tmp_path: Path) -> None:
        documents = [f"document {i} " + "and so on " * (i % 50) for i in range(300)]
        text = END.join(documents) + END
        path, output = tmp_path / "a.txt", tmp_path / "a.npy"
        path.write_text(text)
        summary = lmkit.tokenize(path, output, GPT2, val_fraction=0.1)
        validation = tmp_path / "a.val.npy"
        train, val = GPT2.decode(ids_of(output)), GPT2.decode(ids_of(validation))
        assert sorted((train + val).split(END)) == ["", *sorted(documents)]
        assert 5 < val.count(END) < 70
        assert summary["validation"]["documents"] == val.count(END)
        assert summary["documents"] == train.count(END)
        assert json.loads((tmp_path / "a.val.npy.json").read_bytes())["tokens"] == len(
            ids_of(validation)
        )
        for options in [{"slice_bytes": 100}, {"num_threads": 1}, {"method": "in-memory"}]:
            other = tmp_path / "other.npy"
            named = tmp_path / "named.npy"
            tokenized(path, other, val_fraction=0.1, val_output=named, **options)
            assert other.read_bytes() == output.read_bytes()
            assert named.read_bytes() == validation.read_bytes()

    def test_records_are_documents_too(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        texts = [f"record {i}" for i in range(200)]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        lmkit.tokenize(path, tmp_path / "a.npy", GPT2, val_fraction=0.2)
        both = GPT2.decode(ids_of(tmp_path / "a.npy") + ids_of(tmp_path / "a.val.npy"))
        assert sorted(both.split(END)) == ["", *sorted(texts)]


def test_progress_counts_the_bytes_of_the_inputs(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("word " * 100_000)
    calls: list[tuple[int, int, int]] = []
    lmkit.tokenize(path, tmp_path / "a.npy", GPT2, progress=lambda *call: calls.append(call))
    assert calls[-1] == (0, 500_000, 500_000)


def test_a_callback_that_raises_ends_the_run(tmp_path: Path) -> None:
    # A pipe that nobody closes: without the callback the run would never end.
    path = tmp_path / "a.pipe"
    os.mkfifo(path)
    kept_open = os.open(path, os.O_RDWR)

    def stop(*_: int) -> None:
        raise RuntimeError("enough")

    try:
        with pytest.raises(RuntimeError, match="enough"):
            lmkit.tokenize(path, tmp_path / "a.npy", GPT2, progress=stop, num_threads=1)
    finally:
        os.close(kept_open)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pipe"]


def test_a_record_longer_than_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("short " + "x" * 5000)
    with pytest.raises(MalformedError, match="from byte offset 5 on, more than 1000 bytes"):
        lmkit.tokenize(path, tmp_path / "a.npy", GPT2, max_record_bytes=1000)


def test_a_path_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(TypeError, match=r"not str; lmkit\.Tokenizer\.load opens one"):
        lmkit.tokenize(tmp_path / "a.txt", tmp_path / "a.npy", "tokenizer/")  # type: ignore[arg-type]
