"""The soak and the kills find what they are for: answers that differ, what grows, and files that are written in place."""

import itertools
from pathlib import Path

import pytest
import soak
from helpers import ROOT, python
from soak import Sample, Work, grown


def test_an_answer_that_differs_is_found() -> None:
    numbers = itertools.count()
    with Work({"same": lambda: b"1", "other": lambda: b"%d" % (next(numbers) // 20)}, 2, 0) as work:
        while work.answered["other"] < 30:
            pass
    assert work.faults and all(fault.startswith("other: ") for fault in work.faults)


def test_an_error_is_found() -> None:
    with Work({"broken": lambda: soak._saved_and_loaded(None, Path())}, 1, 0) as work:  # type: ignore[arg-type]
        while not work.answered["broken"]:
            pass
    assert "AttributeError" in work.faults[0]


@pytest.mark.parametrize("name", ["memory", "files", "threads"])
def test_what_grows_is_found(name: str) -> None:
    flat = [Sample(100, 10, 5)] * 20 + [Sample(103, 10, 5)] * 20
    assert grown(flat) == []
    assert grown([*flat[:-1], Sample(200, 11, 6)]) == []  # one sample is no growth
    more = {"memory": Sample(106, 10, 5), "files": Sample(100, 11, 5), "threads": Sample(100, 10, 6)}[name]
    assert [fault.split()[0] for fault in grown([*flat[:20], *[more] * 20])] == [name]


IN_PLACE = """
import sys

sys.path.insert(0, "tests")
import kills
import engine.explanation

def in_place(path, content):
    with open(path, "wb") as file:
        file.write(content)

if sys.argv[1] == "in place":
    engine.explanation.write_whole = in_place
rows = kills.attack(6, 0, ".png", [])
print(rows[0]["ends"]["killed"], len(rows[0]["faults"]))
"""


@pytest.mark.parametrize("way", ["whole", "in place"])
def test_a_file_that_is_written_in_place_is_found(way: str, tmp_path: Path) -> None:
    done = python("-c", IN_PLACE, way, cwd=ROOT, env={"TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    killed, faults = map(int, done.stdout.split("\n")[-2].split())
    assert killed >= 3
    assert bool(faults) == (way == "in place")
