"""Examples that have no test of their own elsewhere: each runs, and says what is so."""

import importlib.util
import os
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers import BANDAGE, CAT, ROOT, error_line

from engine import Explainer, Explanation

EXAMPLES = ROOT / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_in_the_table_and_run_by_a_test() -> None:
    names = {file.stem for file in EXAMPLES.glob("*.py")}
    table = re.findall(r"^\| \[(\w+)\.py\]\(\1\.py\) \| .+ \|$", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(table) == sorted(names)
    tests = "\n".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))
    assert [name for name in names if f'"{name}"' not in tests and f'"{name}.py"' not in tests] == []


def test_two_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "why.html"
    assert example("two_pictures").main([*map(str, CAT), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("similarity 0.9")
    assert "in both: mostly yellow" in printed
    assert out.read_text().startswith("<!doctype html>")


def test_two_pictures_of_which_one_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert example("two_pictures").main([str(CAT[0]), str(tmp_path / "none.png")]) == 2
    assert "none.png" in error_line(capsys)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")
def test_timm_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, bundle = tmp_path / "why.npz", tmp_path / "bundle"
    words = ["test_resnet", *map(str, CAT), "--weights", "random", "--bundle", str(bundle), "--out", str(out)]
    assert example("timm_model").main(words) == 0
    first = capsys.readouterr().out
    assert example("timm_model").main(words) == 0  # now from the bundle that the first run made
    assert capsys.readouterr().out == first
    assert Explanation.load(out).model.name == "bundle"


@pytest.mark.parametrize("threshold, verdict", [(0.5, "the same"), (0.99, "not the same")])
def test_faces_on_either_side_of_the_threshold(
    threshold: float, verdict: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "faces.npz"
    assert example("face_verification").main([*map(str, CAT), "--threshold", str(threshold), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = Explanation.load(out)
    side = "above" if verdict == "the same" else "below"
    margin = abs(found.similarity - threshold)
    assert lines[0] == f"{verdict}: {found.similarity:.3f}, {margin:.3f} {side} the threshold"
    assert [line.split()[0] for line in lines[1:5]] == [CAT[0].name] * 2 + [CAT[1].name] * 2
    assert ("raises it most" in lines[1]) == (verdict == "the same")  # the decision's own reason comes first


def test_both_polarities_of_a_face_have_their_places() -> None:
    values = np.zeros((4, 4))
    values[1, 2], values[3, 0] = 0.25, -0.125
    assert example("face_verification").for_and_against(values) == (
        "raises it most: row 2, column 3 of 4 x 4, +0.250",
        "lowers it most: row 4, column 1 of 4 x 4, -0.125",
    )
    assert example("face_verification").for_and_against(values + 1)[1].startswith("helps least: row 4, column 1")


@pytest.fixture
def fiftyone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    monkeypatch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path / "database"))
    return pytest.importorskip("fiftyone", reason="needs fiftyone")


def write_folder(folder: Path) -> Path:
    folder.mkdir()
    for picture in (CAT[1], BANDAGE[0]):
        shutil.copy(picture, folder)
    return folder


def test_heat_maps_of_fiftyone(fiftyone: Any, tmp_path: Path) -> None:
    module = example("fiftyone_heatmaps")
    picture = write_folder(tmp_path / "pictures") / CAT[1].name
    found = Explainer(precision="fp32").explain(CAT[0], picture, mode="pair")
    sample = module.sample_of(picture, found)
    assert sample.filepath == os.path.realpath(picture)
    assert sample["similarity"] == pytest.approx(found.similarity)
    assert sample["why"].map.shape == found.on_original(picture, reference=True).shape[:2]
    low, high = sample["why"].range
    assert low == -high
    assert high == pytest.approx(np.nanmax(np.abs(found.on_original(reference=True))))
    assert sample["in_both"].classifications[0].label == found.attributes[0].name


def test_a_dataset_of_fiftyone(fiftyone: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        fiftyone.list_datasets()
    except Exception as error:  # it raises its own errors, and those of the database
        pytest.skip(f"FiftyOne's database does not start: {str(error).splitlines()[0]}")
    folder = write_folder(tmp_path / "pictures")
    assert example("fiftyone_heatmaps").main([str(CAT[0]), str(folder), "--dataset", "sane-test"]) == 0
    try:
        assert "wrote 2 samples" in capsys.readouterr().out
        assert len(fiftyone.load_dataset("sane-test").values("why.map")) == 2
    finally:
        fiftyone.delete_dataset("sane-test")
