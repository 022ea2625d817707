"""Outputs: never over what a command reads, and under every name that a file may have."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import CAT, copy_bundle, error_line, exit_status, write_demo_labels, write_demo_pairs

from engine import Explainer, Rise, explain
from engine.bundle import demo_bundle, load_bundle
from engine.evaluate import attributes, command
from engine.terminal import BAD_INPUT

LONGEST = 255
"""Bytes of a name on the file systems that people use."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures and embeddings; no command there may get to work."""
    for name, path in (("query.png", CAT[0]), ("match.png", CAT[1]), ("match-1.png", CAT[1])):
        shutil.copy(path, tmp_path / name)
    np.savez(tmp_path / "vectors.npz", a=np.ones((1, 64), np.float32))
    (tmp_path / "link.png").symlink_to("query.png")
    copy_bundle(demo_bundle(), tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Explainer, "__init__", lambda *_, **__: pytest.fail("work was done"))
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "arguments",
    [
        "query.png match.png --out query.png",
        "query.png match.png --out match.png",
        "query.png match.png --out ./bundle/../match.png",
        "query.png match.png --out link.png",
        "query.png match-1.png match.png --out match.png",  # numbered
        "link.png match.png --out query.png",
        "query.png --reference-embedding vectors.npz:a --out vectors.npz",
        "query.png match.png --rather-than vectors.npz:a --out vectors.npz",
        "query.png match.png --rather-than match-1.png --out match-1.png",
        "query.png match.png --bundle bundle --out bundle/manifest.json",
        "query.png match.png --bundle bundle --out bundle/canonical.npz",
    ],
)
def test_explain_never_writes_over_what_it_reads(here: Path, arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(here)
    assert exit_status(explain.main, arguments.split()) == BAD_INPUT
    assert "this command reads it; choose another name" in error_line(capsys)
    assert contents(here) == before


def test_the_default_output_may_be_an_input_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("query.png").rename("explanation.png")
    assert exit_status(explain.main, ["explanation.png", "match.png"]) == BAD_INPUT
    assert "this command reads it" in error_line(capsys)


@pytest.mark.parametrize("taken", ["report.json", "report.png", "report.html", "report.rows.jsonl"])
def test_an_evaluation_never_writes_over_what_it_reads(
    tmp_path: Path, taken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write_demo_pairs(tmp_path)
    shutil.copy(CAT[0], tmp_path / taken)  # a picture, whatever its name is
    pairs.write_text(f"query,reference\n{taken},cat-twemoji.png\n")
    before = contents(tmp_path)
    assert exit_status(command.main, [str(pairs), "--out", str(tmp_path / "report.json"), "--quiet"]) == BAD_INPUT
    assert f"{taken}: this command reads it" in error_line(capsys)
    assert contents(tmp_path) == before


def test_an_evaluation_never_writes_over_its_table_or_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs, labels = write_demo_pairs(tmp_path), write_demo_labels(tmp_path)
    pairs, labels = pairs.rename(tmp_path / "pairs.json"), labels.rename(tmp_path / "labels.json")
    bundle = copy_bundle(demo_bundle(), tmp_path / "bundle")
    shutil.copy(CAT[0], tmp_path / "picture.json")
    (tmp_path / "more.csv").write_text(
        "image,attributes\n" + "".join(f"{n}.png,animal\n" for n in ("cat-noto", "cat-twemoji"))
    )
    with (tmp_path / "more.csv").open("a") as file:
        file.write("couple-noto.png,love\npicture.json,animal\n")
    judge = [str(labels), "--images", str(tmp_path)]
    before = contents(tmp_path)
    for main, arguments, out in (
        (command.main, [str(pairs), "--images", str(tmp_path)], pairs),
        (command.main, [str(pairs), "--images", str(tmp_path), "--bundle", str(bundle)], bundle / "attributes.json"),
        (attributes.main, judge, labels),
        (attributes.main, [*judge, "--bundle", str(bundle)], bundle / "manifest.json"),
        (attributes.main, [str(tmp_path / "more.csv"), "--images", str(tmp_path)], tmp_path / "picture.json"),
    ):
        assert exit_status(main, [*arguments, "--quiet", "--out", str(out)]) == BAD_INPUT
        assert f"{out}: this command reads it" in error_line(capsys)
    assert contents(tmp_path) == before
    load_bundle(bundle)


@pytest.mark.parametrize("letter", ["a", "ö"])
def test_every_name_that_a_file_may_have_is_written(tmp_path: Path, demo: Explainer, letter: str) -> None:
    explanation = demo.explain(*CAT, Rise(masks=64))

    def name(suffix: str) -> Path:
        return tmp_path / (letter * ((LONGEST - len(suffix)) // len(letter.encode())) + suffix)

    writers: dict[str, Callable[[Path], None]] = dict.fromkeys((".png", ".html", ".json", ".npz"), explanation.save)
    writers[".prepared.npz"] = demo.prepare(CAT[0], Rise(masks=4)).save
    for suffix, write in writers.items():
        write(name(suffix))
        assert name(suffix).stat().st_size > 1000
    assert {os.fsencode(path.name) for path in tmp_path.iterdir()} == {os.fsencode(name(suffix).name) for suffix in writers}


def test_a_name_that_leaves_no_room_for_the_rows_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write_demo_pairs(tmp_path)
    out = tmp_path / ("a" * 250 + ".json")
    assert exit_status(command.main, [str(pairs), "--out", str(out), "--quiet"]) == BAD_INPUT
    assert "File name too long" in error_line(capsys)
