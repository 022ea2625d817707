"""What a loss of power may leave: nothing is named that is not on the disk, and what was torn is done again."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import CAT, write_demo_pairs
from index_pictures import write_catalogue

from engine import Explainer, Rise
from engine.files import write_whole

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of open files are read from /proc")

FEW = Rise(masks=32)
Call = tuple[str, Path]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What is written to the disk, and what gets its name, in order."""
    made: list[Call] = []
    flush, rename = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        made.append(("flush", Path(f"/proc/self/fd/{descriptor}").readlink()))
        flush(descriptor)

    def replace(old: Path, new: Path) -> None:
        made.append(("rename", Path(new)))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return made


def test_a_lasting_file_is_on_the_disk_before_and_after_it_gets_its_name(calls: list[Call], tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"a", lasting=True)
    kinds, paths = zip(*calls, strict=True)
    assert kinds == ("flush", "rename", "flush")
    assert paths[0].name.startswith(".a.")
    assert paths[1:] == (tmp_path / "a", tmp_path)
    calls.clear()
    write_whole(tmp_path / "a", b"a")
    assert [kind for kind, _ in calls] == ["rename"]


def test_a_commit_names_what_is_on_the_disk(calls: list[Call], demo: Explainer, tmp_path: Path) -> None:
    pytest.importorskip("lance", reason="needs pylance, of the extra `index`")
    from engine.index import Index, store  # noqa: PLC0415 - after the skip

    path = tmp_path / "index"
    index = Index.build(path, demo, write_catalogue(tmp_path / "pictures"), method=FEW)
    steps: list[Callable[[], object]] = [
        lambda: index.add({"a": CAT[1]}),
        index.compact,
        lambda: index.remove(["a"]),
    ]
    lasting = {tmp for kind, tmp in calls if kind == "flush"}
    assert {path / name for name in store.State.read(path / store.STATE).files} <= lasting
    for step in steps:
        before = store.State.read(path / store.STATE).files
        calls.clear()
        step()
        new = [path / name for name in store.State.read(path / store.STATE).files if name not in before]
        assert new
        named = calls.index(("rename", path / store.STATE))
        assert {*new, *(file.parent for file in new)} <= {file for kind, file in calls[:named] if kind == "flush"}
        assert calls[named - 1][1].name.startswith(f".{store.STATE}.")
        assert calls[named + 1] == ("flush", path)


@pytest.mark.parametrize("torn", [b"", b"\0" * 500])
def test_a_version_that_was_torn_is_dropped(torn: bytes, demo: Explainer, tmp_path: Path) -> None:
    """Lance wrote a version, we did not commit it, and the power went."""
    pytest.importorskip("lance", reason="needs pylance, of the extra `index`")
    from engine.index import Index, store  # noqa: PLC0415 - after the skip

    path = tmp_path / "index"
    index = Index.build(path, demo, write_catalogue(tmp_path / "pictures"), method=FEW)
    version = store.LAST_VERSION - index._store.state.version - 1
    (path / store.ROWS / store.VERSIONS / f"{version}.manifest").write_bytes(torn)
    assert len(Index.open(path, demo)) == 8
    index.add({"a": CAT[1]})
    assert len(Index.open(path, demo)) == 9
    assert index.verify() == []


def test_a_part_of_a_batch_is_on_the_disk_when_it_is_done(
    calls: list[Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra `batch`")
    from engine.batch.command import main  # noqa: PLC0415 - after the skip

    write_demo_pairs(tmp_path)
    out = tmp_path / "out"
    assert main([str(tmp_path / "pairs.csv"), "--out", str(out), "--masks", "32", "--pictures", "--quiet"]) == 0
    done = calls.index(("rename", out / "explanations" / "000000.parquet"))
    drawn = sorted((out / "pictures" / "000000").iterdir())
    assert len(drawn) == 3
    assert {*drawn, drawn[0].parent, out, out / "pictures"} <= {file for kind, file in calls[:done] if kind == "flush"}
    assert calls[done + 1] == ("flush", out / "explanations")
