"""`python -m engine.evaluate.attributes`: what it observes of the demo's pictures, its report, and bad usage."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import BANDAGE, CAT, COUPLE, GESTURE, error_line, write_demo_labels

from engine import Explainer
from engine.bundle import demo_bundle
from engine.evaluate.attributes import evaluate, main
from engine.evaluate.labels import Labelled
from engine.evaluate.network_outputs import map_matches, run_networks
from engine.methods.rise import Rise
from engine.protocol import silent


def test_scores_and_matches_are_those_of_explanations() -> None:
    explainer = Explainer()
    files = [*CAT, *BANDAGE, *COUPLE, *GESTURE]
    seen = run_networks(explainer, files, silent)
    pairs = np.array([[2, 3], [0, 1], [2, 0]])
    found = map_matches(explainer, files, seen.embeddings, pairs, Rise(masks=32), silent)
    table = explainer.model.bundle.attributes
    assert table is not None
    assert seen.confidences == pytest.approx(1 / (1 + np.exp(-(table.scale * seen.scores + table.bias))))
    for (query, reference), row in zip(pairs, found, strict=True):
        said = explainer.explain(files[query], files[reference], Rise(masks=32))
        for word in said.attributes:
            i = table.names.index(word.name)
            assert row[i] == pytest.approx(word.match, abs=1e-5)
            assert seen.confidences[query, i] == pytest.approx(word.confidence, abs=1e-5)


def test_both_directions_are_compared() -> None:
    """Faces with couples, so that the surest words of a pair differ, then two pairs of one drawing."""
    files = [*CAT, *BANDAGE, *COUPLE, *GESTURE]
    groups = np.array([0, 1, 2, 2, 0, 1, 3, 3])
    explainer = Explainer()
    found = evaluate(explainer, Labelled(tuple(files), groups, np.zeros((8, 63), bool), True, {}), 9, Rise(masks=8))
    surest = run_networks(explainer, files, silent).confidences.argmax(1)
    same = surest[[0, 1, 2, 6]] == surest[[4, 5, 3, 7]]
    assert 0 < same.mean() < 1
    assert found["direction_agreement"]["confidence"].mean == same.mean()


@pytest.mark.parametrize("grouped", [True, False])
def test_the_command_writes_a_report(grouped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, out = write_demo_labels(tmp_path, grouped), tmp_path / "report.json"
    arguments = [str(labels), "--images", str(tmp_path), "--out", str(out), "--masks", "32", "--quiet"]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "same attribute in both directions" in told
    assert ("no groups given" in told) == (not grouped)
    found = json.loads(out.read_text())
    assert found["pictures"]["pairing"] == ("groups" if grouped else "most similar")
    assert found["pictures"]["unknown_attributes"] == {"odd": 2}
    assert set(found["removal"]) == {
        *("joint", "confidence", "confidence + match", "confidence + prior", "all", "random", "random_true", "best")
    }
    drops = {name: row["mean"]["mean"] for name, row in found["removal"].items()}
    assert drops["best"] >= max(drops["all"], drops["random"], drops["random_true"])
    assert found["calibration"]["count"] and len(found["calibration"]["share"]) == 10
    assert found["recognition"]["by_attribute"].keys() >= {"animal", "love"}
    assert 0 <= found["direction_agreement"]["all"]["mean"] <= 1
    assert found["direction_agreement"]["joint"]["mean"] == 1  # the probability is symmetric
    assert found["top_true_over_confidence"]["confidence"]["mean"] == 0
    assert 0 <= found["joint"]["named_true_of_both"]["mean"] <= 1
    if grouped:
        assert found["pictures"]["ordered_pairs"] == 8
        assert main([*arguments, "--pairs-limit", "2"]) == 0
        assert json.loads(out.read_text())["pictures"]["ordered_pairs"] == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "report.txt"], "must end in .json"),
        (["--out", "nowhere/report.json"], "no folder"),
        (["--out", "r.json", "--pairs-limit", "0"], "pairs-limit"),
        (["--out", "r.json", "--masks", "0"], "masks"),
        (["--out", "r.json", "--seed", "-1"], "seed"),
        (["--out", "r.json", "--bundle", "nowhere"], "no bundle"),
        (["--out", "r.json", "--images", "nowhere"], "line 2: there is no picture"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write_demo_labels(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main([str(labels), "--images", ".", *arguments]) == 2
    assert said in error_line(capsys)


def test_what_is_no_picture_and_a_bundle_without_words_are_one_line(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write_demo_labels(tmp_path)
    arguments = [str(labels), "--images", str(tmp_path), "--out", str(tmp_path / "r.json")]
    assert main([*arguments, "--bundle", str(tiny_bundle)]) == 2
    assert "no attributes" in capsys.readouterr().err
    (tmp_path / "cat-noto.png").write_text("no picture")
    assert main([*arguments, "--bundle", str(demo_bundle())]) == 2
    error = capsys.readouterr().err
    assert "cat-noto.png" in error
    assert error.count("\n") == 1
