"""Nothing is lost: writers that are killed, bytes that are flipped, readers of what is larger than their memory."""

import dataclasses
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import CAT, ROOT, python
from index_pictures import write_catalogue

from engine import Explainer, OptionError, OutputError, Rise
from engine.index import Index, building, store
from engine.index.listing import listed_pictures
from engine.index.rows import IndexRow
from engine.index.store import damage
from engine.index.table import staged_fragments
from engine.writing import writing

pytest.importorskip("lance", reason="needs pylance, of the extra `index`")

FLIPS = 200


@pytest.fixture
def small(demo: Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of several shards, with rows that were removed, replaced and failed."""
    monkeypatch.setattr(building, "SHARD", 3)
    folder = write_catalogue(tmp_path / "pictures")
    index = Index.build(tmp_path / "index", demo, folder, method=Rise(masks=32))
    shutil.copy(folder / "noto" / "cat.png", folder / "noto" / "bandage.png")
    (folder / "broken.png").write_text("text")
    index.add(folder)
    index.remove(["noto/couple.png"])
    return tmp_path / "index"


def rows_of(path: Path, explainer: Explainer) -> dict[str, bytes]:
    """What is stored of each row: its record but for the seconds it took."""
    table = Index.open(path, explainer)._store.table
    ids = table.ids()
    records = table.read(range(len(ids)), ids).records.copy()
    records["seconds"] = 0
    assert len(set(ids)) == len(ids)
    return dict(zip(ids, (record.tobytes() for record in records), strict=True))


@pytest.mark.skipif(sys.platform == "win32", reason="an index is written on Linux and macOS")
def test_killed_writers_lose_nothing(demo: Explainer, tmp_path: Path) -> None:
    folder = write_catalogue(tmp_path / "pictures", 84)
    ran = python("-m", "tests.index_kills", tmp_path / "index", folder, "0", cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    hits, left = map(int, ran.stdout.split())
    assert hits >= 8
    assert left >= 1  # with an index that was begun
    assert damage(tmp_path / "index") == []
    sources = {one.id: one.source for one in listed_pictures(folder)}
    index = Index.build(tmp_path / "index", demo, sources, method=Rise(masks=32))
    assert damage(tmp_path / "index") == []
    assert sorted(index.ids) == sorted(index._store.table.ids()) == sorted(sources)
    assert list((tmp_path / "index" / store.STAGED).iterdir()) == []
    # the same rows as where nobody was killed
    own, whole = (rows_of(tmp_path / name, demo) for name in ("index", "undisturbed"))
    assert {id_: own[id_] for id_ in whole} == whole


@pytest.mark.parametrize("at", range(10))
def test_a_writer_that_dies_at_any_step_is_gone_on_with(
    at: int, demo: Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file that is written is a step; a writer dies before it, and its successor ends with the same rows."""
    folder, steps = write_catalogue(tmp_path / "pictures"), iter(range(1000))
    monkeypatch.setattr(building, "SHARD", 3)
    written = store.write_whole

    def dying(path: Path, content: bytes, **options: bool) -> None:
        if next(steps) == at:
            raise KeyboardInterrupt
        written(path, content, **options)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_whole", dying)
        try:
            Index.build(tmp_path / "index", demo, folder, method=Rise(masks=32))
            assert at >= 8
        except KeyboardInterrupt:
            pass
    Index.build(tmp_path / "index", demo, folder, method=Rise(masks=32))
    assert damage(tmp_path / "index") == []
    assert len(rows_of(tmp_path / "index", demo)) == 8


def test_every_flipped_byte_is_found_and_its_file_is_named(small: Path) -> None:
    assert damage(small) == []
    files = sorted(file for file in small.rglob("*") if file.is_file() and file.stat().st_size)
    assert len(files) > 10
    drawn = random.Random(0)
    whole = [(file, at) for file in files for at in range(file.stat().st_size)]
    flips = [
        *drawn.sample(whole, FLIPS // 2),
        *((f, drawn.randrange(f.stat().st_size)) for f in drawn.choices(files, k=100)),
    ]
    for file, at in flips:
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[at] ^= 1 << drawn.randrange(8)
        file.write_bytes(flipped)
        found = damage(small)
        assert found, (file, at)
        assert file.name in found[0], (file, found)
        file.write_bytes(content)
    assert damage(small) == []


def test_a_missing_file_is_found(small: Path) -> None:
    for file in sorted(file for file in small.rglob("*") if file.is_file() and file.stat().st_size):
        content = file.read_bytes()
        file.unlink()
        assert damage(small), file
        file.write_bytes(content)


def test_a_row_that_does_not_fit_its_checksum_is_not_explained(small: Path, demo: Explainer) -> None:
    """Bytes that change after the file's checksum was compared, in memory or on a bad disk."""
    index = Index.open(small, demo)
    table, ids = index._store.table, index.ids
    place = index._places[ids[0]]
    with pytest.raises(OutputError, match=f"the row '{ids[1]}' of the index is damaged"):
        table.read([place], [ids[1]])  # the checksum covers the id


def test_damage_is_not_compacted_and_given_a_new_checksum(small: Path, demo: Explainer) -> None:
    index = Index.open(small, demo)
    data = max((small / "rows.lance" / "data").iterdir(), key=lambda file: file.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(OutputError, match="compact only what is whole"):
        index.compact()


def test_damage_is_still_found_after_later_commits(small: Path, demo: Explainer) -> None:
    data = max((small / "rows.lance" / "data").iterdir(), key=lambda file: file.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    Index.open(small, demo).add({"new": CAT[1]})
    found = damage(small)
    assert len(found) == 1
    assert data.name in found[0]


def test_one_writer_at_a_time(small: Path, demo: Explainer) -> None:
    index = Index.open(small, demo)
    with writing(small):
        for change in (index.compact, lambda: index.remove(["noto/cat.png"]), lambda: index.add({"a": "b"})):
            with pytest.raises(OptionError, match="another process is writing"):
                change()
    index.remove(["noto/cat.png"])


READ = """
import resource, sys
from engine import Explainer
from engine.index import Index
index = Index.open(sys.argv[1], Explainer(precision="fp32", threads=1))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), -1))
assert index.verify() == []
for id_ in index.ids[:: len(index) // 5]:
    assert len(index.search_and_explain(id_, 5)) == 5
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of address space are Linux's")
def test_an_index_larger_than_the_memory_that_is_left_is_read(demo: Explainer, tmp_path: Path) -> None:
    """Thumbnails of random bytes make it large: 160 MB are read with 120 MB to spare."""
    path = tmp_path / "index"
    index = Index.build(path, demo, write_catalogue(tmp_path / "pictures"), method=Rise(masks=32), thumbnails=True)
    (row, *_), random = rows_made(index, demo), np.random.default_rng(0)
    with writing(path):
        kept = store.IndexStore(path)
        for shard in range(8):
            rows = [dataclasses.replace(row, id=f"{shard}-{i}", thumbnail=random.bytes(100_000)) for i in range(200)]
            fragments = staged_fragments(path / store.ROWS, kept.settings, rows)
            kept.add_shard(store.StagedShard(str(shard), fragments, {}, [r.id for r in rows], {}))
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) > 160e6
    ran = python("-c", READ, path, str(120_000_000))
    assert ran.returncode == 0, ran.stderr[-2000:]


def rows_made(index: Index, explainer: Explainer) -> list[IndexRow]:
    """Rows as a build makes them."""
    maker = building.maker_of(index._store, explainer)
    prepared = explainer.prepare(CAT[0], index.settings.passes)
    pool = explainer.model.reference_features(index._store.pool, None)
    return [maker.row(("a", str(CAT[0])), b"0" * 32, prepared, pool)]
