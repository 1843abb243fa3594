"""The scripts and the notebook of `examples/` run as they stand."""

import io
import pydoc_data.topics
import runpy
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from lmkit.lm.export import export_model
from tiny_run import one_thread

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the examples run, one after another: each finds what the one before left."""
    folder = tmp_path_factory.mktemp("examples")
    text = Path(pydoc_data.topics.__file__).read_text(encoding="utf-8")
    (folder / "raw_text.txt").write_text(text[:200_000], encoding="utf-8")
    return folder


def run(folder: Path, script: str, *words: str) -> str:
    """What a script prints that is started in the folder."""
    path = str(EXAMPLES / script)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, one_thread(), redirect_stdout(said):
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(sys, "argv", [path, *words])
        runpy.run_path(path, run_name="__main__")
    return said.getvalue()


@pytest.fixture(scope="module")
def trained(folder: Path) -> str:
    """What training on one's own text prints."""
    return run(folder, "train_on_your_text.py", "raw_text.txt", "my_model")


def test_train_on_your_text(folder, trained):
    losses = [
        float(line.split("Loss: ")[1].split()[0])
        for line in trained.splitlines()
        if "Loss:" in line
    ]
    assert len(losses) == 5
    assert losses[-1] < losses[0] - 0.5
    assert (folder / "my_model" / "checkpoint_100.pt").exists()


@pytest.mark.usefixtures("trained")
def test_continue_from_export(folder):
    export_model(folder / "my_model", folder / "my_model_hf")
    words = ("my_model_hf", "raw_text.txt", "my_model_2")
    said = run(folder, "continue_from_export.py", *words)
    assert "llama with 234,816 parameters is now my_model_2/checkpoint_0.pt" in said
    assert "Saving checkpoint to my_model_2/checkpoint_50.pt" in said
    assert "\nThe " in said
    assert (folder / "my_model_2_hf" / "model.safetensors").exists()


@pytest.mark.usefixtures("trained")
def test_tokens_in_plain_pytorch(folder):
    said = run(folder, "tokens_in_plain_pytorch.py", "my_model_tokens.npy")
    losses = [float(line.split()[2]) for line in said.splitlines()]
    assert len(losses) > 3
    assert losses[-1] < losses[0]


def test_the_notebook(folder, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Debuggers of a kernel want files that a frozen interpreter has no names for.
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(EXAMPLES / "train_in_a_notebook.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "saved with its outputs"
    resources = {"metadata": {"path": str(folder)}}
    options = {"timeout": 240, "startup_timeout": 240, "resources": resources}
    NotebookClient(notebook, kernel_name="python3", **options).execute()
    shown = {
        cell["source"].splitlines()[-1]: cell["outputs"]
        for cell in notebook.cells
        if cell["cell_type"] == "code" and cell["outputs"]
    }
    assert "Trainer(" in shown["trainer"][-1]["data"]["text/plain"]
    means = shown["}"][-1]["data"]["text/plain"]
    values = [float(part.split(":")[1]) for part in means.strip("{}").split(",")]
    assert len(values) == 5
    assert values[-1] < values[0] - 0.5


def test_each_is_short():
    for path in EXAMPLES.glob("*.py"):
        code = path.read_text(encoding="utf-8").split('"""', 2)[2]
        assert len([line for line in code.splitlines() if line.strip()]) <= 35, path
