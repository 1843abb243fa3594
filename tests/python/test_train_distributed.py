"""Several processes, one run: the same batches, the same losses to rounding, one voice, one end."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from lmkit.cli import launch
from lmkit.cli.launch import as_words
from lmkit.complaint import TO_LAUNCHER, Complaint
from lmkit.config import TrainConfig
from lmkit.errors import TrainingError, UsageError
from lmkit.lm.batches import TokenBatches
from lmkit.lm.checkpoint import checkpoints_in, read_checkpoint
from lmkit.lm.distributed import Ranks
from lmkit.run_place import run_folder
from many_processes import kill_one, kill_one_and_wait, wait_for
from tiny_run import (
    FOREVER,
    assert_same_losses,
    flags,
    losses,
    resume,
    run_command,
    settings,
    start_command,
    train,
)

pytestmark = pytest.mark.usefixtures("on_one_thread")


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_shares_of_the_ranks_are_the_batch(ranks: int):
    options = {"batch_size": 4, "context_length": 8, "grad_accum_steps": 2, "seed": 3}
    tokens = np.arange(1000)
    whole = list(TokenBatches(tokens, **options).micro_batches(7))
    shares = [
        list(TokenBatches(tokens, **options, rank=rank, ranks=ranks).micro_batches(7))
        for rank in range(ranks)
    ]
    for number, (inputs, _) in enumerate(whole):
        together = [row for share in shares for row in share[number][0].tolist()]
        assert together == inputs.tolist()


def test_two_processes_learn_what_one_does_and_only_the_first_speaks(
    inputs: dict[str, str], tmp_path: Path
):
    two, one = tmp_path / "two", tmp_path / "one"
    given = {"max_iters": 10, "batch_size": 4, "grad_accum_steps": 2, "sample_prompt": "3"}
    done = run_command(*flags(settings(inputs, two, **given)), "--nproc", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("Iter     10 | Loss")]
    for said in ("Starting training...", "Iter     10 | Val", "Saving checkpoint to"):
        assert len([line for line in lines if line.startswith(said)]) == 1, said
    history = train(inputs, one, **given)
    assert_same_losses(two, one)
    found = read_checkpoint(two / "checkpoint_10.pt")
    best = min(record["val_loss"] for record in history if "val_loss" in record)
    assert found["best_val_loss"] == pytest.approx(best, abs=1e-3)
    assert found["settings"]["processes"] == 2
    assert not any(name.startswith("module.") for name in found["model"])
    # One process goes on with what two began.
    resume(two, max_iters=12)
    resume(one, max_iters=12)
    assert_same_losses(two, one)


def test_a_process_that_dies_costs_only_the_steps_since_the_last_checkpoint(
    inputs: dict[str, str], tmp_path: Path
):
    run = tmp_path / "run"
    given = settings(inputs, run, max_iters=FOREVER, save_interval=5, log_interval=FOREVER)
    process = start_command(*flags(given), "--nproc", "2", "--max_restarts", "1")
    wait_for(run / "checkpoint_5.pt", process)
    reached = kill_one_and_wait(process, run)
    wait_for(run / f"checkpoint_{reached // 5 * 5 + 10}.pt", process)
    # Stopped from outside: all stop, the first saves, and there is no restart.
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 143, said
    assert "beginning again from the last checkpoint (restarts left: 0)" in said
    assert "To go on: lmkit train --load_checkpoint" in said
    last = checkpoints_in(run)[0][0]
    train(inputs, tmp_path / "one", max_iters=12)
    assert list(losses(run)) == list(range(1, last + 1))
    for step, loss in losses(tmp_path / "one").items():
        assert losses(run)[step] == pytest.approx(loss, abs=2e-3), step


def test_a_launcher_that_is_killed_leaves_no_process_and_no_step_behind(
    inputs: dict[str, str], tmp_path: Path
):
    run = tmp_path / "run"
    given = settings(inputs, run, max_iters=FOREVER, save_interval=5, log_interval=FOREVER)
    process = start_command(*flags(given), "--nproc", "2")
    wait_for(run / "checkpoint_5.pt", process)
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    process.kill()
    said = process.communicate(timeout=120)[0]
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert "SIGTERM received: stopping after this step" in said
    assert checkpoints_in(run)[0][0] == max(losses(run))


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_is_heard_once(inputs: dict[str, str], tmp_path: Path):
    """Which signals all processes of the launcher's group, whatever its standard input is."""
    run = tmp_path / "run"
    given = settings(inputs, run, max_iters=FOREVER, save_interval=5, log_interval=FOREVER)
    process = start_command(*flags(given), "--nproc", "2", start_new_session=True)
    wait_for(run / "checkpoint_5.pt", process)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 130, said
    assert "To go on: lmkit train --load_checkpoint" in said
    assert checkpoints_in(run)[0][0] == max(losses(run))


def test_what_was_refused_is_not_begun_again_as_another_run(inputs: dict[str, str], tmp_path: Path):
    run = tmp_path / "run"
    train(inputs, run, max_iters=5, save_interval=5)
    given = flags(settings(inputs, run, max_iters=10))
    done = run_command(*given, "--nproc", "2", "--max_restarts", "1")
    assert done.returncode == 2
    assert "already holds 1 checkpoint" in done.stderr
    assert "beginning again" not in done.stderr
    assert "this is a mistake in lmkit" not in done.stderr
    assert [step for step, _ in checkpoints_in(run)] == [5]


def test_what_all_processes_refuse_is_said_once(inputs: dict[str, str], tmp_path: Path):
    """And names where the value came from, which they were given as a flag."""
    run, config = tmp_path / "run", tmp_path / "run.toml"
    train(inputs, run, max_iters=5)
    config.write_text("[model]\nd_model = 32\n")
    given = flags({"checkpoint_dir": run, "load_checkpoint": "latest", "config": config})
    done = run_command(*given, "--n_heads", "1", "--nproc", "2")
    assert done.returncode == 5
    assert done.stderr.splitlines() == [
        f"error: config file {config}: {run}/checkpoint_5.pt is of another model: "
        "d_model 32 (the checkpoint has 16); --n_heads 1 (the checkpoint has 2)",
        "hint: leave these out: what is not given comes from the checkpoint",
    ]


def heard(*complaints: Complaint) -> list[Complaint]:
    """What is said of the complaints of processes that end with one each."""
    said: list[Complaint] = []
    pipe = launch._Complaints(said.append)
    for complaint in complaints:
        os.environ[TO_LAUNCHER] = str(pipe.writing)
        complaint.say()
    pipe.close()
    return said


def test_different_complaints_are_all_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """But not that a process is lost, where it has told why."""
    monkeypatch.setenv(TO_LAUNCHER, "")  # and back to nothing after the test
    bad = Complaint("a.npy: torn", "make it anew", 3, "MalformedError")
    full = Complaint("disk full", None, 4, "SystemRefusedError")
    lost = [
        Complaint(f"process {rank} of 4 lost another one", "begin again", 1, "LostProcessError")
        for rank in range(2)
    ]
    assert heard(lost[0], bad, full, lost[1], bad) == [bad, full]
    assert heard(*lost) == [lost[0]]
    # What does not fit into a pipe in one piece is printed by the process itself.
    assert heard(Complaint("x" * 5000, None, 1, "LmkitError")) == []
    assert capfd.readouterr().err == f"error: {'x' * 5000}\n"


def ended(*codes: int) -> int | None:
    """What a job ends with whose processes end so, at the same time."""
    job = launch._Job([], len(codes), 0, Complaint.say)
    for code in codes:
        kill = f"os.kill(os.getpid(), {-code})" if code < 0 else f"sys.exit({code})"
        job._processes.append(subprocess.Popen([sys.executable, "-c", f"import os, sys; {kill}"]))
    for process in job._processes:
        process.wait()
    return job._failure()


def test_a_job_ends_with_the_code_of_the_process_that_is_the_reason():
    assert ended(0, 0) is None
    assert ended(1, -9) == 137
    assert ended(1, 2) == 2
    assert ended(143, -15, 1) == 1
    assert ended(143, -15) is None
    # What kills one when the first has ended as asked has cost nothing; gloo may abort it.
    assert ended(143, -6) is None
    assert ended(0, -6) is None
    assert ended(-6, 143) == 134
    assert ended(143, 4, -6) == 4


def job_of(monkeypatch: pytest.MonkeyPatch, *scripts: str) -> "launch._Job":
    """A job whose processes run these."""
    job = launch._Job([], len(scripts), 0, Complaint.say)

    def begin() -> None:
        for script in scripts:
            job._processes.append(subprocess.Popen([sys.executable, "-c", script]))

    monkeypatch.setattr(job, "_begin", begin)
    return job


def test_a_job_that_is_stopped_before_its_processes_can_hear_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
):
    """SIGTERM then kills them as it does any program."""
    job = job_of(monkeypatch, *["import time; time.sleep(60)"] * 2)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert job.wait() == 143


def test_the_first_saves_in_peace_when_another_is_killed_while_a_job_stops(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A second SIGTERM would be the request to leave without saving."""
    monkeypatch.setattr(launch, "GRACE", 0.1)
    first = f"""if True:
        import pathlib, signal, sys, time
        asked = []
        signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
        pathlib.Path({str(tmp_path / "ready")!r}).touch()
        while not asked:
            time.sleep(0.01)
        time.sleep(1)
        sys.exit(143 if asked == [1] else 1)"""
    other = "import os, signal, time; signal.signal(signal.SIGTERM, lambda *_: os.abort());"
    other += f"open({str(tmp_path / 'other')!r}, 'w').close(); time.sleep(60)"
    job = job_of(monkeypatch, first, other)

    def stop() -> None:
        while not {"ready", "other"} <= {path.name for path in tmp_path.iterdir()}:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    assert job.wait() == 143


def test_a_process_of_several_ends_before_its_interpreter_can_fail():
    """As it does where gloo's threads hold tensors; what is registered for the end is done."""
    script = """if True:
        import atexit, os, sys
        class Held:
            def __del__(self, abort=os.abort):
                abort()
        os.held = Held()
        atexit.register(print, "done", flush=True)
        sys.argv = ["lmkit", "--version"]
        from lmkit.__main__ import run
        run()"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == ["done"]


def test_what_a_process_says_when_another_fails_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    """Also where the one that refused is slower to leave than those that lost it."""
    code = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); "
    monkeypatch.setattr(launch, "GRACE", 120)
    words = ["sys.exit(1)", "import time; time.sleep(1); sys.exit(2)"]
    assert job_of(monkeypatch, *(code + one for one in words)).wait() == 2


def test_a_run_begun_again_goes_on_from_its_own_checkpoints_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Those that were there before may be another run's, which --force is to set aside."""
    (tmp_path / "checkpoint_9.pt").touch()
    begun: list[int] = []

    class Job:
        def __init__(self, _words: list[str], _nproc: int, restart: int, _say: object) -> None:
            begun.append(restart)

        def wait(self) -> int:
            if len(begun) == 2:
                (tmp_path / "checkpoint_3.pt").touch()
            return 137

    monkeypatch.setattr(launch, "_Job", Job)
    assert launch.launch([], 2, 2, str(tmp_path), Complaint.say) == 137
    assert begun == [0, 0, 2]
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("; beginning again (restarts left: 1)")
    assert second.endswith("; beginning again from the last checkpoint (restarts left: 0)")
    monkeypatch.setenv(launch.RESTART_COUNT, "2")
    assert launch.checkpoint_after_restart(str(tmp_path)) == str(tmp_path)
    monkeypatch.setenv(launch.RESTART_COUNT, "0")
    assert launch.checkpoint_after_restart(str(tmp_path)) is None


def test_the_folder_of_a_run_follows_from_what_is_given(tmp_path: Path):
    (tmp_path / "run" / "checkpoint_5.dcp").mkdir(parents=True)
    for given, folder in (
        ({}, "./checkpoints"),
        ({"load_checkpoint": "latest"}, "./checkpoints"),
        ({"load_checkpoint": "a/checkpoint_5.pt"}, "a"),
        ({"load_checkpoint": "a/superseded/checkpoint_5.pt"}, "a"),
        ({"load_checkpoint": f"{tmp_path}/run/"}, f"{tmp_path}/run"),
        ({"load_checkpoint": f"{tmp_path}/run/checkpoint_5.dcp/"}, f"{tmp_path}/run"),
        ({"load_checkpoint": "a/checkpoint_5.pt", "checkpoint_dir": "b"}, "b"),
    ):
        assert run_folder(given, "./checkpoints") == folder, given


@pytest.mark.slow
def test_without_restarts_a_dead_process_ends_the_job(inputs: dict[str, str], tmp_path: Path):
    run = tmp_path / "run"
    given = settings(inputs, run, max_iters=FOREVER, save_interval=5, log_interval=FOREVER)
    process = start_command(*flags(given), "--nproc", "2")
    wait_for(run / "checkpoint_5.pt", process)
    kill_one(process)
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 137, said
    assert "error: process 0 of 2 lost another one" in said
    assert "Traceback" not in said
    # What was whole stays, and the survivor's last whole step too.
    assert checkpoints_in(run)[0][0] >= 5


@pytest.mark.slow
def test_all_processes_name_the_checkpoint_before_bad_steps(inputs: dict[str, str], tmp_path: Path):
    run = tmp_path / "run"
    wild = {"learning_rate": 1e38, "max_grad_norm": "none", "max_bad_steps": 1}
    given = settings(inputs, run, max_iters=9, save_interval=1, **wild)
    done = run_command(*flags(given), "--nproc", "2")
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.endswith(f"; the last checkpoint before it is {run}/checkpoint_1.pt")


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(UsageError, match="--batch_size 32 cannot be shared equally by 3") as caught:
        Ranks(0, 3).check(TrainConfig())
    assert "a multiple of 3" in str(caught.value.hint)
    Ranks(0, 4).check(TrainConfig())


def test_a_lost_process_is_one_sentence():
    lost = "[gloo/transport/tcp/pair.cc:537] Connection closed by peer"
    expected = pytest.raises(TrainingError, match=r"process 1 of 2 lost another one: \[gloo")
    with expected, Ranks(1, 2).explaining():
        raise RuntimeError(lost)
    with pytest.raises(RuntimeError, match="shape"), Ranks(1, 2).explaining():
        raise RuntimeError("shape mismatch")


def test_options_are_handed_on_as_typed():
    given = {"d_model": 16, "decay_all": False, "deterministic": True, "max_grad_norm": "none"}
    words = ["--d_model", "16", "--no_decay_all", "--deterministic", "--max_grad_norm", "none"]
    assert as_words(given) == words
