"""An export's memory goes back to the system: what is freed is not kept in holes of the C library's heap."""

import platform
import subprocess
import sys

import pytest
from helpers import ROOT

PROGRAM = """
import numpy as np
from engine.runtime.memory import resident_bytes
from export.large_blocks import return_large_blocks

ours = {ours}
if ours:
    return_large_blocks()
block = np.ones(31 * 2**20, np.uint8)
del block  # from here on glibc, left alone, keeps blocks of this size in its heap
before = resident_bytes()
blocks = [np.ones(8 * 2**20, np.uint8) for _ in range(20)]
above = [np.ones(1000, np.uint8) for _ in range(1000)]  # keeps the heap from shrinking
del blocks
print(resident_bytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_large_blocks_go_back_to_the_system_when_they_are_freed() -> None:
    kept = {
        ours: int(
            subprocess.run(
                [sys.executable, "-c", PROGRAM.format(ours=ours)], cwd=ROOT, capture_output=True, check=True
            ).stdout
        )
        for ours in (False, True)
    }
    assert kept[False] > 100e6  # else this test shows nothing
    assert kept[True] < 20e6
