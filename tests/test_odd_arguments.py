"""Arguments that are nearly right: numpy's numbers, generators, one reference without a list, tables with odd rows."""

import re
from pathlib import Path

import numpy as np
import pytest
from helpers import BANDAGE, CAT, error_line, exit_status, write_demo_labels, write_demo_pairs

from engine import Explainer, ImageError, Lime, OptionError, Rise, Window
from engine.evaluate import attributes, command
from engine.evaluate.labels import read_labels
from engine.evaluate.pairs import read_pairs
from engine.terminal import BAD_INPUT

FEW = Rise(masks=64)


def test_references_may_come_from_a_generator(demo: Explainer) -> None:
    expected = [e.similarity for e in demo.explain_many(CAT[0], [CAT[1], BANDAGE[0]], FEW)]
    prepared = demo.prepare(CAT[0], FEW)
    for found in (
        demo.explain_many(CAT[0], (path for path in (CAT[1], BANDAGE[0])), FEW),
        demo.explain_many(CAT[0], iter([CAT[1], BANDAGE[0]]), FEW),
        demo.explain_many(CAT[0], {CAT[1]: 0, BANDAGE[0]: 1}.keys(), FEW),
        prepared.explain_many(path for path in (CAT[1], BANDAGE[0])),
    ):
        assert [e.similarity for e in found] == expected
    assert demo.explain_many(CAT[0], iter([]), FEW) == []
    vectors = demo.embed([CAT[1], BANDAGE[0]])
    assert len(demo.explain_many(CAT[0], vectors, FEW)) == 2


@pytest.mark.parametrize(
    "alone", [CAT[1], str(CAT[1]), b"x", None, 7, {"a": 1}, np.zeros((9, 9, 3), np.uint8), np.zeros(64, np.float32)]
)
def test_a_reference_without_a_list_is_one_clear_line(demo: Explainer, alone: object) -> None:
    for explain in (lambda: demo.explain_many(CAT[0], alone, FEW), lambda: demo.prepare(CAT[0], FEW).explain_many(alone)):
        with pytest.raises(ImageError, match=r"references must be a list, as in \[reference\], got "):
            explain()


def test_a_condition_may_be_a_number_of_numpys(explainer: Explainer) -> None:
    expected = [explainer.explain(*CAT, FEW, condition=c).saliency for c in range(3)]
    for kind in (np.int64, np.uint8, np.int16):
        found = explainer.explain(*CAT, FEW, condition=kind(2))
        assert (found.saliency == expected[2]).all()
        assert found.condition == "bag"
    found = explainer.explain_many(CAT[0], [CAT[1]] * 3, FEW, condition=np.arange(3))
    for one, own in zip(found, expected, strict=True):
        assert np.allclose(one.saliency, own)
    for odd in (1.5, object(), (c for c in (1,))):
        with pytest.raises(OptionError, match="a condition must be an index, a name, or a list with one per reference"):
            explainer.explain(*CAT, FEW, condition=odd)
    with pytest.raises(OptionError, match="no condition 3: give an index below 3"):
        explainer.explain(*CAT, FEW, condition=np.int64(3))


@pytest.mark.parametrize(
    "made",
    [
        lambda: Rise(masks=np.int64(64)),
        lambda: Rise(seed=np.uint8(1)),
        lambda: Lime(samples=np.int32(50)),
        lambda: Window(size=np.int64(9), stride=np.int64(9)),
        lambda: Explainer(threads=np.int64(1)),
    ],
)
def test_other_numbers_of_numpys_say_what_to_do(made: object) -> None:
    with pytest.raises(OptionError, match=r"got np\.u?int\d+\(\d+\): give int\(\w+\)$"):
        made()  # type: ignore[operator]


LONG = "a" * 300 + ".png"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (f"{LONG},cat-noto.png\n", "File name too long|there is no picture"),
        ("cat-noto.png,cat-twemoji.png,,1\n", "line 2: too many columns: put what has commas in it into quotes"),
        ("cat-noto.png,cat-twemoji.png\ncat-noto.png,cat-twemoji.png,x\n", "line 3: too many columns"),
        ('"cat\nnoto.png",cat-twemoji.png\n', r"there is no picture .*cat\\nnoto\.png$"),
        ('"cat\n\nnoto.png",\n', "line 2: a query and a reference are needed"),
        ('cat-noto.png,"cat\nx.png"\ncat-noto.png,\n', "line 4: a query and a reference are needed"),
        ('"cat\0noto.png",cat-twemoji.png\n', r"there is no picture .*cat\\u0000noto\.png$"),
    ],
)
def test_odd_rows_of_pairs_are_one_line(tmp_path: Path, rows: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = write_demo_pairs(tmp_path)
    pairs.write_text("query,reference\n" + rows)
    out = ["--out", str(tmp_path / "r.json"), "--methods", "random", "--quiet"]
    assert exit_status(command.main, [str(pairs), *out]) == BAD_INPUT
    printed = error_line(capsys)
    assert re.search(message, printed), printed


def test_a_name_with_a_newline_is_found(tmp_path: Path) -> None:
    pairs = write_demo_pairs(tmp_path)
    (tmp_path / "cat-noto.png").rename(tmp_path / "cat\nnoto.png")
    pairs.write_text('query,reference\n"cat\nnoto.png",cat-twemoji.png\n')
    assert read_pairs(pairs, None).pairs[0].query == tmp_path / "cat\nnoto.png"
    labels = write_demo_labels_with_newline(tmp_path)
    assert tmp_path / "cat\nnoto.png" in read_labels(labels, tmp_path, ["animal"]).files


def write_demo_labels_with_newline(folder: Path) -> Path:
    """Write labels of four pictures, one of whose names has two lines."""
    rows = ['"cat\nnoto.png",animal', "cat-twemoji.png,animal", "couple-noto.png,love", "couple-twemoji.png,love"]
    (folder / "labels.csv").write_text("\n".join(["image,attributes", *rows]) + "\n")
    return folder / "labels.csv"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"{LONG},,animal", "line 10: there is no picture"),
        ('"cat\nnoto.png",,animal', r"line 10: there is no picture .*cat\\nnoto\.png"),
        ('"cat\n\n\nnoto.png",,"a",b', "line 10: too many columns"),
    ],
)
def test_odd_rows_of_labels_are_one_line(tmp_path: Path, row: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    labels = write_demo_labels(tmp_path)
    with labels.open("a") as file:
        file.write(row + "\n")
    arguments = [str(labels), "--images", str(tmp_path), "--out", str(tmp_path / "r.json"), "--quiet"]
    assert exit_status(attributes.main, arguments) == BAD_INPUT
    printed = error_line(capsys)
    assert re.search(message, printed), printed
