"""Insertion and deletion: golden values and a naive twin; and the files of pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import CAT, count_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine import Explainer, OptionError, Rise
from engine.evaluate import insertion_deletion
from engine.evaluate.curves import area, ranks
from engine.evaluate.pairs import read_pairs


@pytest.mark.parametrize(("name", "background"), [("white", (255, 255, 255)), ("gray", (127, 127, 127))])
def test_golden_curves(
    explainer: Explainer, golden: dict[str, np.ndarray], name: str, background: tuple[int, int, int]
) -> None:
    found = insertion_deletion(explainer, golden["query"], golden["reference"], golden["rise_fixed"], background)
    np.testing.assert_allclose(found.insertion_scores, golden[f"insert_{name}_scores"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(found.deletion_scores, golden[f"delete_{name}_scores"], atol=1e-4, rtol=0)
    assert found.insertion_auc == pytest.approx(float(golden[f"insert_{name}_auc"]), abs=1e-4)
    assert found.deletion_auc == pytest.approx(float(golden[f"delete_{name}_auc"]), abs=1e-4)


def test_it_is_what_showing_pixels_one_by_one_gives(demo: Explainer) -> None:
    pixels = demo.model.picture(CAT[0]).pixels
    saliency = np.random.default_rng(0).integers(0, 50, pixels.shape[:2])  # many are equal
    found = insertion_deletion(demo, CAT[0], CAT[1], saliency, (10, 200, 30), steps=5)
    order = sorted(range(saliency.size), key=lambda i: (-saliency.ravel()[i], i))
    pictures = []
    for inserted in (True, False):
        for share in np.linspace(0, 1, 5):
            top = order[: max(round(share * saliency.size), 1)]
            flat = (np.full_like(pixels, (10, 200, 30)) if inserted else pixels.copy()).reshape(-1, 3)
            flat[top] = pixels.reshape(-1, 3)[top] if inserted else (10, 200, 30)
            pictures.append(flat.reshape(pixels.shape))
    vectors = demo.embed([*pictures, CAT[1]]).astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = unit[:-1] @ unit[-1]
    np.testing.assert_allclose(found.insertion_scores, expected[:5], atol=1e-5)
    np.testing.assert_allclose(found.deletion_scores, expected[5:], atol=1e-5)
    assert found.insertion_scores[-1] == pytest.approx(demo.explain(*CAT, Rise(masks=2)).similarity, abs=1e-5)


@given(arrays(np.float32, (5, 7), elements=st.integers(-3, 3).map(float)))
@settings(max_examples=20)
def test_ranks_put_the_largest_first_and_equal_ones_in_order(saliency: np.ndarray) -> None:
    order = sorted(range(35), key=lambda i: (-saliency.ravel()[i], i))
    expected = np.empty(35, int)
    expected[order] = range(35)
    np.testing.assert_array_equal(ranks(saliency).ravel(), expected)


def test_an_area_is_of_the_scaled_curve() -> None:
    assert area(np.array([3.0, 3.0, 3.0])) == 0
    assert area(np.array([2.0, 4.0])) == pytest.approx(0.5)
    assert area(np.array([-1.0, 1.0, 1.0])) == pytest.approx(0.75)
    assert area(np.array([0.0, 1.0, 0.0])) == area(np.array([5.0, 7.0, 5.0])) == pytest.approx(0.5)


def test_passes_go_through_the_hot_loop(demo: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = count_rows(monkeypatch)
    saliency = np.arange(64 * 64).reshape(64, 64)
    insertion_deletion(demo, CAT[0], demo.embed([CAT[1]])[0], saliency, steps=40)
    batch = demo.model.run_settings.batch
    assert rows == [1, *([batch] * -(-80 // batch))]


def test_conditions_count(explainer: Explainer, golden: dict[str, np.ndarray]) -> None:
    saliency = golden["rise_fixed"]
    for condition in (None, 1, "bag"):
        found = insertion_deletion(explainer, golden["query"], golden["reference"], saliency, steps=2, condition=condition)
        whole = explainer.explain(golden["query"], golden["reference"], Rise(masks=2), condition=condition).similarity
        assert found.insertion_scores[1] == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        {"saliency": np.zeros((63, 64))},
        {"saliency": np.full((64, 64), np.nan)},
        {"saliency": np.zeros((64, 64), complex)},
        {"background": (1, 2)},
        {"background": (1, 2, 256)},
        {"background": "white"},
        {"steps": 1},
        {"steps": 2.5},
    ],
)
def test_bad_input_is_refused(demo: Explainer, changed: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        insertion_deletion(demo, *CAT, **{"saliency": np.zeros((64, 64)), **changed})


def test_pairs_of_a_csv(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("\ufeffreference,query,condition,label\nb.png,a.png,shoe,1\nc.png,a.png,,0\nd.png,a.png,,\n")
    read = read_pairs(file, None)
    assert read.non_matching == 1
    assert [(p.query.name, p.reference.name, p.condition) for p in read.pairs] == [
        ("a.png", "b.png", "shoe"),
        ("a.png", "d.png", None),
    ]
    assert read.pairs[0].query == tmp_path / "a.png"
    assert read_pairs(file, tmp_path / "deep").pairs[0].query == tmp_path / "deep" / "a.png"


def test_pairs_of_the_authors(tmp_path: Path) -> None:
    images = tmp_path / "JPEGImages"
    for name in ("antelope/antelope_1.jpg", "bat/bat_2.jpg", "bat/bat_3.png"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(b"")
    file = tmp_path / "awa_pairs.txt"
    file.write_text("bat_2 bat_3 1\nantelope_1 bat_2 0\n\n")
    read = read_pairs(file, images)
    assert (len(read.pairs), read.non_matching) == (1, 1)
    assert (read.pairs[0].query, read.pairs[0].reference) == (images / "bat/bat_2.jpg", images / "bat/bat_3.png")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "", "column names"),
        ("a.csv", "query\nx\n", "column names"),
        ("a.csv", "query,reference,colour\nx,y,z\n", "column names"),
        ("a.csv", "query,reference\nx,\n", "line 2"),
        ("a.csv", "query,reference,label\nx,y,0\n", "no pairs that match"),
        ("a.csv", "query,reference\n" + "x" * 200_000 + ",y\n", "not a CSV file: line 2"),
        ("a.csv", "x" * 200_000, "not a CSV"),
        ("a.txt", "x y\n", "line 1"),
        ("a.txt", "x w 1\n", "keep only one"),
        ("a.txt", "x note 1\n", "no picture note"),
        ("a.txt", "x z 1\n", "no picture z"),
        ("a.txt", "", "no pairs that match"),
    ],
)
def test_bad_pair_files_are_refused(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").write_bytes(b"")
    for other in ("y.png", "w.png", "w.jpg", "note.txt"):
        (tmp_path / "images" / other).write_bytes(b"")
    (tmp_path / name).write_text(text)
    with pytest.raises(OptionError, match=said):
        read_pairs(tmp_path / name, tmp_path / "images")


def test_missing_pair_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot read"):
        read_pairs(tmp_path / "none.csv", None)
    (tmp_path / "a.txt").write_text("x y 1\n")
    with pytest.raises(OptionError, match="--images"):
        read_pairs(tmp_path / "a.txt", None)
    with pytest.raises(OptionError, match="no folder"):
        read_pairs(tmp_path / "a.txt", tmp_path / "nowhere")
