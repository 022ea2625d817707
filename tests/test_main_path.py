"""CONTRIBUTING walks the main path hop by hop: a run of the demo is profiled and must take the same one."""

import re
import sys
from pathlib import Path
from types import FrameType

import pytest

from engine.explain import main

ROOT = Path(__file__).parent.parent
HOP = re.compile(r"`((?:engine|kernels)/[\w/]+\.py)` `(\w+)`(?:, `(\w+)`)?")


def hops() -> list[tuple[str, str]]:
    """(file, function) of every hop in CONTRIBUTING, in its order."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    part = text.split("<!-- main path -->")[1].split("<!-- end of main path -->")[0]
    return [(file, name) for file, *names in HOP.findall(part) for name in names if name]


def test_a_profile_of_the_demo_takes_the_main_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walked, called = hops(), []
    assert len(walked) >= 15
    wanted = set(walked)

    def profiler(frame: FrameType, event: str, argument: object) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and ROOT in file.parents:
            call = file.relative_to(ROOT).as_posix(), frame.f_code.co_name
            if call in wanted:
                called.append(call)

    before = sys.getprofile()
    sys.setprofile(profiler)
    try:
        assert main(["--quiet", "--out", str(tmp_path / "demo.png")]) == 0
    finally:
        sys.setprofile(before)
    assert "similarity" in capsys.readouterr().out
    assert wanted == set(called)
    left = iter(called)
    assert [hop for hop in walked if hop not in left] == []  # each after the one before it
