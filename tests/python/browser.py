"""A page in a headless Chromium: what its scripts came to, and what they complained of.

The browser needs no driver: a probe that is written into a copy of the page tells what it finds to
the frame around it, whose document ``--dump-dom`` prints.
"""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROBES = Path(__file__).parent / "probes"
BEFORE = """<script>
window.faults = [];
const note = (fault) => faults.push(String(fault));
addEventListener("error", (event) => note(event.message || event.target.outerHTML), true);
addEventListener("unhandledrejection", (event) => note(event.reason));
addEventListener("securitypolicyviolation", (event) => note(`policy: ${event.blockedURI}`));
</script>"""
AFTER = """<script>
addEventListener("load", () => {
  let found = null;
  try { found = (() => { PROBE })(); } catch (error) { faults.push(String(error)); }
  parent.postMessage(JSON.stringify({ found, faults }), "*");
});
</script>"""
# A window cannot be narrower than about 500, a frame can.
FRAME = """<!doctype html><body style="margin:0"><script>
addEventListener("message", (event) => document.body.setAttribute("data-told", event.data));
</script><iframe src="PAGE" style="border:0" width="WIDTH" height="HEIGHT"></iframe>"""


@dataclass(frozen=True)
class Seen:
    """What a probe returned, what went wrong in the page, what the console said."""

    found: Any
    faults: list[str]
    console: list[str]


def find_browser() -> str:
    """The browser's path; a test that asks where there is none is skipped."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    return path


def look_at(page: Path, probe: str, width: int, height: int = 900, *options: str) -> Seen:
    """Open a page in a window of this size and run a probe, one of ``probes``, when it is ready."""
    watched, frame = page.with_name("watched.html"), page.with_name("frame.html")
    ending = AFTER.replace("PROBE", (PROBES / f"{probe}.js").read_text(encoding="utf-8"))
    text = page.read_text(encoding="utf-8").replace("<head>", f"<head>{BEFORE}", 1)
    watched.write_text(text.replace("</body>", f"{ending}</body>", 1), encoding="utf-8")
    outer = FRAME.replace("PAGE", watched.name).replace("WIDTH", str(width))
    frame.write_text(outer.replace("HEIGHT", str(height)), encoding="utf-8")
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    words += ["--enable-logging=stderr"]
    words += [f"--window-size={width},{height}", "--virtual-time-budget=2000", *options]
    words += [f"--user-data-dir={page.parent / 'browser'}", "--dump-dom", frame.as_uri()]
    done = subprocess.run(
        [find_browser(), *words], capture_output=True, text=True, check=True, timeout=120
    )
    match = re.search(r'data-told="([^"]*)"', done.stdout)
    assert match, f"the page was not ready: {done.stdout[:500]}{done.stderr[-2000:]}"
    told = json.loads(html.unescape(match[1]))
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Seen(told["found"], told["faults"], console)
