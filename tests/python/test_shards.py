"""`lmkit tokenize` into shards: joined they are the run without, whatever is lost on the way."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import lmkit
from lmkit.cli import call
from lmkit.durable import remove
from lmkit.errors import (
    MalformedError,
    MismatchError,
    MissingFileError,
    SystemRefusedError,
    UsageError,
)
from lmkit.shards.data_set import begin
from lmkit.shards.encode_shard import ShardTask, encode_shard
from lmkit.shards.make_plan import ShardOptions, make_plan
from lmkit.shards.manifest import read_manifest
from lmkit.shards.plan import read_plan
from lmkit.shards.receipt import read_receipt
from lmkit.shards.work_folder import work_folder
from shard_texts import (
    END,
    OTHER_END,
    contents,
    documents,
    joined,
    lmkit_tokenize,
    refusal,
    train_tokenizer,
    write_texts,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tok")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "texts")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One text of 200 documents."""
    path = tmp_path_factory.mktemp("text") / "raw.txt"
    path.write_text(END.join(documents(200, 1)), encoding="utf-8", newline="")
    return path


@pytest.fixture
def whole(text, tokenizer, tmp_path) -> Path:
    """Four shards of ``text``, with their manifest."""
    folder = tmp_path / "whole"
    lmkit_tokenize(*words(text, tokenizer, folder), "--shards", 4)
    return folder


def words(data: Path, tokenizer: Path, output: Path) -> list[object]:
    return ["--data_path", data, "--tokenizer", tokenizer, "--output_path", output]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--dtype", "uint16"],
        ["--errors", "bytes", "--method", "in-memory"],
        ["--end_of_document", OTHER_END],
        ["--end_of_document", ""],
        ["--no_special_tokens"],
        ["--val_fraction", "0.2"],
        ["--val_fraction", "0.2", "--end_of_document", OTHER_END],
    ],
)
def test_shards_in_order_are_the_run_without(options, texts, tokenizer, tmp_path):
    whole = tmp_path / "whole.npy"
    lmkit_tokenize(*words(texts, tokenizer, whole), *options)
    expected = {"": np.load(whole)}
    sidecars = {"": json.loads(Path(f"{whole}.json").read_bytes())}
    if "--val_fraction" in options:
        expected[".val"] = np.load(tmp_path / "whole.val.npy")
        sidecars[".val"] = json.loads((tmp_path / "whole.val.npy.json").read_bytes())
    for count in (1, 3, 13):
        folder = tmp_path / f"in_{count}"
        lmkit_tokenize(*words(texts, tokenizer, folder), *options, "--shards", count)
        for end, ids in expected.items():
            part = folder.with_name(folder.name + end)
            assert np.array_equal(joined(part), ids), (count, end)
            manifest = read_manifest(part)
            assert len(manifest.shards) == count
            assert manifest.split == ("val" if end else "train")
            for name in ("tokens", "documents", "text_bytes", "smallest_id", "largest_id"):
                assert getattr(manifest, name) == sidecars[end][name], (count, end, name)
            assert manifest.dtype == ids.dtype.name


def test_shards_do_not_depend_on_threads_or_the_form_of_the_path(texts, tokenizer, tmp_path):
    sets = []
    for name, data, options in (
        ("one", texts, ["--num_threads", 1]),
        ("three", texts, ["--num_threads", 3, "--method", "in-memory"]),
        ("again", f"{texts}/../texts", ["--resume"]),
    ):
        folder = tmp_path / name
        lmkit_tokenize(*words(data, tokenizer, folder), "--shards", 5, *options)
        found = contents(folder)
        sets.append({name: found[name] for name in found if "shard" in name})
    assert sets[0] == sets[1] == sets[2]
    assert len(sets[0]) == 10


def test_document_ends_stand_where_documents_end(tokenizer, whole):
    ids = joined(whole)
    separator = lmkit.Tokenizer.load(tokenizer).special_tokens[END]
    expected = np.flatnonzero(ids == separator) + 1
    ends, first = [], 0
    for path in sorted(whole.glob("*.docs.npy")):
        ends.extend(np.load(path) + first)
        first = ends[-1]
    assert np.array_equal(ends[:-1], expected)
    assert ends[-1] == len(ids)


def test_shards_are_cut_at_line_ends_and_separators(text, whole):
    raw = text.read_bytes()
    plan = read_plan(whole)
    inner = [cut.offset for cut in plan.cuts[1:-1]]
    assert len(set(inner)) == 3
    assert all(raw[:offset].endswith(END.encode()) for offset in inner)
    assert max(plan.shard_bytes(k) for k in range(4)) < len(raw) / 3


def test_shard_tokens_gives_shards_of_about_that_many(text, tokenizer, tmp_path, whole):
    tokens = len(joined(whole))
    folder = tmp_path / "sized"
    lmkit_tokenize(*words(text, tokenizer, folder), "--shard_tokens", tokens // 7)
    sizes = [shard.tokens for shard in read_manifest(folder).shards]
    assert len(sizes) in (7, 8)
    assert sum(sizes) == tokens
    assert "256M" in str(
        refusal(UsageError, *words(text, tokenizer, folder), "--shard_tokens", "x")
    )


def test_a_compressed_file_and_records_give_an_estimate_too(tokenizer, tmp_path):
    raw = b"".join(f'{{"text": "{text}"}}\n'.encode() for text in ["the cat sat on"] * 5000)
    for name, content in (("a.jsonl", raw), ("b.jsonl.gz", gzip.compress(raw))):
        (tmp_path / name).write_bytes(content)
        folder = tmp_path / f"{name}.shards"
        path = tmp_path / name
        call(["tokenize", "--quiet", *map(str, words(path, tokenizer, folder)), "--shards", "1"])
        tokens = len(joined(folder))
        options = ShardOptions(shard_tokens=tokens)
        plan = make_plan([str(path)], folder, lmkit.Tokenizer.load(tokenizer), options).plan
        assert len(plan) in (1, 2)


def test_bin_shards(text, tokenizer, tmp_path, whole):
    folder = tmp_path / "bin"
    lmkit_tokenize(*words(text, tokenizer, folder), "--shards", 4, "--shard_format", "bin")
    assert np.array_equal(joined(folder), joined(whole))
    assert read_manifest(folder).suffix == ".bin"


def test_an_array_of_jobs_makes_the_same(text, tokenizer, tmp_path, whole):
    folder = tmp_path / "array"
    for number in (2, 0, 3):
        lmkit_tokenize(*words(text, tokenizer, folder), "--shard", f"{number}/4")
    error = refusal(MissingFileError, "--finalize", folder)
    assert "1 of 4 shards are not there: 1" in str(error)
    assert "--shard 1/4" in error.hint
    assert not (folder / "manifest.json").exists()
    lmkit_tokenize(*words(text, tokenizer, folder), "--shard", "1/4")
    lmkit_tokenize("--finalize", folder, "--verify")
    assert contents(folder) == contents(whole)


def test_only_what_is_missing_is_made(text, tokenizer, whole):
    (whole / "shard_00002_of_00004.receipt.json").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in whole.glob("*.receipt.json")}
    lmkit_tokenize(*words(text, tokenizer, whole), "--shards", 4)
    after = {path.name: path.stat().st_mtime_ns for path in whole.glob("*.receipt.json")}
    assert {name: after[name] for name in before} == before
    assert len(after) == 4
    lmkit_tokenize(*words(text, tokenizer, whole), "--shard", "2/4", "--force")
    assert not (whole / "manifest.json").exists()


def test_workers_that_race_leave_one_whole_shard(text, tokenizer, tmp_path, whole):
    tok = lmkit.Tokenizer.load(tokenizer)
    planned = make_plan([str(text)], tmp_path / "race", tok, ShardOptions(shards=4))
    begin(planned)
    task = ShardTask.of(planned.plan, 1, planned.folder, None)
    threads = [
        threading.Thread(target=encode_shard, args=(task, tok), kwargs={"worker": str(number)})
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = contents(planned.folder)
    assert {name: made[name] for name in made if "shard" in name} == {
        name: content for name, content in contents(whole).items() if "shard_00001" in name
    }


def test_another_plan_in_the_folder_is_refused_by_what_differs(text, tokenizer, tmp_path, whole):
    again = words(text, tokenizer, whole)
    before = contents(whole)
    for options, said in (
        (["--shards", 5], "it has 4 shards, not 5"),
        (["--shard", "0/5"], "it has 4 shards, not 5"),
        (["--shards", 4, "--dtype", "uint16"], "--dtype was int32, and is now uint16"),
        (["--shards", 4, "--val_fraction", "0.1"], "--val_fraction was none, and is now 0.1"),
        (["--shards", 4, "--special_token", END], "it was made with another tokenizer"),
    ):
        error = refusal(MismatchError, *again, *options)
        assert said in str(error)
        assert error.exit_code == 5
    moved = tmp_path / "moved.txt"
    moved.write_bytes(text.read_bytes())
    error = refusal(MismatchError, *words(moved, tokenizer, whole), "--shards", 4)
    assert f"made from {text}, not {moved}" in str(error)
    os.utime(text, ns=(1, 1))
    error = refusal(MismatchError, *again, "--shards", 4)
    assert f"{text} has changed since" in str(error)
    assert contents(whole) == before
    lmkit_tokenize(*again, "--shards", 2, "--force")
    assert len(read_manifest(whole).shards) == 2
    assert len(list(whole.glob("shard_*"))) == 8


def test_an_input_that_changes_after_the_plan_is_refused(tokenizer, tmp_path):
    path = tmp_path / "raw.txt"
    path.write_text(END.join(documents(20, 3)), encoding="utf-8")
    tok = lmkit.Tokenizer.load(tokenizer)
    planned = make_plan([str(path)], tmp_path / "out", tok, ShardOptions(shards=2))
    begin(planned)
    path.write_text(END.join(documents(21, 3)), encoding="utf-8")
    for number in range(2):
        task = ShardTask.of(planned.plan, number, planned.folder, None)
        with pytest.raises(MismatchError, match=r"raw\.txt: has changed since the shards were"):
            encode_shard(task, tok, worker="here")
    assert [item.name for item in planned.folder.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("ending", ["npy", "docs.npy"])
def test_a_torn_shard_is_named(ending, text, tokenizer, whole):
    torn = whole / f"shard_00001_of_00004.{ending}"
    with torn.open("r+b") as file:
        file.truncate(torn.stat().st_size - 8)
    (whole / "manifest.json").unlink()
    for run in (["--finalize", whole], [*words(text, tokenizer, whole), "--shards", 4]):
        error = refusal(MismatchError, *run)
        assert str(torn) in str(error)
        assert "is torn" in str(error)
        assert "remove shard_00001_of_00004.receipt.json" in error.hint
    assert not (whole / "manifest.json").exists()
    (whole / "shard_00001_of_00004.receipt.json").unlink()
    lmkit_tokenize(*words(text, tokenizer, whole), "--shards", 4, "--verify")


@pytest.mark.parametrize("place", [3, 22, 200])  # two of them in the header
@pytest.mark.parametrize("ending", ["npy", "docs.npy"])
def test_verify_finds_a_changed_byte(ending, place, whole):
    path = whole / f"shard_00002_of_00004.{ending}"
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    lmkit_tokenize("--finalize", whole)
    error = refusal(MismatchError, "--finalize", whole, "--verify")
    assert str(path) in str(error)
    assert "damaged" in str(error)
    assert error.hint.startswith("remove shard_00002_of_00004.receipt.json")


def test_a_receipt_that_lies_is_named(whole):
    path = whole / "shard_00003_of_00004.receipt.json"
    truth = json.loads(path.read_bytes())

    def said(**lies: object) -> str:
        path.write_text(json.dumps(truth | lies))
        error = refusal((MismatchError, MalformedError), "--finalize", whole, "--verify")
        assert str(whole / "shard_00003_of_00004") in str(error)
        return str(error)

    assert "belongs to plan 123" in said(plan="123")
    assert "is the receipt of shard_00001" in said(name="shard_00001_of_00004")
    assert f"{truth['tokens'] + 1:,} tokens" in said(tokens=truth["tokens"] + 1)
    assert "is torn" in said(documents=truth["documents"] - 1)
    assert "reach from" in said(largest_id=truth["largest_id"] + 1)
    assert "checksum" in said(checksum="xxh3-128:" + "0" * 32)
    assert "format 2" in said(format=2)


def test_a_manifest_of_a_newer_version_is_refused(whole):
    path = whole / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"format": 2, "lmkit": "9.1"}))
    with pytest.raises(MalformedError, match=r"manifest\.json: a manifest of format 2, .* 9\.1"):
        read_manifest(whole)


def test_other_tokenizers_and_versions_are_refused(text, tokenizer, tmp_path, monkeypatch):
    tok = lmkit.Tokenizer.load(tokenizer)
    planned = make_plan([str(text)], tmp_path / "out", tok, ShardOptions(shards=2))
    begin(planned)
    task = ShardTask.of(planned.plan, 0, planned.folder, None)
    with pytest.raises(MismatchError, match="another tokenizer"):
        encode_shard(task, lmkit.Tokenizer.load(tokenizer, [END]), worker="here")
    monkeypatch.setattr("lmkit._core.__version__", "9.1")
    with pytest.raises(MismatchError, match=r"by lmkit 0\.\d+\.\d+, and this is 9\.1"):
        encode_shard(task, tok, worker="here")
    assert [item.name for item in planned.folder.iterdir()] == ["plan.json"]


def test_what_cannot_be_sharded_is_refused(text, texts, tokenizer, tmp_path):
    out = tmp_path / "out"
    usual, folder = words(text, tokenizer, out), words(texts, tokenizer, out)
    one = tmp_path / "one.txt"
    one.write_text("one document")
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    for run, said in (
        ([*words("-", tokenizer, out), "--shards", 2], "read again, not standard input"),
        ([*words(fifo, tokenizer, out), "--shards", 2], f"read again, not {fifo}"),
        ([*words(one, tokenizer, out), "--shards", 2], "cannot be divided"),
        ([*usual, "--shards", 2, "--shard", "0/2"], "--shards and --shard exclude"),
        ([*usual, "--shards", 10**9], "1,000,000,000 shards are too many for a folder"),
        ([*usual, "--shard_tokens", 1, "--shard", f"0/{10**30}"], "exclude each other"),
        ([*usual, "--shard", f"0/{10**7}"], "10,000,000 shards are too many for a folder"),
        ([*usual, "--shards", 2, "--shard_tokens", "1M"], "--shards and --shard_tokens exclude"),
        ([*usual, "--shard", "2/2"], "no shard 2 of 2"),
        ([*usual, "--cluster", "local:2"], "--cluster needs --shards"),
        ([*usual, "--shard", "0/2", "--cluster", "local:2"], "--shard and --cluster exclude"),
        ([*usual, "--shards", 2, "--cluster", "mars"], "neither local:N nor the address"),
        ([*usual, "--verify"], "--verify has no effect"),
        ([*usual, "--shard_format", "bin"], "--shard_format has no effect"),
        ([*usual, "--shards", 2, "--val_output_path", "x"], "without --val_fraction"),
        ([*usual, "--shards", 2, "--val_fraction", "2"], "must be above 0 and below 1"),
        ([*folder, "--shards", 2, "--end_of_document", "<|no|>"], "not one of the special tokens"),
        (["--finalize", out, "--shards", 2], "--shards has no effect with --finalize"),
        ([*words(text, tokenizer, text), "--shards", 2], "this is a file"),
        ([*words(text, tokenizer, tmp_path / "no" / "out"), "--shards", 2], "no such file or"),
    ):
        assert said in str(refusal(UsageError, *run)), run
    assert "plan.json: no such file" in str(refusal(MissingFileError, "--finalize", texts))
    assert sorted(item.name for item in tmp_path.iterdir()) == ["one.txt", "pipe"]


def test_all_or_none_kept_aside_is_refused_at_the_end(tokenizer, tmp_path):
    path = tmp_path / "raw.txt"
    path.write_text(END.join(documents(9, 5)), encoding="utf-8")
    out = tmp_path / "out"
    run = [*words(path, tokenizer, out), "--shards", 2, "--val_fraction", "1e-9"]
    error = refusal(UsageError, *run)
    assert "--val_fraction 1e-09 leaves none of the " in str(error)
    assert "documents for validation" in str(error)
    assert not (out / "manifest.json").exists()


def test_a_dry_run_prints_the_plan_and_leaves_nothing(text, tokenizer, tmp_path, capsys):
    out = tmp_path / "out"
    lmkit_tokenize(*words(text, tokenizer, out), "--shards", 3, "--dry_run")
    said = capsys.readouterr().out
    assert said.startswith("Would tokenize 1 file, ")
    assert "into 3 shards in" in said
    assert f"shard_00002_of_00003: 0.1 MB, {text} from byte" in said
    lmkit_tokenize(*words(text, tokenizer, out), "--shards", 3, "--dry_run", "--json")
    told = json.loads(capsys.readouterr().out)
    assert [shard["name"] for shard in told["shards"]][1] == "shard_00001_of_00003"
    assert not out.exists()
    lmkit_tokenize(*words(text, tokenizer, out), "--shards", 3)
    assert read_plan(out).id == told["plan"]


def test_the_summary_counts_and_names_workers(text, tokenizer, tmp_path, capsys):
    run = [*words(text, tokenizer, tmp_path / "out"), "--shards", 3, "--val_fraction", "0.3"]
    call(["tokenize", *map(str, run)])
    said = capsys.readouterr().out
    assert f"{tmp_path}/out: " in said
    assert f"{tmp_path}/out.val: " in said
    assert "in 3 shards" in said
    assert f"/{os.getpid()}: 3 shards" in said
    lmkit_tokenize(*run, "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["shards"], told["found"], told["workers"]) == (3, 3, [])
    for part, folder in ((told, "out"), (told["validation"], "out.val")):
        assert part["documents"] == read_manifest(tmp_path / folder).documents > 30
    receipt = read_receipt(tmp_path / "out" / "shard_00000_of_00003.receipt.json")
    assert receipt.worker.endswith(f"/{os.getpid()}")


def test_what_is_no_text_is_passed_over_and_said(texts, tokenizer, tmp_path, capsys):
    run = words(texts, tokenizer, tmp_path / "out")
    for ways in (
        [["--shards", "3"]],
        [["--shard", f"{number}/3", "--force"] for number in range(3)],
    ):
        for options in ways:
            call(["tokenize", *map(str, run), *options])
        said = capsys.readouterr().err
        assert said.count(f"Passed over {texts}/picture.bin: not a text file") == 1
        assert said.count("Passed over 1 row without text (null)") == 1


def test_a_full_disk_leaves_nothing_of_the_shard(tokenizer, tmp_path):
    path = tmp_path / "raw.txt"
    path.write_text(END.join(documents(400, 6)), encoding="utf-8")
    run = [*words(path, tokenizer, tmp_path / "out"), "--shards", 2]
    program = (
        "import resource, signal, sys; from lmkit.__main__ import run;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)); run()"
    )
    command = [sys.executable, "-c", program, "tokenize", *map(str, run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == SystemRefusedError.exit_code
    assert f"error: {tmp_path}/out/shard_00000_of_00002.npy: " in done.stderr
    assert "0 of 2 shards are there and stay" in done.stderr
    assert [item.name for item in (tmp_path / "out").iterdir()] == ["plan.json"]


@pytest.fixture
def interrupted_removal(monkeypatch):
    """Ctrl-C comes while the first folder is being removed."""
    remove_tree, calls = shutil.rmtree, []

    def interrupted_once(path: Path, **how: bool) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        remove_tree(path, **how)

    monkeypatch.setattr(shutil, "rmtree", interrupted_once)


@pytest.mark.usefixtures("interrupted_removal")
def test_ctrl_c_while_a_work_folder_is_removed_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), work_folder(tmp_path):
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("interrupted_removal")
def test_ctrl_c_while_any_folder_is_removed_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("text")
    with pytest.raises(KeyboardInterrupt):
        remove(tmp_path / "folder")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_goes_on_with_what_is_missing(tokenizer, tmp_path):
    path = tmp_path / "raw.txt"
    path.write_text(END.join(documents(60, 6, 4000)) * 40, encoding="utf-8")
    out = tmp_path / "out"
    run = [*words(path, tokenizer, out), "--shards", 8, "--num_threads", 1]
    command = [sys.executable, "-m", "lmkit", "tokenize", *map(str, run)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        first = out / "shard_00000_of_00008.receipt.json"
        while process.poll() is None and not first.exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    # All may be done before the signal arrives; then there is nothing to go on with.
    if len(list(out.glob("*.receipt.json"))) < 8:
        assert process.returncode == 130
        assert "of 8 shards are there and stay" in said
        assert not (out / "manifest.json").exists()
        assert not list(out.glob(".*lmkit-tmp"))
    before = first.stat().st_mtime_ns
    lmkit_tokenize(*run)
    assert first.stat().st_mtime_ns == before
    lmkit_tokenize(*words(path, tokenizer, tmp_path / "one.npy"))
    assert np.array_equal(joined(out), np.load(tmp_path / "one.npy"))
