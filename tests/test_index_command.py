"""python -m engine.index: what each command prints, and its faults in one line."""

import json
import shutil
from pathlib import Path

import pytest
from helpers import error_line, exit_status, views_of, write_blurred
from index_pictures import write_catalogue

from engine.index.command import main

pytest.importorskip("lance", reason="needs pylance, of the extra `index`")

CATS = ("noto/cat.png", "twemoji/cat.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and an index of them, made by the command."""
    made = tmp_path_factory.mktemp("command")
    write_catalogue(made / "pictures")
    assert exit_status(main, ["build", str(made / "index"), "--images", str(made / "pictures"), "--masks", "64"]) == 0
    return made


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, in the current folder."""
    shutil.copytree(folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert exit_status(main, list(arguments)) == 0
    return capsys.readouterr().out


def test_a_catalogue_from_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_blurred(here / "pictures", 1, 64)
    (here / "pictures" / "broken.png").write_text("text")
    lines = said(capsys, "add", "index", "--images", "pictures", "--quiet").splitlines()
    assert lines[0] == "1 added, 8 unchanged, 1 failed; 9 in all"
    assert "broken.png is not a readable picture" in lines[1]
    assert lines[2].startswith("fidelity: median 0.9")
    found = said(capsys, "search", "index", "pictures/noto/cat.png", "-k", "2").splitlines()
    assert [line.split()[1] for line in found] == list(CATS)
    assert "mostly yellow" in found[1]
    lines = said(capsys, "explain", "index", *CATS, "noto/couple.png", "--out", "why.html").splitlines()
    assert lines[0].startswith("twemoji/cat.png: similarity 0.9")
    assert lines[2] == "wrote why.html"
    page = Path("why.html").read_text()
    assert len(views_of(page)) == 2
    assert "from an index" in page
    assert said(capsys, "remove", "index", "00.png", "broken.png") == "2 removed; 8 in all\n"
    assert said(capsys, "compact", "index") == "8 rows in few files\n"
    assert said(capsys, "verify", "index").endswith("files and 8 rows are as they were written\n")


def test_a_build_goes_on_where_it_was(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = said(capsys, "build", "index", "--images", "pictures", "--masks", "64", "--quiet")
    assert printed.startswith("0 added, 8 unchanged, 0 failed; 8 in all")
    assert exit_status(main, ["build", "index", "--images", "pictures", "--quiet"]) == 2
    assert "is an index with other options" in error_line(capsys)


def test_stat_is_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = json.loads(said(capsys, "stat", "index"))
    assert (about["rows"], about["failed"], about["settings"]["bundle"]) == (8, {}, "")
    assert 8 < about["fidelity"]["maps"] <= 8 * 5
    assert about["bytes"] == sum(f.stat().st_size for f in Path("index").rglob("*") if f.is_file())


def test_damage_is_named_and_is_a_failure(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data,) = (here / "index" / "rows.lance" / "data").iterdir()
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    assert exit_status(main, ["verify", "index"]) == 2
    assert f"index is damaged: rows.lance/data/{data.name} was changed" in error_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["explain", "index", "nothing.png", CATS[0]], "has no row 'nothing.png', and no such file is there"),
        (["explain", "index", CATS[0], "nothing.png"], "has no row 'nothing.png', and no such file is there"),
        (["explain", "index", *CATS, "--out", "why.png"], "its name must end in .html"),
        (["search", "index", CATS[0], "-k", "0"], "k must be a whole number from 1"),
        (["search", "pictures", CATS[0]], "there is no index at pictures"),
        (["search", "index", CATS[0], "--bundle", "gone"], "is not at gone: say where with --bundle"),
        (["add", "index", "--images", "gone"], "there is no folder gone"),
        (["remove", "index", "gone"], "has no row 'gone'"),
        (["verify", "gone"], "there is no index at gone"),
        (["build", "new", "--images", "pictures", "--masks", "8"], "an index needs 32 masks or more"),
        ([], "arguments are required: COMMAND"),
    ],
)
def test_faults_are_one_line(arguments: list[str], wanted: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(main, arguments) == 2
    assert wanted in error_line(capsys)
