"""A part of the corpus of odd files of pictures: `python -m tests.picture_corpus` runs the whole."""

import json
from pathlib import Path

import pytest
from helpers import python


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_odd_files_are_read_or_refused_within_limits(tmp_path: Path) -> None:
    done = python("-m", "tests.picture_corpus", "--out", tmp_path, "--count", "150")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (done.returncode, report["faults"]) == (0, [])
    outcomes = report["outcomes"]
    assert sum(sum(of.values()) for of in outcomes.values()) == 150
    assert set(outcomes) >= {"begun", "cut", "doubled", "flipped", "header", "large", "promises", "truncated", "written"}
    assert max(megabytes for _, megabytes, _ in report["large"].values()) > 200  # such pictures are really there
    assert outcomes["written"]["read"] > outcomes["written"].get("refused", 0)
