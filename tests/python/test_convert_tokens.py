"""Token files of other tools in and out: golden bytes, and readers written from the formats."""

import json
import os
import struct
import subprocess
import sys
import tracemalloc
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lmkit
from full_disk import files_up_to
from lmkit.errors import (
    MalformedError,
    MismatchError,
    MissingFileError,
    SystemRefusedError,
    UsageError,
)
from lmkit.token_file import TokenFileWarning, TokenReader, read_sidecar
from lmkit.token_formats import convert, llmc

END = "<|endoftext|>"
WORDS = "the cat sat on the mat, naïve café 春はあけぼの\n"
TOK = lmkit.Tokenizer.train(texts=[WORDS * 3], vocab_size=300)
END_ID = TOK.special_tokens[END]
DOCUMENTS = [WORDS * (n % 7) + str(n) for n in range(400)]
IDS = np.array([i for text in DOCUMENTS for i in (*TOK.encode(text), END_ID)], np.int32)
ENDS = np.cumsum([len(TOK.encode(text)) + 1 for text in DOCUMENTS])


@pytest.fixture(scope="module")
def npy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `lmkit tokenize` makes of the documents."""
    folder = tmp_path_factory.mktemp("tokens")
    lines = folder / "rows.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    lmkit.tokenize(lines, folder / "train.npy", TOK)
    assert np.array_equal(np.load(folder / "train.npy"), IDS)
    return folder / "train.npy"


# Readers by hand, from the published formats alone.


def read_llmc(path: Path) -> tuple[int, np.ndarray]:
    raw = path.read_bytes()
    words = np.frombuffer(raw[:1024], "<i4")
    dtype = {20240520: "<u2", 20240801: "<u4"}[words[0]]
    assert words[1] == {20240520: 1, 20240801: 7}[words[0]]
    assert not words[3:].any()
    ids = np.frombuffer(raw[1024:], dtype)
    assert len(ids) == words[2]
    return int(words[0]), ids


def read_megatron(prefix: Path) -> list[list[int]]:
    """The documents, as Megatron-LM's IndexedDataset finds them."""
    raw = prefix.with_name(prefix.name + ".idx").read_bytes()
    assert raw[:9] == b"MMIDIDX\x00\x00"
    version, code = struct.unpack("<QB", raw[9:18])
    assert version == 1
    dtype = np.dtype({4: "<i4", 8: "<u2"}[code])
    sequences, entries = struct.unpack("<QQ", raw[18:34])
    sizes = np.frombuffer(raw, "<i4", sequences, 34)
    pointers = np.frombuffer(raw, "<i8", sequences, 34 + 4 * sequences)
    index = np.frombuffer(raw, "<i8", entries, 34 + 12 * sequences)
    assert len(raw) == 34 + 12 * sequences + 8 * entries
    data = prefix.with_name(prefix.name + ".bin").read_bytes()
    texts = [
        np.frombuffer(data, dtype, size, pointer).tolist()
        for size, pointer in zip(sizes, pointers, strict=True)
    ]
    return [list(chain.from_iterable(texts[a:b])) for a, b in pairwise(index)]


def documents(ids: np.ndarray, ends: np.ndarray) -> list[list[int]]:
    return [part.tolist() for part in np.split(ids, ends[:-1])]


def ids_of(path: Path) -> list[int]:
    return np.load(path).tolist()


class TestOut:
    def test_nanogpt_is_uint16_ids_alone(self, npy: Path, tmp_path: Path) -> None:
        done = convert(npy, tmp_path / "train.bin", to_format="nanogpt")
        assert (tmp_path / "train.bin").read_bytes() == IDS.astype("<u2").tobytes()
        assert done["tokens"] == len(IDS)
        assert [entry.name for entry in tmp_path.iterdir()] == ["train.bin"]

    @pytest.mark.parametrize(
        ("dtype", "magic"), [(None, 20240520), ("uint16", 20240520), ("uint32", 20240801)]
    )
    def test_llmc_has_its_header(
        self, npy: Path, tmp_path: Path, dtype: str | None, magic: int
    ) -> None:
        convert(npy, tmp_path / "a.bin", to_format="llmc", dtype=dtype)
        found, ids = read_llmc(tmp_path / "a.bin")
        assert found == magic
        assert np.array_equal(ids, IDS)

    def test_llmc_is_split(self, npy: Path, tmp_path: Path) -> None:
        done = convert(npy, tmp_path / "a.bin", to_format="llmc", shard_tokens=1000)
        files = sorted(tmp_path.iterdir())
        assert [str(path) for path in files] == done["files"]
        assert files[1].name == "a_000001.bin"
        parts = [read_llmc(path)[1] for path in files]
        assert {len(part) for part in parts[:-1]} == {1000}
        assert np.array_equal(np.concatenate(parts), IDS)

    def test_llmc_may_have_more_files_than_can_be_open(self, npy: Path, tmp_path: Path) -> None:
        files = [str(tmp_path / f"a_{part:06d}.bin") for part in range(-(-len(IDS) // 100))]
        resource = pytest.importorskip("resource")
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(files) // 2, limit[1]))
        try:
            done = convert(npy, tmp_path / "a.bin", to_format="llmc", shard_tokens=100)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        assert done["files"] == files == sorted(map(str, tmp_path.iterdir()))
        assert np.array_equal(np.concatenate([read_llmc(Path(one))[1] for one in files]), IDS)

    def test_no_part_of_an_earlier_llmc_stays_among_those_of_a_later(
        self, npy: Path, tmp_path: Path
    ) -> None:
        many = convert(npy, tmp_path / "a.bin", to_format="llmc", shard_tokens=1000)["files"]
        (tmp_path / "a_other_000009.bin").touch()
        (tmp_path / "a_000000.bin").unlink()
        (tmp_path / "a_000001.bin").unlink()
        options = {"to_format": "llmc", "shard_tokens": len(IDS) - 1}
        with pytest.raises(UsageError, match=r"a_000002\.bin: already exists"):
            convert(npy, tmp_path / "a.bin", **options)
        done = convert(npy, tmp_path / "a.bin", **options, force=True)
        assert len(many) > 2 == len(done["files"])
        convert(f"{tmp_path}/a_0*.bin", tmp_path / "back.npy")
        assert np.array_equal(np.load(tmp_path / "back.npy"), IDS)
        assert (tmp_path / "a_other_000009.bin").exists()

    def test_parts_of_llmc_end_in_bin_whatever_was_typed(self, npy: Path, tmp_path: Path) -> None:
        convert(npy, tmp_path / "a", to_format="llmc", shard_tokens=1000)
        assert {path.suffix for path in tmp_path.iterdir()} == {".bin"}

    def test_llmc_golden_bytes(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.array([50256, 1, 2], np.int32))
        convert(tmp_path / "a.npy", tmp_path / "a.bin", to_format="llmc")
        head = bytes.fromhex("88d83401 01000000 03000000") + bytes(1012)
        assert (tmp_path / "a.bin").read_bytes() == head + bytes.fromhex("50c4 0100 0200")

    def test_megatron_has_the_documents(self, npy: Path, tmp_path: Path) -> None:
        done = convert(npy, tmp_path / "train", to_format="megatron", tokenizer=TOK)
        assert read_megatron(tmp_path / "train") == documents(IDS, ENDS)
        assert (done["documents"], done["dtype"]) == (len(DOCUMENTS), "uint16")
        assert done["files"] == [str(tmp_path / "train.bin"), str(tmp_path / "train.idx")]

    def test_megatron_golden_bytes(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.array([5, 70000, 9, 9, 3], np.int64))
        convert(tmp_path / "a.npy", tmp_path / "a.idx", end_of_document="9")
        wanted = (
            "4d4d494449445800 00"  # MMIDIDX
            "0100000000000000 04"  # version, int32
            "0300000000000000 0400000000000000"
            "03000000 01000000 01000000"
            "0000000000000000 0c00000000000000 1000000000000000"
            "0000000000000000 0100000000000000 0200000000000000 0300000000000000"
        )
        assert (tmp_path / "a.idx").read_bytes() == bytes.fromhex(wanted)
        assert (tmp_path / "a.bin").read_bytes() == struct.pack("<5i", 5, 70000, 9, 9, 3)

    def test_text_is_the_text(self, npy: Path, tmp_path: Path) -> None:
        convert(npy, tmp_path / "a.txt", tokenizer=TOK)
        assert (tmp_path / "a.txt").read_text() == "".join(f"{text}{END}" for text in DOCUMENTS)

    def test_bytes_that_are_no_text_come_back(self, tmp_path: Path) -> None:
        raw = b"caf\xe9 \xff\xfe" * 100
        (tmp_path / "raw.txt").write_bytes(raw)
        lmkit.tokenize(tmp_path / "raw.txt", tmp_path / "a.npy", TOK, errors="bytes")
        convert(tmp_path / "a.npy", tmp_path / "b.txt", tokenizer=TOK)
        assert (tmp_path / "b.txt").read_bytes() == raw


class TestIn:
    def test_nanogpt(self, tmp_path: Path) -> None:
        (tmp_path / "train.bin").write_bytes(IDS.astype("<u2").tobytes())
        done = convert(tmp_path / "train.bin", tmp_path / "a.npy", from_format="nanogpt")
        assert ids_of(tmp_path / "a.npy") == IDS.tolist()
        assert done["dtype"] == "uint16"

    @pytest.mark.parametrize(("dtype", "magic"), [("<u2", 20240520), ("<u4", 20240801)])
    def test_llmc_by_its_magic(self, tmp_path: Path, dtype: str, magic: int) -> None:
        for part, ids in enumerate(np.array_split(IDS, 3)):
            words = np.zeros(256, "<i4")
            words[:3] = magic, {20240520: 1, 20240801: 7}[magic], len(ids)
            path = tmp_path / f"train_{part:06d}.bin"
            path.write_bytes(words.tobytes() + ids.astype(dtype).tobytes())
        convert(tmp_path / "train_*.bin", tmp_path / "a.npy")
        assert ids_of(tmp_path / "a.npy") == IDS.tolist()
        convert(tmp_path / "train_000001.bin", tmp_path / "b.npy")
        assert ids_of(tmp_path / "b.npy") == np.array_split(IDS, 3)[1].tolist()

    def test_lmkit_reads_the_outcome(self, npy: Path, tmp_path: Path) -> None:
        convert(npy, tmp_path / "a.bin", to_format="bin", dtype="uint32")
        with TokenReader(tmp_path / "a.bin") as reader:
            assert reader.dtype.name == "uint32"
            assert np.array_equal(reader.read(0, len(reader)), IDS)
            told, original = reader.sidecar, read_sidecar(npy)
        assert told is not None
        assert original is not None
        assert (told.smallest_id, told.largest_id) == (IDS.min(), IDS.max())
        for name in ("tokens", "documents", "text_bytes", "tokenizer", "vocab_size", "inputs"):
            assert getattr(told, name) == getattr(original, name)

    def test_there_and_back_is_the_same_file(self, npy: Path, tmp_path: Path) -> None:
        convert(npy, tmp_path / "m", to_format="megatron", tokenizer=TOK, dtype="int32")
        convert(tmp_path / "m.idx", tmp_path / "a.npy", tokenizer=TOK)
        assert (tmp_path / "a.npy").read_bytes() == npy.read_bytes()
        told, original = read_sidecar(tmp_path / "a.npy"), read_sidecar(npy)
        assert told is not None
        assert original is not None
        assert told.checksum == original.checksum, "the core's own"
        assert told.documents == original.documents
        assert ids_of(tmp_path / "a.docs.npy") == ENDS.tolist()
        convert(tmp_path / "a.npy", tmp_path / "n", to_format="megatron", dtype="int32")
        for suffix in (".bin", ".idx"):
            again = (tmp_path / "n").with_suffix(suffix).read_bytes()
            assert again == (tmp_path / "m").with_suffix(suffix).read_bytes()

    def test_megatron_with_documents_of_several_sentences(self, tmp_path: Path) -> None:
        sizes, index = [2, 3, 1, 4], [0, 2, 2, 3, 4]
        starts = np.cumsum([0, *sizes[:-1]]) * 4
        head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 4, 4, 5)
        body = np.array(sizes, "<i4").tobytes() + starts.astype("<i8").tobytes()
        (tmp_path / "a.idx").write_bytes(head + body + np.array(index, "<i8").tobytes())
        (tmp_path / "a.bin").write_bytes(np.arange(10, dtype="<i4").tobytes())
        done = convert(tmp_path / "a", tmp_path / "b.npy")
        assert ids_of(tmp_path / "b.npy") == list(range(10))
        assert ids_of(tmp_path / "b.docs.npy") == [5, 5, 6, 10]
        assert done["documents"] == 4

    @pytest.mark.peers
    def test_megatron_as_datatrove_writes_it(self, tmp_path: Path) -> None:
        tokens = pytest.importorskip("datatrove.pipeline.tokens.megatron_tokenizer")
        for size, name in ((2, "small"), (4, "large")):
            file = tokens.MegatronTokenizedFile(str(tmp_path), name, token_size=size)
            for text in documents(IDS, ENDS):
                file.write(text)
            file.close()
            convert(tmp_path / f"{name}.idx", tmp_path / f"{name}.npy")
            assert ids_of(tmp_path / f"{name}.npy") == IDS.tolist()
            assert ids_of(tmp_path / f"{name}.docs.npy") == ENDS.tolist()
            dtype = {2: "uint16", 4: "int32"}[size]
            convert(
                tmp_path / f"{name}.npy",
                tmp_path / "again",
                to_format="megatron",
                dtype=dtype,
                force=True,
            )
            for suffix in (".bin", ".idx"):
                ours = (tmp_path / "again").with_suffix(suffix).read_bytes()
                assert ours == (tmp_path / name).with_suffix(suffix).read_bytes()


class TestRefusals:
    def refused(self, *paths: Path, kind: type[Exception] = MalformedError, **asked: Any) -> str:
        before = {path.name: path.read_bytes() for path in paths[1].parent.iterdir()}
        with pytest.raises(kind) as error:
            convert(*paths, force=True, **asked)
        after = {path.name: path.read_bytes() for path in paths[1].parent.iterdir()}
        assert after == before, "nothing is replaced, nothing left"
        return str(error.value)

    def test_an_id_that_does_not_fit_is_named_before_anything_is_replaced(
        self, tmp_path: Path
    ) -> None:
        source, target = tmp_path / "a.npy", tmp_path / "out" / "b.bin"
        target.parent.mkdir()
        target.write_bytes(b"older")
        ids = np.arange(600_000) % 1000
        ids[500_000] = 65536
        np.save(source, ids)
        said = self.refused(source, target, to_format="nanogpt")
        limit = "uint16 holds ids from 0 to 65,535"
        assert said == f"{source}: id 65536 at index 500,000 does not fit: {limit}"
        ids[500_000], ids[400_000] = 65535, -1
        np.save(source, ids)
        assert "id -1 at index 400,000" in self.refused(source, target, to_format="nanogpt")
        ids[400_000] = 1 << 31
        np.save(source, ids)
        said = self.refused(source, target.with_suffix(".npy"))
        assert "id 2147483648 at index 400,000" in said
        assert "int32 holds ids from 0 to 2,147,483,647" in said
        ids[400_000] = TOK.vocab_size
        np.save(source, ids[400_000:])
        said = self.refused(source, target.with_suffix(".npy"), tokenizer=TOK)
        assert f"id {TOK.vocab_size} at index 0 does not fit: the tokenizer has ids" in said

    def test_an_id_without_a_token_has_no_text(self, tmp_path: Path) -> None:
        gap = lmkit.Tokenizer({**TOK.vocab, 400: b"catmat"}, TOK.merges)
        np.save(tmp_path / "a.npy", [1, 2, 350])
        said = self.refused(tmp_path / "a.npy", tmp_path / "a.txt", tokenizer=gap)
        assert "id 350 at index 2 is not in the tokenizer's vocabulary" in said

    def test_what_the_name_does_not_tell(self, tmp_path: Path) -> None:
        (tmp_path / "a.bin").write_bytes(bytes(100))
        np.save(tmp_path / "a.npy", IDS)
        said = self.refused(tmp_path / "a.bin", tmp_path / "b.npy", kind=UsageError)
        assert "no sidecar, index or header says what it is" in said
        said = self.refused(tmp_path / "a.npy", tmp_path / "b.bin", kind=UsageError)
        assert "its name does not tell a format" in said
        said = self.refused(tmp_path / "a.npy", tmp_path / "b.idx", kind=UsageError)
        assert "nothing says where its documents end" in said
        with pytest.warns(TokenFileWarning, match="int32"):
            convert(tmp_path / "a.bin", tmp_path / "b.npy", from_format="bin")

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"to_format": "nanogpt", "dtype": "int32"}, "nanogpt files hold uint16"),
            ({"to_format": "megatron", "dtype": "uint32"}, "megatron files hold uint16, int32"),
            ({"to_format": "nanogpt", "shard_tokens": 9}, "has no effect but on llmc"),
            ({"to_format": "nanogpt", "end_of_document": "9"}, "keeps no document ends"),
            ({"to_format": "npy"}, "lmkit's npy files end in .npy"),
            ({"to_format": "text"}, "ids become text with a tokenizer"),
            ({"to_format": "megatron", "end_of_document": END}, "no tokenizer says which id"),
        ],
    )
    def test_options_that_do_not_go_together(
        self, npy: Path, tmp_path: Path, asked: dict[str, Any], said: str
    ) -> None:
        assert said in self.refused(npy, tmp_path / "a.bin", kind=UsageError, **asked)

    def test_torn_files(self, npy: Path, tmp_path: Path) -> None:
        inputs, target = tmp_path / "in", tmp_path / "out" / "b.npy"
        inputs.mkdir()
        target.parent.mkdir()

        def torn(name: str, raw: bytes, **asked: Any) -> str:
            (inputs / name).write_bytes(raw)
            return self.refused(inputs / name, target, **asked)

        convert(npy, inputs / "l.bin", to_format="llmc")
        whole = (inputs / "l.bin").read_bytes()
        assert "but it has" in torn("l.bin", whole[:-2], from_format="llmc")
        assert "less than llm.c's header" in torn("l.bin", whole[:100], from_format="llmc")
        assert "magic" in torn("l.bin", b"\1" + whole[1:], from_format="llmc")
        odd = struct.pack("<3i", 20240520, 2, 0).ljust(1024, b"\0")
        assert "version 2; version 1 is known" in torn("l.bin", odd, from_format="llmc")
        assert "no whole number of uint16" in torn("n.bin", b"123", from_format="nanogpt")
        convert(npy, inputs / "m", to_format="megatron", tokenizer=TOK)
        index, ids = (inputs / "m.idx").read_bytes(), (inputs / "m.bin").read_bytes()
        assert "torn: its header speaks of" in torn("m.idx", index[:-8])
        assert "version 2" in torn("m.idx", index[:9] + b"\2" + index[10:])
        assert "Megatron's magic" in torn("m.idx", b"x" + index[1:])
        swapped = index[:34] + index[38:42] + index[34:38] + index[42:]
        assert "do not follow one another" in torn("m.idx", swapped)
        falls = index[:-8] + bytes(8)
        assert "its document index falls" in torn("m.idx", falls)
        short = index[:-8] + struct.pack("<q", len(DOCUMENTS) - 1)
        assert "of 400 sequences" in torn("m.idx", short)
        (inputs / "m.idx").write_bytes(index)
        (inputs / "m.bin").write_bytes(ids[:-2])
        assert "holds" in self.refused(inputs / "m.idx", target)

    def test_existing_outputs_need_force(self, npy: Path, tmp_path: Path) -> None:
        for name in ("a.npy", "a.npy.json", "a.docs.npy"):
            (tmp_path / name).write_bytes(b"older")
            with pytest.raises(UsageError, match="already exists") as error:
                convert(npy, tmp_path / "a.npy")
            assert "--force" in (error.value.hint or "")
            assert (tmp_path / name).read_bytes() == b"older"
            (tmp_path / name).unlink()
        (tmp_path / "a.docs.npy").write_bytes(b"older")
        convert(npy, tmp_path / "a.npy", force=True)
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.npy", "a.npy.json"]

    @pytest.mark.parametrize("name", ["full.txt", "full.npy"])
    def test_a_full_disk_is_named(self, npy: Path, tmp_path: Path, name: str) -> None:
        refused = pytest.raises(SystemRefusedError, match=f"{name}.*: File too large")
        with refused, files_up_to(1000):
            convert(npy, tmp_path / name, tokenizer=TOK)
        assert not list(tmp_path.iterdir())

    def test_a_disk_that_is_full_at_the_end_keeps_nothing(self, tmp_path: Path) -> None:
        """As where the ids fit, and their sidecar does not."""
        few = tmp_path / "few.npy"
        np.save(few, np.arange(10, dtype="<i4"))
        refused = pytest.raises(SystemRefusedError, match=r"a\.npy\.json: File too large")
        with refused, files_up_to(200):
            convert(few, tmp_path / "a.npy")
        assert list(tmp_path.iterdir()) == [few]

    def test_others(self, npy: Path, tmp_path: Path) -> None:
        with pytest.raises(MissingFileError):
            convert(tmp_path / "no.npy", tmp_path / "a.npy")
        with pytest.raises(MissingFileError):
            convert(tmp_path / "no_*.bin", tmp_path / "a.npy")
        with pytest.raises(MissingFileError):
            convert(npy, tmp_path / "no" / "a.npy")
        with pytest.raises(MissingFileError, match="no: no such file or folder"):
            convert(npy, tmp_path / "no" / "a", to_format="megatron", end_of_document="7")
        with pytest.raises(UsageError, match="one of the inputs"):
            convert(npy, npy, force=True)
        other = lmkit.Tokenizer.train(texts=["other"], vocab_size=258)
        with pytest.raises(MismatchError, match="another tokenizer"):
            convert(npy, tmp_path / "a.txt", tokenizer=other)


def test_what_a_dead_run_left_is_swept(npy: Path, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".a.npy.{dead.pid}.lmkit-tmp").write_bytes(b"torn")
    alive = tmp_path / f".a.npy.{os.getppid()}.lmkit-tmp"
    alive.write_bytes(b"someone else's")
    convert(npy, tmp_path / "a.npy")
    assert {entry.name for entry in tmp_path.iterdir()} == {alive.name, "a.npy", "a.npy.json"}


def test_memory_does_not_depend_on_the_length(tmp_path: Path) -> None:
    ids = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint16, (8_000_000,))
    ids[:] = np.arange(len(ids)) % 50_000
    ids.flush()
    convert(tmp_path / "a.npy", tmp_path / "warm.npy")
    tracemalloc.start()
    convert(tmp_path / "a.npy", tmp_path / "a", to_format="megatron", end_of_document="7")
    convert(tmp_path / "a.idx", tmp_path / "b.npy", dtype="int32")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20
    assert np.array_equal(np.load(tmp_path / "b.npy", mmap_mode="r"), ids)


def test_an_empty_file_converts(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.empty(0, np.int32))
    convert(tmp_path / "a.npy", tmp_path / "a", to_format="megatron", end_of_document="9")
    convert(tmp_path / "a", tmp_path / "b.npy")
    convert(tmp_path / "b.npy", tmp_path / "c.bin", to_format="llmc")
    convert(tmp_path / "c.bin", tmp_path / "d.npy")
    assert ids_of(tmp_path / "d.npy") == []


def test_the_header_counts_as_far_as_int32() -> None:
    names = llmc.file_names(Path("a.bin"), 2, numbered=False)
    assert [path.name for path in names] == ["a_000000.bin", "a_000001.bin"]
    assert llmc.MOST_TOKENS == 2**31 - 1
    assert len(llmc.header("uint32", llmc.MOST_TOKENS)) == 1024


def test_the_command(npy: Path, tmp_path: Path) -> None:
    TOK.save(tmp_path / "tok")

    def said(*words: object, code: int = 0) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "lmkit", "convert", "tokens", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done

    done = said(npy, tmp_path / "m", "--to", "megatron", "--tokenizer", tmp_path / "tok")
    assert f"{len(IDS):,} tokens of 400 documents, uint16, megatron of npy" in done.stdout
    done = said(tmp_path / "m.idx", tmp_path / "n.bin", "--to", "nanogpt")
    assert "where its documents end is not kept" in done.stderr
    done = said(tmp_path / "n.bin", tmp_path / "a.npy", "--from", "nanogpt", "--json")
    assert json.loads(done.stdout)["tokens"] == len(IDS)
    done = said(tmp_path / "n.bin", tmp_path / "b.npy", code=2)
    assert done.stderr.startswith(f"error: {tmp_path / 'n.bin'}: no sidecar, index or header")
    assert "hint: --from nanogpt" in done.stderr
