"""The files of a sharded data set: what is written is read, what is wrong is refused by name."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lmkit.errors import MalformedError, MismatchError, MissingFileError, UsageError
from lmkit.shards.manifest import Manifest, ShardEntry, parse_manifest, read_manifest
from lmkit.shards.names import parse_shard, shard_name
from lmkit.shards.plan import Cut, Plan, PlannedInput, read_plan
from lmkit.shards.receipt import Receipt, check_files, read_receipt
from lmkit.shards.work_folder import sweep, work_folder


@pytest.fixture
def plan() -> Plan:
    return Plan(
        data_path=["texts/"],
        inputs=[
            PlannedInput("/texts/a.txt", 100, 7, True),
            PlannedInput("/texts/empty.txt", 0, 7, True),
            PlannedInput("/texts/b.txt", 50, 8, True),
        ],
        cuts=[Cut(0, 0), Cut(0, 60), Cut(2, 0), Cut(2, 0), Cut(2, 10), Cut(3, 0)],
        tokenizer="f" * 64,
        options={"dtype": "int32", "val_fraction": None},
        lmkit="0.1.0",
    )


@pytest.fixture
def manifest() -> Manifest:
    entries = [
        ShardEntry(shard_name(0, 2), 10, 2, "xxh3-128:0", "xxh3-128:1", 168, 3, 9),
        ShardEntry(shard_name(1, 2), 0, 0, "xxh3-128:2", "xxh3-128:3", 128, None, None),
    ]
    return Manifest(
        plan="1" * 32,
        dtype="int32",
        suffix=".npy",
        tokens=10,
        documents=2,
        text_bytes=40,
        smallest_id=3,
        largest_id=9,
        tokenizer="f" * 64,
        vocab_size=256,
        inputs=["texts/"],
        split="train",
        shards=tuple(entries),
        lmkit="0.1.0",
    )


RECEIPT = Receipt(
    plan="1" * 32,
    number=0,
    name=shard_name(0, 2),
    dtype="uint16",
    suffix=".npy",
    tokens=10,
    documents=2,
    text_bytes=40,
    checksum="xxh3-128:0",
    documents_checksum="xxh3-128:1",
    file_bytes=148,
    smallest_id=None,
    largest_id=9,
    lmkit="0.1.0",
    worker="here",
    seconds=1.5,
    skipped=["picture.png"],
    null_rows=3,
)


def test_shards_are_numbered_from_zero():
    assert shard_name(17, 512) == "shard_00017_of_00512"
    assert shard_name(7, 100_000) == "shard_000007_of_100000"
    assert parse_shard("17/512") == (17, 512)
    with pytest.raises(UsageError, match="no shard 512 of 512") as raised:
        parse_shard("512/512")
    assert "from 0 to 511" in str(raised.value.hint)
    with pytest.raises(UsageError, match="NUMBER/COUNT"):
        parse_shard("17 of 512")


def test_a_plan_is_read_as_it_was_written(plan, tmp_path):
    (tmp_path / "plan.json").write_bytes(plan.to_bytes())
    assert read_plan(tmp_path) == plan
    assert read_plan(tmp_path).to_bytes() == plan.to_bytes()
    parts = [
        [(one.input.path[-5:], one.start, one.end) for one in plan.ranges(k)] for k in range(5)
    ]
    assert parts == [
        [("a.txt", 0, 60)],
        [("a.txt", 60, 100), ("y.txt", 0, 0)],
        [],
        [("b.txt", 0, 10)],
        [("b.txt", 10, 50)],
    ]
    assert sum(plan.shard_bytes(number) for number in range(5)) == plan.total_bytes == 150


def test_another_plan_is_refused_by_what_differs(plan):
    moved = PlannedInput("/other/a.txt", 100, 7, True)
    touched = PlannedInput("/texts/a.txt", 100, 9, True)
    rest = plan.inputs[1:]
    for other, said in (
        (replace(plan, lmkit="0.0.9"), "made by lmkit 0.0.9, and this is 0.1.0"),
        (replace(plan, tokenizer="e" * 64), "another tokenizer"),
        (replace(plan, options={**plan.options, "dtype": "uint16"}), "--dtype was uint16"),
        (replace(plan, inputs=[moved, *rest]), "from /other/a.txt, not /texts/a.txt"),
        (replace(plan, inputs=[touched, *rest]), "/texts/a.txt has changed since"),
        (replace(plan, inputs=plan.inputs[:2], cuts=[Cut(0, 0), Cut(2, 0)]), "from 2 files, not 3"),
        (replace(plan, cuts=plan.cuts[1:]), "has 4 shards, not 5"),
        (replace(plan, cuts=[Cut(0, 0), Cut(0, 61), *plan.cuts[2:]]), "cut elsewhere"),
    ):
        assert other.id != plan.id
        with pytest.raises(MismatchError, match="holds shards of another plan") as raised:
            plan.check_same(other, Path("out"))
        assert said in str(raised.value)
    plan.check_same(replace(plan, data_path=["./texts"]), Path("out"))


def test_a_plan_that_was_changed_by_hand_is_refused(plan, tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(plan.to_bytes().replace(b'"dtype": "int32"', b'"dtype": "uint16"'))
    with pytest.raises(MalformedError, match="its id is not that of its contents"):
        read_plan(tmp_path)
    for options in ([], "", None):
        path.write_text(json.dumps(json.loads(plan.to_bytes()) | {"options": options}))
        with pytest.raises(MalformedError, match="not a plan"):
            read_plan(tmp_path)
    path.write_text('{"format": 1}')
    with pytest.raises(MalformedError, match="not a plan"):
        read_plan(tmp_path)


def test_a_manifest_is_read_as_it_was_written(manifest, tmp_path):
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    assert read_manifest(tmp_path) == read_manifest(tmp_path / "manifest.json") == manifest
    assert manifest.token_file(manifest.shards[1]) == "shard_00001_of_00002.npy"
    assert manifest.document_ends_file(manifest.shards[1]) == "shard_00001_of_00002.docs.npy"
    with pytest.raises(MissingFileError, match="no such file"):
        read_manifest(tmp_path / "nowhere")


def test_wrong_manifests_are_refused(manifest):
    def refusal(**changes: object) -> str:
        content = {**json.loads(manifest.to_bytes()), **changes}
        with pytest.raises(MalformedError) as raised:
            parse_manifest(json.dumps(content).encode(), "m.json")
        return str(raised.value)

    rows = json.loads(manifest.to_bytes())["shards"]
    newer = refusal(format=2, lmkit="9.0")
    assert "format 2, written by lmkit 9.0" in newer
    assert "'tokens' is missing or of the wrong type" in refusal(tokens="10")
    assert "'tokens' is missing or of the wrong type" in refusal(tokens=True)
    assert "dtype is 'float32'" in refusal(dtype="float32")
    assert "speaks of 11 tokens, but its shards have 10" in refusal(tokens=11)
    assert "'checksum' is missing" in refusal(shards=[{**rows[0], "checksum": None}])
    for name in ("../secrets", "/etc/passwd", "a/b", "", ".hidden", "..", 7):
        assert "shard 0" in refusal(shards=[{**rows[0], "name": name}])
    assert "a count below zero" in refusal(shards=[{**rows[0], "tokens": -1}])
    with pytest.raises(MalformedError, match=r"m\.json: not a manifest"):
        parse_manifest(b"{", "m.json")


def test_a_receipt_that_lies_is_found_out(tmp_path):
    path = tmp_path / f"{RECEIPT.name}.receipt.json"
    path.write_bytes(RECEIPT.to_bytes())
    assert read_receipt(path) == RECEIPT
    tokens, ends = tmp_path / RECEIPT.token_file, tmp_path / f"{RECEIPT.name}.docs.npy"
    with pytest.raises(MismatchError, match=r"00002\.npy: is missing") as raised:
        check_files(RECEIPT, tmp_path)
    assert "remove shard_00000_of_00002.receipt.json" in str(raised.value.hint)
    tokens.write_bytes(b"x" * 148)
    ends.write_bytes(b"x" * 143)
    with pytest.raises(MismatchError, match=r"docs\.npy: is torn: it has 143 bytes.* 144"):
        check_files(RECEIPT, tmp_path)
    ends.write_bytes(b"x" * 144)
    check_files(RECEIPT, tmp_path)
    with pytest.raises(MismatchError, match="11 tokens of uint16 in a file of 148 bytes"):
        check_files(replace(RECEIPT, tokens=11), tmp_path)


def test_what_is_not_whole_leaves_nothing(tmp_path):
    def break_off() -> None:
        with work_folder(tmp_path) as work:
            work.write("whole", b"1")
            (work.path / "half").write_bytes(b"2")
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_process_that_nobody_asked_after_is_dead(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        # Ended, and not waited for.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with work_folder(tmp_path) as alive:
            host = alive.path.name.split(".")[1]
        left = tmp_path / f".{host}.{process.pid}.ab.lmkit-tmp"
        left.mkdir()
        sweep(tmp_path)
        assert not left.exists()


def test_only_the_dead_are_swept(tmp_path):
    with work_folder(tmp_path) as alive:
        host = alive.path.name.split(".")[1]
        dead = tmp_path / f".{host}.{2**22 + 5}.ab.lmkit-tmp"
        elsewhere = tmp_path / f".elsewhere.{os.getpid()}.cd.lmkit-tmp"
        for folder in (dead, elsewhere):
            folder.mkdir()
            (folder / "half").write_bytes(b"")
        sweep(tmp_path)
        assert not dead.exists()
        assert elsewhere.exists()
        sweep(tmp_path, all_hosts=True)
        assert not elsewhere.exists()
        assert alive.path.exists()
