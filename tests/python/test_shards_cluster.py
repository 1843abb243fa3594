"""Shards made by a real Dask cluster: the same bytes, whatever becomes of its workers.

One cluster of two processes serves the tests; `--cluster local:N` starts its own.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster, as_completed
from distributed.client import FutureCancelledError, FutureState
from distributed.comm import CommClosedError

import lmkit
from lmkit.cluster import run_on_cluster
from lmkit.cluster.worker import make_shard
from lmkit.errors import MismatchError, SystemRefusedError, UsageError
from lmkit.process import is_alive
from lmkit.shards.data_set import begin
from lmkit.shards.encode_shard import ShardTask
from lmkit.shards.make_plan import ShardOptions, make_plan
from lmkit.shards.tally import Tally
from shard_texts import END, at_work, contents, documents, lmkit_tokenize, refusal, train_tokenizer

SHARDS = 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address=":0", silence_logs=50
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tok")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of which each shard takes a moment."""
    path = tmp_path_factory.mktemp("text") / "raw.txt"
    path.write_text(END.join(documents(100, 1, 4000)) * 20, encoding="utf-8", newline="")
    return path


@pytest.fixture(scope="module")
def whole(text, tokenizer, tmp_path_factory) -> dict[str, bytes]:
    """What any engine is to make of the text."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    lmkit_tokenize(*words(text, tokenizer, folder))
    return contents(folder)


def words(text: Path, tokenizer: Path, output: Path) -> list[object]:
    named = ["--data_path", text, "--tokenizer", tokenizer, "--output_path", output]
    return [*named, "--shards", SHARDS]


def on(cluster: LocalCluster) -> list[object]:
    return ["--cluster", cluster.scheduler_address, "--num_threads", 1]


def workers_of(client: Client) -> list[str]:
    client.wait_for_workers(2, timeout=60)
    return sorted(client.scheduler_info()["workers"])


def receipts(folder: Path) -> dict[str, Any]:
    """Those that are there; one that `--force` discards meanwhile is not."""
    found = {}
    for path in folder.glob("*.receipt.json"):
        with suppress(FileNotFoundError):
            found[path.name] = json.loads(path.read_bytes())
    return found


def wait_until_idle(client: Client) -> None:
    """Wait for tasks of a run that failed: a worker ends what it has begun."""

    def is_busy(dask_worker: Any) -> bool:
        return bool(dask_worker.state.executing)

    while any(client.run(is_busy).values()):
        time.sleep(0.01)


def test_a_cluster_makes_the_same_and_says_who_did_what(
    cluster, text, tokenizer, whole, tmp_path, capsys
):
    out = tmp_path / "out"
    lmkit_tokenize(*words(text, tokenizer, out), *on(cluster), "--json")
    assert contents(out) == whole
    told = json.loads(capsys.readouterr().out)
    assert sum(share["shards"] for share in told["workers"]) == SHARDS
    assert len(told["workers"]) == 2
    made_by = {receipt["worker"] for receipt in receipts(out).values()}
    assert made_by == {share["worker"] for share in told["workers"]}


def test_a_worker_that_is_killed_costs_one_shard_and_changes_nothing(
    cluster, client, text, tokenizer, whole, tmp_path
):
    out = tmp_path / "out"
    pids = set(client.run(os.getpid).values())
    killed: list[int] = []
    before: dict[str, Any] = {}

    def kill_one_at_work() -> None:
        while not killed:
            for pid, _ in at_work(out):
                if pid in pids and receipts(out):
                    killed.append(pid)  # first, or another run might begin before it is
                    os.kill(pid, signal.SIGKILL)
                    before.update(receipts(out))
                    return
            time.sleep(0.001)

    killer = threading.Thread(target=kill_one_at_work, daemon=True)
    killer.start()
    while not killed:  # a run may be over before the killer gets a turn
        lmkit_tokenize(*words(text, tokenizer, out), *on(cluster), "--force")
    killer.join(timeout=60)
    assert before
    after = receipts(out)
    assert {name: after[name] for name in before} == before  # none of them was made twice
    assert contents(out) == whole  # and what the dead worker left is swept


def test_a_worker_may_be_lost_before_its_receipt_is_read(
    cluster, client, text, tokenizer, whole, tmp_path, monkeypatch
):
    """Dask then does the task again, and a receipt that was read is not asked for a second time."""
    lost: list[str] = []
    killed: list[int] = []
    lose = FutureState.lose

    def noted(state: FutureState) -> None:
        lose(state)
        lost.append(str(state.key))

    class Hindered(as_completed):
        def next_batch(self, block: bool = True) -> Any:
            batch = list(super().next_batch(block))
            if not killed:
                ((holder,),) = batch[0].client.who_has([batch[0]]).values()
                killed.extend(client.run(os.getpid, workers=[holder]).values())
                os.kill(killed[0], signal.SIGKILL)
                while batch[0].key not in lost:  # it may be finished again before we look
                    time.sleep(0.001)
            return batch

    monkeypatch.setattr(FutureState, "lose", noted)
    monkeypatch.setattr("lmkit.cluster.run_on_cluster.as_completed", Hindered)
    lmkit_tokenize(*words(text, tokenizer, tmp_path / "out"), *on(cluster))
    assert killed
    assert contents(tmp_path / "out") == whole


def test_progress_is_told_while_shards_are_made(cluster, text, tokenizer, tmp_path, monkeypatch):
    told: list[str] = []

    class Slow(as_completed):
        looks = 0

        def has_ready(self) -> bool:
            Slow.looks += 1
            return Slow.looks > 3 and bool(super().has_ready())

    monkeypatch.setattr("lmkit.cluster.run_on_cluster.as_completed", Slow)
    monkeypatch.setattr(Tally, "tell", lambda tally: told.append(tally.shards()))
    lmkit_tokenize(*words(text, tokenizer, tmp_path / "out"), *on(cluster))
    assert told[:4] == [f"0 of {SHARDS} shards"] * 4  # at the beginning, and at each look


@pytest.mark.parametrize(
    "error", [FutureCancelledError("shard", "lost"), CommClosedError("in <TCP>: Stream is closed")]
)
def test_a_scheduler_may_be_lost_while_a_receipt_is_fetched(error):
    class Gone:
        scheduler = None

        def result(self) -> None:
            raise error

    with pytest.raises(SystemRefusedError, match="scheduler at the given address was lost"):
        run_on_cluster._receipt_of(Gone(), None, Gone())


def test_a_full_disk_on_one_worker_is_named(cluster, client, text, tokenizer, whole, tmp_path):
    out = tmp_path / "out"
    victim = workers_of(client)[0]
    pid = client.run(os.getpid, workers=[victim])[victim]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        error = refusal(SystemRefusedError, *words(text, tokenizer, out), *on(cluster))
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    name = client.run(lambda dask_worker: str(dask_worker.name), workers=[victim])[victim]
    assert f"/{name}, shard_" in str(error)
    assert f"{out}/shard_" in str(error)
    assert "too large" in str(error)
    assert error.exit_code == 4
    assert not (out / "manifest.json").exists()
    wait_until_idle(client)
    lmkit_tokenize(*words(text, tokenizer, out), *on(cluster))
    assert contents(out) == whole


def test_a_worker_with_another_lmkit_is_named(cluster, client, text, tokenizer, tmp_path):
    def pretend(version: str) -> None:
        from lmkit import _core

        _core.__version__ = version  # type: ignore[misc]

    out, victim = tmp_path / "out", workers_of(client)[1]
    client.run(pretend, "9.1", workers=[victim])
    try:
        error = refusal(MismatchError, *words(text, tokenizer, out), *on(cluster))
    finally:
        client.run(pretend, lmkit.__version__, workers=[victim])
    assert f"worker {victim} has lmkit 9.1, and this is {lmkit.__version__}" in str(error)
    assert not out.exists()


def test_a_worker_without_the_tokenizer_is_named(client, text, tokenizer, tmp_path):
    other = lmkit.Tokenizer.load(tokenizer, [END])
    planned = make_plan([str(text)], tmp_path / "out", other, ShardOptions(shards=SHARDS))
    begin(planned)
    task = ShardTask.of(planned.plan, 0, planned.folder, None)
    future = client.submit(make_shard, task, "topic", 1, "streaming", pure=False)
    with pytest.raises(MismatchError, match=r"worker .*/\d, shard_00000.* the plan's tokenizer"):
        future.result(timeout=60)


def test_an_input_that_is_malformed_is_named_with_its_place(cluster, tokenizer, tmp_path):
    path = tmp_path / "records.jsonl"
    lines = [json.dumps({"text": text}) for text in documents(80, 2)]
    lines[70] = '{"text": 7}'
    path.write_text("\n".join(lines), encoding="utf-8")
    run = words(path, tokenizer, tmp_path / "out")
    error = refusal(ValueError, *run, *on(cluster))
    assert f"{path}: line 71: " in str(error)
    assert "/0, shard_00007" in str(error) or "/1, shard_0000" in str(error)
    assert error.exit_code == 3


def test_a_scheduler_that_is_not_there_is_said(text, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("lmkit.cluster.connect._SECONDS_TO_CONNECT", 0.5)
    run = words(text, tokenizer, tmp_path / "out")
    error = refusal(SystemRefusedError, *run, "--cluster", "tcp://127.0.0.1:9")
    assert "--cluster tcp://127.0.0.1:9: no Dask scheduler answers there" in str(error)
    assert "dask scheduler" in error.hint
    assert not (tmp_path / "out").exists()


def test_what_is_to_be_replaced_stays_where_the_cluster_cannot_be_reached(
    text, tokenizer, whole, tmp_path, monkeypatch
):
    """And where nothing is left to do, no cluster is needed."""
    monkeypatch.setattr("lmkit.cluster.connect._SECONDS_TO_CONNECT", 0.5)
    out = tmp_path / "out"
    run = words(text, tokenizer, out)
    lmkit_tokenize(*run)
    nowhere = ["--cluster", "tcp://127.0.0.1:9"]
    refusal(SystemRefusedError, *run, *nowhere, "--force")
    assert contents(out) == whole
    lmkit_tokenize(*run, *nowhere)
    assert contents(out) == whole


def test_without_dask_the_extra_is_named(text, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    run = words(text, tokenizer, tmp_path / "out")
    error = refusal(UsageError, *run, "--cluster", "local:2")
    assert str(error) == "--cluster needs dask.distributed"
    assert error.hint == "pip install 'lmkit[cluster]'"
    assert not (tmp_path / "out").exists()


def start(run: list[object], *cluster: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "lmkit", "tokenize", *map(str, (*run, *cluster))]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_local_cluster_starts_and_ends_with_the_command(text, tokenizer, whole, tmp_path):
    out = tmp_path / "out"
    with start(words(text, tokenizer, out), "--cluster", "local:2") as process:
        said, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, complaints
    assert contents(out) == whole
    assert said.count("worker ") in (1, 2)
    # On a slow machine it also tells how far it is.
    first, *others = complaints.splitlines()
    assert first == "Special tokens: <|endoftext|>, <|end|>, <|endoftext|><|end|>"
    assert all(line.startswith("Tokenizing: ") for line in others)


@pytest.mark.slow
def test_an_interrupted_local_cluster_is_gone(text, tokenizer, whole, tmp_path):
    out = tmp_path / "out"
    run = words(text, tokenizer, out)
    code, working = 0, []
    while not code or not working:  # a run may be over before we look, or before it is told
        with start(run, "--cluster", "local:2", "--num_threads", 1, "--force") as process:
            while process.poll() is None and not (working := at_work(out)):
                time.sleep(0.002)
            process.send_signal(signal.SIGINT)
            _, complaints = process.communicate(timeout=120)
        code = process.returncode
    assert code == 130
    assert complaints.endswith("the same command goes on from there\ninterrupted\n")
    while any(is_alive(pid) for pid, _ in working):  # they are killed, which takes a moment
        time.sleep(0.01)
    lmkit_tokenize(*run)
    assert contents(out) == whole


@pytest.mark.slow
def test_a_scheduler_that_is_lost_ends_the_run(text, tokenizer, whole, tmp_path):
    program = (
        "import sys, time; from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)\n"
        "    print(cluster.scheduler_address, flush=True); time.sleep(600)"
    )
    script = tmp_path / "scheduler.py"
    script.write_text(program)
    out = tmp_path / "out"
    run = words(text, tokenizer, out)
    command = [sys.executable, str(script)]
    code = 0
    while not code:  # a run may be over before the scheduler is killed
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as scheduler:
            assert scheduler.stdout is not None
            address = scheduler.stdout.readline().strip()
            with start(run, "--cluster", address, "--force") as process:
                while process.poll() is None and not receipts(out):
                    time.sleep(0.002)
                workers = at_work(out)
                scheduler.kill()
                _, complaints = process.communicate(timeout=120)
        code = process.returncode
    assert code == SystemRefusedError.exit_code, complaints
    assert f"the Dask scheduler at {address} was lost" in complaints
    while any(is_alive(pid) for pid, _ in workers):  # they leave when they notice
        time.sleep(0.01)
    lmkit_tokenize(*run)
    assert contents(out) == whole
