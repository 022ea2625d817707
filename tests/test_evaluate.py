"""Insertion and deletion: golden values, a naive twin, pair files, and reports that do not depend on interruptions."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine import Explainer, OptionError, OutputError, Rise
from engine.evaluate import command, insertion_deletion
from engine.evaluate.command import main
from engine.evaluate.curves import area, ranks
from engine.evaluate.pairs import read_pairs
from engine.evaluate.report import Result, summary
from engine.evaluate.rows import Rows
from engine.runtime.session import Session

PICTURES = Path(__file__).parent.parent / "engine" / "data" / "pictures"
CAT = PICTURES / "cat-noto.png", PICTURES / "cat-twemoji.png"


@pytest.fixture(scope="module")
def explainer(tiny_bundle: Path) -> Explainer:
    return Explainer(tiny_bundle, precision="fp32")


@pytest.fixture(scope="module")
def demo() -> Explainer:
    return Explainer(precision="fp32")


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
@settings(max_examples=20, deadline=None)
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
    rows: list[int] = []
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda self, x: rows.append(len(x)) or run(self, x))
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
    assert read.left_out == 1
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
    assert (len(read.pairs), read.left_out) == (1, 1)
    assert (read.pairs[0].query, read.pairs[0].reference) == (images / "bat/bat_2.jpg", images / "bat/bat_3.png")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "", "column names"),
        ("a.csv", "query\nx\n", "column names"),
        ("a.csv", "query,reference,colour\nx,y,z\n", "column names"),
        ("a.csv", "query,reference\nx,\n", "line 2"),
        ("a.csv", "query,reference,label\nx,y,0\n", "no pairs that match"),
        ("a.csv", "query,reference\n" + "x" * 200_000 + ",y\n", "is not CSV"),
        ("a.csv", "x" * 200_000, "not a CSV"),
        ("a.txt", "x y\n", "line 1"),
        ("a.txt", "x w 1\n", "which one"),
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


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Three pairs of the demo pictures."""
    names = ("cat", "couple", "gesture")
    for path in PICTURES.glob("*.png"):
        shutil.copy(path, tmp_path / path.name)
    lines = [f"{name}-noto.png,{name}-twemoji.png" for name in names]
    (tmp_path / "pairs.csv").write_text("\n".join(["query,reference", *lines]) + "\n")
    return tmp_path / "pairs.csv"


ARGUMENTS = ["--methods", "rise,window,mask,random", "--modes", "fixed,both", "--masks", "20", "--quiet"]


def evaluated(pairs: Path, out: Path) -> dict[str, bytes]:
    assert main([str(pairs), "--out", str(out), *ARGUMENTS]) == 0
    return {suffix: out.with_suffix(suffix).read_bytes() for suffix in (".json", ".html", ".png")}


def test_a_report_killed_half_way_is_that_of_an_uninterrupted_run(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = evaluated(pairs, tmp_path / "whole.json")
    told = capsys.readouterr().out
    assert "rise     both" in told
    assert f"wrote {tmp_path / 'whole.html'}" in told
    real, calls = command.insertion_deletion, [0]

    def killed(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 9:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(command, "insertion_deletion", killed)
    out = tmp_path / "again.json"
    assert main([str(pairs), "--out", str(out), *ARGUMENTS]) == 130
    assert "goes on where it was" in capsys.readouterr().err
    assert not out.exists()
    rows = tmp_path / "again.rows.jsonl"
    assert len(rows.read_text().splitlines()) == 9  # the settings and eight rows
    with open(rows, "a") as file:
        file.write('{"pair": 1, "method": "wi')  # cut off while it was written
    calls[0] = 100
    assert evaluated(pairs, out) == whole
    assert calls[0] == 100 + 3 * 7 - 8
    found = json.loads(whole[".json"])
    assert [(r["method"], r["mode"]) for r in found["results"]] == [
        *(("rise", "fixed"), ("rise", "both"), ("window", "fixed"), ("window", "both")),
        *(("mask", "fixed"), ("mask", "both"), ("random", "fixed")),
    ]
    assert found["settings"]["pairs"] == 3
    first = found["results"][0]
    assert (first["passes"], len(first["insertion_curve"])) == (22, 101)
    assert first["insertion"]["low"] <= first["insertion"]["mean"] <= first["insertion"]["high"]
    assert "insertion_over_random" not in found["results"][-1]
    assert whole[".png"].startswith(b"\x89PNG")
    assert whole[".html"].count(b"<tr>") == 8


def test_rows_of_other_settings_are_not_mixed(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "report.json")
    arguments = [str(pairs), "--out", out, "--methods", "random", "--limit", "1", "--quiet"]
    assert main(arguments) == 0
    assert main(arguments) == 0
    assert main([*arguments, "--seed", "1"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert main([*arguments, "--methods", "random,window", "--limit", "2"]) == 0  # more of the same goes on
    rows = tmp_path / "report.rows.jsonl"
    assert len(rows.read_text().splitlines()) == 5
    shutil.copy(PICTURES / "bandage-noto.png", tmp_path / "cat-noto.png")
    assert main(arguments) == 0  # another picture of the same name: its rows are made anew
    assert len(rows.read_text().splitlines()) == 6
    first = rows.read_text().splitlines()[0]
    for damage in ("not json", "[]", '{"pair": 0, "method": "random", "mode": "fixed"}', '{"pair": [0]}'):
        rows.write_text(f"{first}\n{damage}\n")
        assert main(arguments) == 2
        assert "line 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "report.txt"], "must end in .json"),
        (["--out", "nowhere/report.json"], "no folder"),
        (["--out", "report.json", "--limit", "0"], "leaves no pairs"),
        (["--out", "report.json", "--methods", "random", "--modes", "both"], "leaves nothing"),
        (["--out", "report.json", "--masks", "0"], "masks"),
        (["--out", "report.json", "--bundle", "nowhere"], "no bundle"),
        (["--out", "", "--methods", "random"], "must end in .json"),
        (["--out", "/", "--methods", "random"], "must end in .json"),
        (["--out", "report.json", "--methods", "random", "--seed", "-1"], "seed"),
        (["--out", "report.json", "--methods", "window,random", "--seed", str(2**128)], "seed"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str], said: str, pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(pairs.parent)
    assert main([str(pairs), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_bundle_without_a_gradient_is_told_before_the_passes(
    pairs: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.json"
    arguments = [str(pairs), "--out", str(out), "--bundle", str(tiny_bundle), "--limit", "1", "--masks", "4", "--quiet"]
    assert main(arguments) == 2
    assert "--methods rise,window,lime,random" in capsys.readouterr().err
    assert not out.with_suffix(".rows.jsonl").exists()
    assert main([*arguments, "--methods", "rise,random"]) == 0


def test_unknown_names_are_refused(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(pairs), "--out", "x.json", "--methods", "rise,guess"])
    assert stopped.value.code == 2
    assert "'guess' is not one of" in capsys.readouterr().err


def test_intervals_hold_the_mean_and_narrow_with_pairs() -> None:
    def row(method: str, number: int, value: float) -> dict[str, Any]:
        return {
            "pair": number,
            "method": method,
            "mode": "fixed",
            "passes": 5,
            "insertion_auc": value,
            "insertion_scores": [0, 1],
        }

    random = np.random.default_rng(0)
    widths = []
    for count in (10, 90):
        values = random.normal(0.5, 0.1, count)
        rows = [row("rise", i, v) for i, v in enumerate(values)], [row("random", i, v - 0.2) for i, v in enumerate(values)]
        found = summary({"pairs": count}, [Result.of(r, ["insertion"]) for r in rows])["results"]
        interval = found[0]["insertion"]
        assert interval["low"] < values.mean() < interval["high"]
        widths.append(interval["high"] - interval["low"])
        over = found[0]["insertion_over_random"]  # pairs are kept together: the difference does not vary
        assert (over["low"], over["high"]) == (pytest.approx(0.2), pytest.approx(0.2))
    assert widths[1] < widths[0] / 2
    assert widths[1] == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(90), rel=0.3)


def test_a_row_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot use"):
        Rows(tmp_path, {})
