"""Build an index and add to it, killed at random moments: run by test_index_kept.py in a process of its own, which forks.

python -m tests.index_kills INDEX FOLDER SEED
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import pyarrow as pa

from engine import Explainer, Rise
from engine.index import Index, building
from engine.index.listing import listed_pictures
from engine.index.store import STATE
from engine.index.table import lance_module

KILLS, TRIES = 20, 40
"""Kills that hit a writer at work, and how often at most one is tried: on a busy machine many writers have ended before."""
PICTURES = (4, 2)
"""Of the first build, and how many more are there for each writer after it."""


def child(index: Path, folder: Path, count: int) -> int:
    """Fork a process that writes an index of the first pictures of a folder, and return its id."""
    process = os.fork()
    if not process:
        sources = {one.id: one.source for one in listed_pictures(folder)[:count]}
        explainer = Explainer(provider="cpu", precision="fp32", threads=1)  # a model is used where it was loaded
        Index.build(index, explainer, sources, method=Rise(masks=32))
        os._exit(0)
    return process


def main() -> None:
    """Print the number of kills that hit a writer at work, and of those that left an index behind."""
    index, folder, moments = Path(sys.argv[1]), Path(sys.argv[2]), random.Random(int(sys.argv[3]))
    building.SHARD = 2  # committed together
    # made once, before the forks: none of them has a thread yet
    lance_module()
    pa.array([b""], pa.binary())
    os.waitpid(child(index.with_name("first"), folder, PICTURES[0]), 0)  # measures batches, which is then known
    began = time.monotonic()
    os.waitpid(child(index.with_name("undisturbed"), folder, PICTURES[0]), 0)
    longest, hits, left = time.monotonic() - began, 0, 0
    for tried in range(TRIES):
        if hits == KILLS:
            break
        more = tried * PICTURES[1] if (index / STATE).is_file() else 0  # the format is chosen on the same pictures
        process = child(index, folder, PICTURES[0] + more)
        time.sleep(moments.uniform(0.1, 1.1) * longest)
        os.kill(process, signal.SIGKILL)
        hit = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
        hits += hit
        left += hit and (index / STATE).is_file()
    print(hits, left)


if __name__ == "__main__":
    main()
