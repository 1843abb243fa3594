"""README's figures are those of the newest records, the rows where lmkit loses among them."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    path = ROOT / "benches" / "python" / "readme_table.py"
    spec = importlib.util.spec_from_file_location("readme_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(date: str, share: float) -> dict[str, Any]:
    tool = {"net_s": 2.0, "peak_mib": 70.0}
    row = {
        "text": "code",
        "bytes": 80_000_000,
        "tools": {"lmkit": tool, "gigatoken-glue": tool},
        "share": {"gigatoken-glue": {"median": share, "min": 0.9, "max": 1.7}},
    }
    machine = {"cpu": "a CPU", "cores": 2}
    return {"date": date, "machine": machine, "versions": {"lmkit": "0"}, "rows": [row]}


def test_figures_in_readme_are_those_of_the_records(tables: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tables.with_tables(readme, tables.measured()) == readme, "run: make readme"


def test_a_lost_row_is_shown_from_the_newest_record(tables: ModuleType, tmp_path: Path) -> None:
    for day, share in (("2026-01-02", 1.53), ("2026-01-01", 0.51)):
        path = tmp_path / f"{day}-encode.json"
        path.write_text(json.dumps(record(f"{day}T10:00:00", share)))
    text = tables.measured(tmp_path)
    assert "| C code, 80 MB | 2.00 s, 70 MiB | 2.00 s, 70 MiB | 1.53 (0.90-1.70) |" in text
    assert "0.51" not in text
    assert "file call" not in text, "a column without an entry is left out"


def test_a_gpu_is_shown_once_one_was_measured(tables: ModuleType, tmp_path: Path) -> None:
    row = {
        "row": "gpt2-124m",
        "tool": "lmkit",
        "device": "a GPU",
        "shape": {"batch": 32, "context": 1024},
        "tokens_per_second": 401_234.5,
        "mfu": None,
        "of_matmul": 0.5,
        "peak_mib": 20_000.0,
    }
    kept = record("2026-01-01T10:00:00", 1.0) | {"rows": [row]}
    (tmp_path / "2026-01-01-train_gpu.json").write_text(json.dumps(kept))
    text = tables.measured(tmp_path)
    assert (
        "| gpt2-124m, batch 32 x 1024 | lmkit, a GPU | 401,234 | unknown | 50.0% | 20,000 |" in text
    )


def test_a_readme_without_marks_is_refused(tables: ModuleType) -> None:
    with pytest.raises(SystemExit, match="lacks the marks"):
        tables.with_tables("# lmkit\n", "| a |")
