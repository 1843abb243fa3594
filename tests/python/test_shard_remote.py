"""Data sets far away, through the cache or by ranges: what is taken is verified, and bounded."""

import fcntl
import functools
import http.server
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from lmkit.config import TrainConfig
from lmkit.errors import (
    LmkitError,
    MalformedError,
    MismatchError,
    MissingFileError,
    SystemRefusedError,
    UsageError,
)
from lmkit.lm.batches import TokenBatches
from lmkit.shards import folder as shard_folder
from lmkit.shards.cache import PARTIAL_SUFFIX, VERIFIED_NS, ShardCache
from lmkit.shards.tokens import ShardedTokens, default_cache_dir
from shard_maker import checksum_of, edit_manifest, make_shards, random_documents
from tiny_run import assert_same_checkpoints, make_inputs, one_thread, train

fsspec = pytest.importorskip("fsspec", reason="fsspec, of the extra remote, is not installed")

IDS = np.random.default_rng(0).integers(0, 1000, 6000).astype(np.int32)
ENDS = random_documents(len(IDS))
SHARDS = 6
SECOND = "shard_00001_of_00006.npy"
SHARD_BYTES = 128 + 4 * 1100  # none of them is larger

# Serves S3 at a port that the system chooses, and tells it.
S3_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files, without ranges, and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


def has(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_folder, "PAUSES", (0.0, 0.0))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("made") / "set", IDS, ENDS, SHARDS)


@pytest.fixture
def memory(local: Path) -> Iterator[str]:
    """The data set in fsspec's file system in memory."""
    system = fsspec.filesystem("memory")
    for place in local.iterdir():
        system.pipe_file(f"/set/{place.name}", place.read_bytes())
    yield "memory://set"
    system.rm("/set", recursive=True)


@pytest.fixture(scope="module")
def http_address(local: Path) -> Iterator[str]:
    if not has("aiohttp"):
        pytest.skip("aiohttp, which fsspec needs for http://, is not installed")
    handler = functools.partial(QuietHandler, directory=str(local.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/set"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def s3_address(local: Path) -> Iterator[str]:
    if not has("s3fs", "moto", "flask"):
        pytest.skip("s3fs and moto[server] are not installed")
    words = [sys.executable, "-c", S3_SERVER]
    pipe = subprocess.PIPE
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as server,
    ):
        assert server.stdout is not None
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.stdout.readline().strip()}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        try:
            system = fsspec.filesystem("s3")
            system.mkdir("bucket")
            for place in local.iterdir():
                system.pipe_file(f"bucket/set/{place.name}", place.read_bytes())
            yield "s3://bucket/set"
        finally:
            server.kill()


def open_set(address: str, cache: Path, **options: object) -> ShardedTokens:
    return ShardedTokens(address, cache_dir=str(cache), **options)


def kept(cache: Path) -> dict[str, int]:
    """The copies in a cache, by name, with their sizes."""
    return {p.name: p.stat().st_size for p in cache.iterdir() if not p.name.startswith(".")}


@pytest.mark.parametrize("address", ["memory", "http_address", "s3_address"])
def test_what_is_far_away_reads_as_what_is_here(
    address: str, local: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    far = open_set(request.getfixturevalue(address), tmp_path / "cache")
    assert np.asarray(far).tolist() == IDS.tolist()
    here = ShardedTokens(str(local))
    assert far.fingerprint == here.fingerprint
    options = {"batch_size": 8, "context_length": 50, "seed": 3}
    one, other = TokenBatches(here, **options), TokenBatches(far, **options)
    for step in range(1, 5):
        assert torch.equal(one.batch(step)[1], other.batch(step)[1])
    for number in range(SHARDS):
        ends = far.document_ends(number).read(0, far.manifest.shards[number].documents)
        assert ends.tolist() == np.load(local / f"shard_{number:05}_of_00006.docs.npy").tolist()
    sizes = [p.stat().st_size for p in local.glob("*.npy")]
    assert sorted(kept(tmp_path / "cache").values()) == sorted(sizes)


@pytest.mark.parametrize("address", ["memory", "s3_address"])
def test_ranges_are_read_without_a_cache(
    address: str, tmp_path: Path, request: pytest.FixtureRequest
):
    said: list[str] = []
    where = request.getfixturevalue(address)
    far = open_set(where, tmp_path / "cache", cache_limit=0, notice=said.append)
    for start in (0, 17, 995, 3000, 5900):
        assert far.read(start, start + 100).tolist() == IDS[start : start + 100].tolist()
    assert far[0:0].tolist() == []
    assert not (tmp_path / "cache").exists()
    assert said == [f"{where} is read by ranges, which leaves its checksums unverified"]


def test_training_from_far_away_is_training_from_here(tmp_path: Path):
    inputs = make_inputs(tmp_path)
    ids = np.load(inputs["train_data"])
    from lmkit import Tokenizer

    print_of = Tokenizer.from_files(inputs["vocab_path"], inputs["merges_path"]).fingerprint
    data = make_shards(tmp_path / "set", ids, random_documents(len(ids)), 5, tokenizer=print_of)
    system = fsspec.filesystem("memory")
    for place in data.iterdir():
        system.pipe_file(f"/train/{place.name}", place.read_bytes())
    with one_thread():
        train(inputs, tmp_path / "here", max_iters=3)
        far = {"train_data": "memory://train/manifest.json"}
        far["data_cache_dir"] = str(tmp_path / "cache")
        train(inputs | far, tmp_path / "far", max_iters=3)
    system.rm("/train", recursive=True)
    one, other = (tmp_path / name / "checkpoint_3.pt" for name in ("here", "far"))
    assert_same_checkpoints(one, other)


def test_the_cache_stays_in_its_bounds_and_drops_what_was_used_least(memory: str, tmp_path: Path):
    cache = tmp_path / "cache"
    limit = 3 * SHARD_BYTES
    far = open_set(memory, cache, cache_limit=limit)
    order = np.random.default_rng(2).integers(0, 5900, 60)
    for start in order.tolist():
        far.close()  # or it would not need the cache again
        assert far.read(start, start + 20).tolist() == IDS[start : start + 20].tolist()
        assert sum(kept(cache).values()) <= limit
    assert len(kept(cache)) == 3
    checksums = [shard.checksum.removeprefix("xxh3-128:") for shard in far.manifest.shards]
    middles = [100, 1100, 2100]
    for start in (*middles, middles[0]):  # the first is used again, so the second is the oldest
        far.close()
        far.read(start, start + 1)
    far.read(3100, 3101)
    assert set(kept(cache)) == {checksums[0], checksums[2], checksums[3]}


def test_a_shard_larger_than_the_cache_is_refused_by_name(memory: str, tmp_path: Path):
    said: list[str] = []
    far = open_set(memory, tmp_path, cache_limit=2000, notice=said.append)
    assert "more than --data_cache_limit (2,000)" in said[0]
    with pytest.raises(UsageError, match=f"{SECOND} has .* more than the cache may hold"):
        far.read(1500, 1501)


def test_a_damaged_or_missing_shard_is_named(memory: str, tmp_path: Path):
    system = fsspec.filesystem("memory")
    whole = system.cat_file(f"/set/{SECOND}")
    system.pipe_file(f"/set/{SECOND}", whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(MismatchError, match=f"memory://set/{SECOND}: its checksum is not the one"):
        open_set(memory, tmp_path).read(1500, 1501)
    system.pipe_file(f"/set/{SECOND}", whole[:-4])
    with pytest.raises(MalformedError, match=f"memory://set/{SECOND}: torn"):
        open_set(memory, tmp_path).read(1500, 1501)
    with pytest.raises(MalformedError, match=f"memory://set/{SECOND}: torn"):
        open_set(memory, tmp_path, cache_limit=0).read(1500, 1501)
    system.rm(f"/set/{SECOND}")
    for limit in ("1G", 0):
        with pytest.raises(MissingFileError, match=f"memory://set/{SECOND}: no such file"):
            open_set(memory, tmp_path, cache_limit=limit).read(1500, 1501)
    assert kept(tmp_path) == {}
    assert not list(tmp_path.glob(f".*{PARTIAL_SUFFIX}"))
    system.pipe_file(f"/set/{SECOND}", whole)
    assert open_set(memory, tmp_path).read(1500, 1501).tolist() == [IDS[1500]]


def test_ranges_notice_ids_that_cannot_be(memory: str, tmp_path: Path):
    system = fsspec.filesystem("memory")
    whole = system.cat_file(f"/set/{SECOND}")
    system.pipe_file(f"/set/{SECOND}", whole[:128] + b"\xff\xff\0\0" * ((len(whole) - 128) // 4))
    with pytest.raises(MalformedError, match=f"{SECOND}: holds ids that manifest.json does not"):
        open_set(memory, tmp_path, cache_limit=0).read(1500, 1501)


def test_a_copy_that_was_altered_is_fetched_anew(memory: str, tmp_path: Path):
    open_set(memory, tmp_path).read(1500, 1501)
    (place,) = (tmp_path / name for name in kept(tmp_path))
    assert place.stat().st_mtime_ns == VERIFIED_NS
    place.write_bytes(bytes(place.stat().st_size))
    assert open_set(memory, tmp_path).read(1500, 1501).tolist() == [IDS[1500]]


def test_a_cache_folder_that_vanishes_is_made_again(memory: str, tmp_path: Path):
    far = open_set(memory, tmp_path / "cache")
    assert far.read(1500, 1501).tolist() == [IDS[1500]]
    shutil.rmtree(tmp_path / "cache")
    assert far.read(100, 5900).tolist() == IDS[100:5900].tolist()
    far.close()
    shutil.rmtree(tmp_path / "cache")
    assert far.read(1500, 1501).tolist() == [IDS[1500]]


def test_a_cache_that_cannot_be_written_is_named(memory: str, tmp_path: Path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(SystemRefusedError, match=f"in the cache {tmp_path / 'cache'}: ") as raised:
        open_set(memory, tmp_path / "cache").read(1500, 1501)
    assert SECOND in str(raised.value)
    assert "--data_cache_dir" in str(raised.value.hint)


def test_what_dead_processes_left_is_swept_and_what_live_ones_write_counts(tmp_path: Path):
    content = np.arange(100, dtype=np.int32)
    cache = ShardCache(tmp_path, 1000)
    dead, live = (tmp_path / f".{name}.7.900{PARTIAL_SUFFIX}" for name in ("dead", "live"))
    dead.write_bytes(bytes(900))

    def download(target: Path) -> None:
        assert not dead.exists()
        target.write_bytes(content.tobytes())

    place = cache.fetch("x", 400, 0, checksum_of(content), download)
    assert place.read_bytes() == content.tobytes()
    place.unlink()
    with live.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(cache.fetch, "x", 400, 0, checksum_of(content), download)
            time.sleep(0.3)
            assert not waiting.done()
            assert live.exists()
            live.unlink()
            waiting.result(timeout=60)
    assert kept(tmp_path) == {place.name: 400}


def test_several_processes_share_a_cache(http_address: str, tmp_path: Path):
    np.save(tmp_path / "ids.npy", IDS)
    cache = tmp_path / "cache"
    given = (http_address, str(cache), 9000, str(tmp_path / "ids.npy"))
    code = f"import shard_maker; shard_maker.read_everywhere(*{given!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    most = 0
    while any(process.poll() is None for process in running):
        time.sleep(0.005)
        most = max(most, bytes_in(cache))
    most = max(most, bytes_in(cache))  # they may be over before we look
    for process in running:
        assert process.wait() == 0, process.communicate()[1].decode()
        process.stderr.close()
    assert 4000 < most <= 9000
    assert sum(kept(cache).values()) <= 9000


def bytes_in(cache: Path) -> int:
    """How much a cache holds at one moment, what is being written among it."""
    if not (cache / ".room.lock").exists():
        return 0
    with (cache / ".room.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = {}
        for place in cache.iterdir():
            with suppress(FileNotFoundError):
                found[place.stat().st_ino] = place.stat().st_size
        return sum(found.values())


def test_a_network_that_fails_for_a_moment_is_asked_again(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    far = open_set(memory, tmp_path)
    system, calls = type(fsspec.filesystem("memory")), []
    real = system.get_file

    def failing(self, *args, **kwargs):
        calls.append(args)
        if len(calls) < 3:
            raise ConnectionResetError("the network is gone")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(system, "get_file", failing)
    assert far.read(1500, 1501).tolist() == [IDS[1500]]
    assert len(calls) == 3
    calls.clear()
    monkeypatch.setattr(shard_folder, "PAUSES", (0.0,))
    with pytest.raises(SystemRefusedError, match=r"shard_00000_of_00006.npy: the network is gone"):
        far.read(0, 1)


def test_addresses_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(MissingFileError, match=r"memory://nothing/manifest.json: no such file"):
        open_set("memory://nothing", tmp_path)
    with pytest.raises(UsageError, match=r"nosuch://x: Protocol not known"):
        open_set("nosuch://x", tmp_path)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UsageError, match=r"s3://x/y needs fsspec") as raised:
        open_set("s3://x/y", tmp_path)
    assert raised.value.hint == "pip install 'lmkit[remote]'"


def test_a_manifest_that_leads_out_of_its_folder_or_is_newer(memory: str, tmp_path: Path):
    system = fsspec.filesystem("memory")
    (tmp_path / "manifest.json").write_bytes(system.cat_file("/set/manifest.json"))
    edit_manifest(tmp_path, shards={2: {"name": "../../etc/x"}})
    system.pipe_file("/set/manifest.json", (tmp_path / "manifest.json").read_bytes())
    with pytest.raises(MalformedError, match=r"memory://set/manifest.json: shard 2 is called"):
        open_set(memory, tmp_path)
    edit_manifest(tmp_path, format=7)
    system.pipe_file("/set/manifest.json", (tmp_path / "manifest.json").read_bytes())
    with pytest.raises(MalformedError, match=r"memory://set/manifest.json: a manifest of format 7"):
        open_set(memory, tmp_path)
    edit_manifest(tmp_path, format=1, shards={2: {"name": "x", "checksum": "xxh3-128:../../x"}})
    system.pipe_file("/set/manifest.json", (tmp_path / "manifest.json").read_bytes())
    with pytest.raises(MalformedError, match=r"memory://set/x.npy: .* is no checksum"):
        open_set(memory, tmp_path)[:]


def test_the_limit_and_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "lmkit" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "lmkit" / "data"
    with pytest.raises(UsageError, match="--data_cache_limit must be an amount"):
        TrainConfig(data_cache_limit="much")
    assert issubclass(UsageError, LmkitError)
