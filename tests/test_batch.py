"""python -m engine.batch: tables of explanations, whole and once whatever happens."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import error_line, exit_status, python, write_demo_pairs

from engine import Explainer, OutputError, Rise
from engine.batch import command, pairs
from engine.batch.command import main
from engine.batch.explaining import PartExplainer
from engine.batch.folder import BatchFolder
from engine.batch.pairs import ListedPair, Part, listed_pairs, parts_of
from engine.saliency.tile_means import tile_means

pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, of the extra `batch`")

CAT, OTHER_CAT, COUPLE = "cat-noto.png", "cat-twemoji.png", "couple-noto.png"
ASKED = [(CAT, OTHER_CAT), (COUPLE, CAT), ("gone.png", CAT), (CAT, "text.png"), (CAT, COUPLE)]
"""The query of three is the same; two fail."""
OPTIONS = ("--masks", "32", "--precision", "fp32", "--provider", "cpu", "--quiet")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures and pairs of them, which is the current one."""
    write_demo_pairs(tmp_path)
    (tmp_path / "text.png").write_text("text")
    lines = [f"{query},{reference}" for query, reference in ASKED]
    (tmp_path / "pairs.csv").write_text("\n".join(["query,reference", *lines]) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    return exit_status(main, [*arguments, *OPTIONS])


def rows(folder: str | Path) -> list[dict[str, Any]]:
    return list(pq.read_table(Path(folder) / "explanations").sort_by("row").to_pylist())


def contents(folder: str | Path) -> dict[str, bytes]:
    """The files of a batch but for its lock."""
    files = [file for file in Path(folder).rglob("*") if file.is_file() and file.name != "lock"]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_rows_are_explanations(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pairs.csv", "--out", "out", "--pictures") == 0
    assert capsys.readouterr().out == "3 pairs are explained in out; 2 failed: out/failed.parquet says why\n"
    found = rows("out")
    assert [(row["row"], row["query"], row["reference"]) for row in found] == [(i, *ASKED[i]) for i in (0, 1, 4)]
    direct = Explainer(precision="fp32", provider="cpu").explain(CAT, OTHER_CAT, Rise(masks=32))
    row = found[0]
    assert row["similarity"] == pytest.approx(direct.similarity, abs=1e-6)
    np.testing.assert_allclose(np.reshape(row["saliency"], (16, 16)), tile_means(direct.saliency), atol=1e-6)
    assert [a["name"] for a in row["attributes"]] == [a.name for a in direct.attributes]
    assert (row["saliency_reliability"], row["passes"]) == (pytest.approx(direct.saliency_reliability, abs=1e-6), 34)
    assert row["reference_saliency"] is None
    assert (here / "out" / row["picture"]).read_bytes().startswith(b"\x89PNG")
    assert len(list(Path("out/pictures").rglob("*.png"))) == 3


def test_what_fails_is_a_table_of_pairs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pairs.csv", "--out", "out") == 0
    failed = pq.read_table("out/failed.parquet").to_pylist()
    assert [(row["row"], row["query"], row["reference"]) for row in failed] == [(i, *ASKED[i]) for i in (2, 3)]
    assert "gone.png: No such file" in failed[0]["reason"]
    assert "text.png is not a readable picture" in failed[1]["reason"]
    shutil.copy(CAT, "gone.png")
    shutil.copy(OTHER_CAT, "text.png")
    assert run("out/failed.parquet", "--images", ".", "--out", "again") == 0
    assert [row["query"] for row in rows("again")] == ["gone.png", CAT]
    assert not Path("again/failed.parquet").exists()
    assert capsys.readouterr().out.splitlines()[1] == "2 pairs are explained in again"


def test_each_query_is_prepared_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[str] = []
    prepare = Explainer.prepare

    def spied(self: Explainer, image: Any, *more: Any, **named: Any) -> Any:
        prepared.append(Path(image).name)
        return prepare(self, image, *more, **named)

    monkeypatch.setattr(Explainer, "prepare", spied)
    assert run("pairs.csv", "--out", "out") == 0
    assert prepared == [CAT, COUPLE]


def test_both_pictures_are_mapped(here: Path) -> None:
    (here / "pairs.csv").write_text(f"query,reference\n{CAT},{OTHER_CAT}\n")
    assert run("pairs.csv", "--out", "out", "--mode", "pair") == 0
    direct = Explainer(precision="fp32", provider="cpu").explain(CAT, OTHER_CAT, Rise(masks=32), "pair")
    (row,) = rows("out")
    np.testing.assert_allclose(
        np.reshape(row["reference_saliency"], (16, 16)), tile_means(direct.reference_saliency), atol=1e-6
    )
    assert [link["strength"] for link in row["links"]] == pytest.approx([link.strength for link in direct.links], abs=1e-5)


def test_urls_are_read(here: Path) -> None:
    pytest.importorskip("fsspec")
    (here / "pairs.csv").write_text(f"query,reference\n{(here / CAT).as_uri()},{OTHER_CAT}\n")
    assert run("pairs.csv", "--out", "out") == 0
    assert rows("out")[0]["query"].startswith("file:///")


def test_rows_are_equal_run_after_run_and_part_by_part(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "PART_QUERIES", 1)
    for out in ("one", "two"):
        assert run("pairs.csv", "--out", out, "--pictures") == 0
    assert contents("one") == contents("two")
    assert len(list(Path("one/explanations").iterdir())) == 3


def test_a_batch_goes_on_where_it_was_killed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "PART_QUERIES", 1)
    assert run("pairs.csv", "--out", "whole", "--pictures") == 0
    killed = (
        "from engine.batch import folder, pairs, command; pairs.PART_QUERIES = 1; write = folder.write_whole; import os\n"
    )
    for moment in range(1, 12):
        code = (
            f"{killed}left = {moment}\ndef dying(path, content, **options):\n    global left\n    left -= 1\n"
            "    left or (path.with_name('.' + path.name + '.0123abcd').write_bytes(content[:9]), os.kill(os.getpid(), 9))\n"
            "    write(path, content, **options)\nfolder.write_whole = dying\n"
            f"raise SystemExit(command.main({['pairs.csv', '--out', 'killed', '--pictures', *OPTIONS]!r}))"
        )
        status = python("-c", code).returncode
        if not status:
            break
        assert status == -9
        assert run("pairs.csv", "--out", "killed", "--pictures") == 0
        assert contents("killed") == contents("whole"), moment
        shutil.rmtree("killed")
    assert moment > 5


def test_what_is_done_is_not_done_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("pairs.csv", "--out", "out") == 0
    before = contents("out")
    monkeypatch.setattr(PartExplainer, "__call__", lambda *_: pytest.fail("a part is done twice"))
    assert run("pairs.csv", "--out", "out") == 0
    assert contents("out") == before
    assert len(set(capsys.readouterr().out.splitlines())) == 1


def test_progress_ends_at_all_pairs(here: Path) -> None:
    seen: list[tuple[int, int]] = []
    explainer = Explainer(precision="fp32", provider="cpu")
    asked = listed_pairs(here / "pairs.csv")
    folder = BatchFolder(here)
    for name in ("explanations", "failed"):
        (here / name).mkdir()
    work = PartExplainer(explainer, command.BatchOptions(here, "fixed", Rise(masks=32), False), folder)
    parts = [Part(i, ((pair,),)) for i, pair in enumerate(asked)]
    found = command.explained(parts, work, None, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 5) for done in range(6)]
    assert (found.explained, found.failed) == (3, 2)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["gone.csv", "--out", "new"], "cannot read the pairs gone.csv"),
        (["pairs.txt", "--out", "new"], "must be a table of pairs"),
        (["empty.csv", "--out", "new"], "has no pairs"),
        (["half.csv", "--out", "new"], "half.csv, pair 2: a query and a reference are needed"),
        (["broken.parquet", "--out", "new"], "is not a Parquet file"),
        (["other.parquet", "--out", "new"], "needs the columns query and reference; it has id"),
        (["pairs.csv", "--out", "."], "is no batch and holds"),
        (["pairs.csv", "--out", "old"], "is a batch with other settings (pairs_sha256 differ)"),
        (["pairs.csv", "--out", "damaged"], "batch.json is damaged"),
        (["pairs.csv", "--out", "new", "--images", "gone"], "there is no folder"),
        (["pairs.csv", "--out", "new", "--workers", "2"], "name one by --ray ADDRESS"),
        (["conditions.csv", "--out", "new"], "condition"),
    ],
)
def test_faults_are_one_line(arguments: list[str], wanted: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pa = pytest.importorskip("pyarrow")
    (here / "empty.csv").write_text("query,reference\n")
    (here / "half.csv").write_text(f"query,reference\n{CAT},{CAT}\n{CAT},\n")
    (here / "conditions.csv").write_text(f"query,reference,condition\n{CAT},{CAT},shoe\n")
    (here / "broken.parquet").write_text("text")
    pq.write_table(pa.table({"id": ["a"]}), here / "other.parquet")
    for name in ("old", "damaged"):
        (here / name).mkdir()
        assert run("pairs.csv", "--out", name) == 0
    settings = json.loads((here / "old/batch.json").read_text())
    (here / "old/batch.json").write_text(json.dumps({**settings, "pairs_sha256": "0"}))
    (here / "damaged/batch.json").write_text("{")
    capsys.readouterr()
    assert run(*arguments) == 2
    assert wanted in error_line(capsys)
    assert not Path("new/explanations").exists()


def test_pairs_of_a_query_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "PART_QUERIES", 2)
    monkeypatch.setattr(pairs, "PART_PAIRS", 3)
    asked = [ListedPair(i, query, "r", None) for i, query in enumerate("abcabaaad")]
    cut = [["".join(pair.query for pair in group) for group in part.queries] for part in parts_of(asked)]
    assert cut == [["aaa"], ["aa"], ["bb", "c"], ["d"]]
    assert sorted(pair.row for part in parts_of(asked) for group in part.queries for pair in group) == list(range(9))


def test_a_full_disk_is_said(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(path: Path, content: bytes, **_: bool) -> None:
        raise OutputError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("engine.batch.folder.write_whole", full)
    assert run("pairs.csv", "--out", "out") == 2
    assert "No space left" in error_line(capsys)
