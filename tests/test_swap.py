"""A bundle is replaced in one step, or so that a killed process leaves a bundle at its name or says where it is."""

import re
from pathlib import Path

import pytest
from helpers import copy_bundle, python

from engine import BundleError, Explainer
from engine.bundle import demo_bundle, load_bundle
from export import swap
from export.write import copy_without, replacing

REPLACE = """
import os, sys
from pathlib import Path
from engine.bundle import load_bundle
from export import swap
from export.write import copy_without, replacing

out, exchange, kill_at = Path(sys.argv[1]), sys.argv[2] == "exchange", int(sys.argv[3])
steps = 0

def step(function):
    "The same function, killed before its turn comes; beyond the last step nothing is killed."
    def counted(*arguments, **options):
        global steps
        steps += 1
        if steps == kill_at:
            os.kill(os.getpid(), 9)
        return function(*arguments, **options)
    return counted

if not exchange:
    swap.exchanged = lambda *_: False
for place, name in ((swap, "exchanged"), (Path, "rename"), (Path, "mkdir"), (swap.shutil, "rmtree"), (os, "rmdir")):
    setattr(place, name, step(getattr(place, name)))
before = load_bundle(out)
with replacing(out) as folder:
    copy_without(before, (), folder)
    (folder / "new").write_text("new")
"""
STEPS = 12


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_a_kill_at_any_step_leaves_a_bundle_or_says_where_it_is(tmp_path: Path, way: str) -> None:
    kinds, survived = set(), False
    for kill_at in range(1, STEPS):
        out = copy_bundle(demo_bundle(), tmp_path / f"{kill_at}" / "bundle")
        old = names(out)
        survived = python("-c", REPLACE, out, way, str(kill_at)).returncode == 0
        if out.exists():
            load_bundle(out)  # whole
            kinds.add("new" if names(out) == old | {"new"} else "old")
            assert names(out) in (old, old | {"new"})
        else:
            assert way == "renames"
            with pytest.raises(BundleError, match="an export was stopped that replaced it: rename") as error:
                load_bundle(out)
            kinds.add("said")
            found = re.search(r"rename (\S+) to", str(error.value))
            assert found and names(Path(found[1])) == old
            load_bundle(Path(found[1]))
        before = load_bundle(demo_bundle())
        with replacing(out) as folder:  # the next write ends what the killed one began
            copy_without(before, (), folder)
        assert names(out) == old
        assert names(out.parent) == {"bundle"}
        if survived:
            break
    assert survived  # every step was tried
    assert kinds == ({"old", "new"} if way == "exchange" else {"old", "new", "said"})


def test_what_another_process_works_in_is_left_alone(tmp_path: Path) -> None:
    out = copy_bundle(demo_bundle(), tmp_path / "bundle")
    with replacing(out) as slow:
        (slow / "slow").write_text("")
        with replacing(out) as fast:
            copy_without(load_bundle(out), (), fast)
        assert slow.is_dir()
        copy_without(load_bundle(out), (), slow)
    assert "slow" in names(out)
    assert names(tmp_path) == {"bundle"}


def test_a_bundle_may_have_as_long_a_name_as_a_folder_can(tmp_path: Path) -> None:
    out = copy_bundle(demo_bundle(), tmp_path / ("ö" * 127))
    for exchange in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not exchange:
                patch.setattr(swap, "exchanged", lambda *_: False)
            with replacing(out) as folder:
                copy_without(load_bundle(out), (), folder)
    Explainer(out)
    assert names(tmp_path) == {out.name}
