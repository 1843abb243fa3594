"""Memory that stays from step to step, and goes back after the run.

Each test has a process of its own: in one that has run other tests a step may lie in heap that is
free and resident already, and what comes and goes is then less than what the step takes.
"""

import json
import platform
from typing import Any

import pytest

from tiny_run import run_script

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library, which is left as it is"
)

MIB = 1 << 20
SHARED = """
import json, resource
from pathlib import Path
import torch
from lmkit.lm.kept_pages import kept_pages

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def step():
    "Allocate, fill and free as a step does, above all sizes glibc maps; the page faults met."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    activations = [torch.zeros(40 * 2**20 // 4).add_(1) for _ in range(4)]
    del activations
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

start = resident_bytes()
"""


def _measured(script: str) -> dict[str, Any]:
    """What the script prints as JSON, in a fresh process."""
    done = run_script(SHARED + script)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_step_finds_the_pages_of_those_before_and_they_go_back_after_the_run():
    measured = _measured("""
with kept_pages():
    faults = [step() for _ in range(16)]
    kept = resident_bytes() - start
after = resident_bytes() - start
print(json.dumps({"faults": faults, "kept": kept, "after": after}))
""")
    assert measured["kept"] > 140 * MIB
    first, *others = measured["faults"]
    # A small block may come to lie in the hole of a large one, which then takes new pages, once.
    assert sum(others) < first / 2
    assert max(others[-8:]) < first / 100
    assert measured["after"] < 20 * MIB


def test_pages_are_given_back_also_when_a_run_fails():
    measured = _measured("""
failure = ""
try:
    with kept_pages():
        step()
        kept = resident_bytes() - start
        raise RuntimeError("out of luck")
except RuntimeError as error:
    failure = str(error)
after = resident_bytes() - start
print(json.dumps({"failure": failure, "kept": kept, "after": after}))
""")
    assert measured["failure"] == "out of luck"
    assert measured["kept"] > 140 * MIB
    assert measured["after"] < 20 * MIB
