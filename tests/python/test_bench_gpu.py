"""The benchmark for GPUs runs as far as it can without one, and says so where it cannot."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from lmkit.lm import trainer
from lmkit.lm.device import Device

pytestmark = pytest.mark.usefixtures("on_one_thread")

BENCHES = Path(__file__).resolve().parents[2] / "benches" / "python"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHES))
    monkeypatch.setattr(trainer, "make_keeper", trainer.make_keeper)  # the benchmark sets another
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return importlib.import_module("train_gpu")


def in_this_process(bench: ModuleType, name: str, tool: str, words: list[str]) -> object:
    assert name == "tiny"
    assert words == ["--rounds=1", "--tiny"]
    return bench.worker(tool, bench.TINY, "cpu", 1)


@pytest.mark.parametrize(("peak", "mfu"), [(None, "unknown"), (1e15, "0.0%")])
def test_every_tool_goes_through_on_a_cpu(
    bench: ModuleType,
    peak: float | None,
    mfu: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(Device, "peak_flops", lambda _: peak)
    monkeypatch.setattr(bench.harness, "keep", lambda *_, **__: pytest.fail("a trial is kept"))
    tools = bench.TOOLS if peak is None else ["lmkit"]
    bench.main(
        ["--tiny", "--rounds", "1", "--tools", *tools],
        measure=lambda *what: in_this_process(bench, *what),
    )
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("| tiny | ")]
    assert [line.split(" | ")[1] for line in lines] == list(tools)
    assert all(line.split(" | ")[3] == mfu for line in lines)
    assert f"dense bfloat16 peak {'unknown' if peak is None else '1,000 TFLOP/s'}" in out
    assert "MFU counts 6 N + 12 L d T a token" in out


def test_without_a_gpu_it_is_refused(bench: ModuleType):
    with pytest.raises(SystemExit, match="error: this benchmark needs a CUDA device"):
        bench.main([])


def test_its_count_of_flops_is_the_trainers(bench: ModuleType):
    import torch

    from lmkit.lm.model import Transformer
    from lmkit.model_config import ModelConfig

    for shape in bench.ROWS.values():
        with torch.device("meta"):
            model = Transformer(
                ModelConfig(
                    vocab_size=shape.vocab_size,
                    d_model=shape.d_model,
                    n_layers=shape.n_layers,
                    n_heads=shape.n_heads,
                    d_ff=shape.d_ff,
                    max_seq_len=shape.context,
                    tie_embeddings=shape.tied,
                )
            )
        assert model.flops_per_token(shape.context) == shape.flops_per_token()
