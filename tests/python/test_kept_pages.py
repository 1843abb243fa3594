"""Memory that stays from step to step, and goes back after the run."""

import platform
import resource
from pathlib import Path

import pytest
import torch

from lmkit.lm.kept_pages import kept_pages

MIB = 1 << 20
pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library, which is left as it is"
)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _step() -> int:
    """Allocate, fill and free as a step does, above all sizes glibc maps; the page faults met."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    activations = [torch.zeros(40 * MIB // 4).add_(1) for _ in range(4)]
    del activations
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_a_step_finds_the_pages_of_those_before_and_they_go_back_after_the_run():
    before = _resident_bytes()
    with kept_pages():
        first = _step()
        _step()
        later = [_step() for _ in range(3)]
        assert _resident_bytes() > before + 140 * MIB
    assert max(later) < first / 100
    assert _resident_bytes() < before + 20 * MIB


def test_pages_are_given_back_also_when_a_run_fails():
    before = _resident_bytes()

    def fail() -> None:
        _step()
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"), kept_pages():
        fail()
    assert _resident_bytes() < before + 20 * MIB
