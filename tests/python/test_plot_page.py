"""The page that `lmkit plot` writes, in a real browser: curves, switches, no error, any width."""

import re
from pathlib import Path

import pytest

from browser import find_browser, look_at
from lmkit.cli import call
from recorded_run import record_run

STRANGE = "<img src=x onerror=alert(1)>"
SAMPLE = ' </script><script>faults.push("ran")</script> 木 \u2028 <b>'


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, one of them long, one with a name and a sample that would be markup."""
    find_browser()
    folder = tmp_path_factory.mktemp("page")
    runs = [
        record_run(folder / STRANGE, sample=SAMPLE),
        record_run(folder / "muon", speed=2, optimizer="muon"),
        record_run(folder / "long_name_of_a_run_that_goes_on_and_on_without_a_space", steps=3000),
    ]
    path = folder / "plot.html"
    assert call(["plot", *map(str, runs), "--output_path", str(path), "--quiet"]) == 0
    return path


def test_the_page_shows_curves_and_its_switches_work(page: Path):
    seen = look_at(page, "desktop", 1280)
    found = seen.found
    assert (seen.faults, seen.console) == ([], [])
    assert found["width"] == 1280
    assert found["figures"] == 4
    # Training and validation of each run; the long one is thinned and has a band.
    assert found["curves"] == [299, 6, 299, 6, 1000, 60]
    assert found["raw"] == 3
    assert found["marks"] == [3, 3]
    assert found["inside"]
    assert found["settings"] == ["optimizer"]
    assert found["samples"][0] == f"Once upon{SAMPLE}"
    assert found["images"] == 0
    assert {"0", "1000", "1k", "3k"} & set(found["ticks"]["step"])
    assert "100k" in found["ticks"]["tokens"]
    assert "10m" in found["ticks"]["time"]
    assert found["bits"][0] == "Loss, bits a byte"
    assert float(found["bits"][1]) < 3
    assert (found["log"], found["plain"]) == (True, True)
    assert found["shown"]
    assert re.match(r"step 1,(49|50)\d", found["tip"])
    assert "muon" not in found["tip"]  # which has ended before
    assert f"{STRANGE}, validation" in found["early"]
    assert "muon, validation" in found["early"]
    assert found["dots"] == 3  # the cursor stands in the other charts too
    assert found["whole"]
    assert not {"0", "3000", "3k"} & set(found["zoomed"][-4:])
    assert found["again"] == found["ticks"]["step"]
    assert found["keyed"].startswith("step 300")
    assert "step 50" in found["first"]
    assert found["hidden"] == 4
    light, dark = "rgb(255, 255, 255)", "rgb(20, 23, 27)"
    assert found["papers"] == [light, light, dark, light]


def test_the_page_reads_well_on_a_phone_in_the_dark(page: Path):
    dark = "--blink-settings=preferredColorScheme=0"
    seen = look_at(page, "phone", 375, 800, dark)
    found = seen.found
    assert (seen.faults, seen.console) == ([], [])
    assert found["width"] == 375
    assert found["needs"] <= found["width"]
    assert found["beyond"] == []
    assert found["small"] == 0
    assert found["paper"] == "rgb(20, 23, 27)"
    assert min(found["charts"]) > 300


def test_the_page_asks_nothing_of_a_network(page: Path):
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"'<]*", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text
    assert STRANGE not in text
    assert len(text) < 250_000


def test_a_single_run_with_nothing_but_losses_has_a_page_too(tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"iter": 1, "loss": 5.0, "lr": 0.1, "grad_norm": 1.0}\n')
    path = tmp_path / "plot.html"
    assert call(["plot", str(run), "--output_path", str(path), "--x", "time", "--quiet"]) == 0
    seen = look_at(path, "little", 800)
    assert (seen.faults, seen.console) == ([], [])
    assert seen.found == {
        "off": ["tokens", "time", "bits"], "title": "run", "dots": 3, "writing": True,
        "settings": True,
    }  # fmt: skip
