"""Why this reference rather than that one: the difference of two maps, from the same passes."""

from pathlib import Path

import numpy as np
import pytest
from helpers import CAT, COUPLE, DATA, GESTURE, IMAGENET, views_of

from engine import Explainer, Lime, OptionError, Rise, Window
from engine.bundle.manifest import Conditions
from export import OnnxSource, export_similarity

METHODS = [Rise(masks=64), Rise(masks=64, estimator="sane"), Window(size=16, stride=16), Lime(samples=40)]


@pytest.fixture(scope="module")
def metric_bundles(tmp_path_factory: pytest.TempPathFactory, golden: dict[str, np.ndarray]) -> dict[str, Path]:
    """The golden network with its conditions, by metric."""
    folder, conditions = tmp_path_factory.mktemp("metrics"), Conditions(("top", "shoe", "bag"), golden["condition_weights"])
    source = OnnxSource(DATA / "tiny_general.onnx")
    return {
        metric: export_similarity(source, IMAGENET, folder / metric, metric=metric, conditions=conditions)
        for metric in ("cosine", "dot", "euclidean")
    }


@pytest.mark.parametrize(
    "method", [Rise(masks=64), Rise(masks=64, estimator="sane"), Window(size=16, stride=16), Lime(samples=40)]
)
def test_the_map_is_the_difference_of_two_maps(method: Rise | Window | Lime, demo: Explainer) -> None:
    prepared = demo.prepare(COUPLE[0], method)
    one, other = prepared.explain_many([COUPLE[1], CAT[1]], ranking="sane")
    told = prepared.explain(COUPLE[1], rather_than=CAT[1])
    assert told.saliency == pytest.approx(
        one.saliency - other.saliency, abs=1e-6 * max(float(np.abs(one.saliency).max()), 1)
    )
    assert (told.similarity, told.rather_than_similarity) == pytest.approx((one.similarity, other.similarity))
    np.testing.assert_array_equal(told.rather_than_image, other.reference_image)
    assert told.passes == one.passes + 1
    if method == Rise(masks=64):
        assert told.saliency_error is not None
        assert told.saliency_reliability is not None


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("condition", [None, 1])
def test_every_metric_and_condition(
    metric: str, condition: int | None, metric_bundles: dict[str, Path], golden: dict[str, np.ndarray]
) -> None:
    explainer = Explainer(metric_bundles[metric])
    pictures = golden["reference"], golden["query"][::-1].copy()
    prepared = explainer.prepare(golden["query"], Rise(masks=64))
    one, other = prepared.explain_many(pictures, condition)
    vectors = explainer.embed(pictures)
    for references in (pictures, vectors):
        told = prepared.explain(references[0], condition, rather_than=references[1])
        scale = float(np.abs(one.saliency).max() + np.abs(other.saliency).max())
        assert told.saliency == pytest.approx(one.saliency - other.saliency, abs=1e-6 * scale)
        assert told.similarity - told.rather_than_similarity == pytest.approx(one.similarity - other.similarity)


def test_the_stopping_rule_looks_at_the_difference(demo: Explainer) -> None:
    told = demo.explain(COUPLE[0], COUPLE[1], tolerance=0.95, rather_than=CAT[1])
    assert told.saliency_reliability >= 0.95 or told.passes > 1000
    cached = Explainer(cache_bytes=2**26)
    assert cached.explain(COUPLE[0], COUPLE[1], Rise(masks=64), rather_than=CAT[1]).rather_than_similarity is not None


def test_it_is_refused_where_it_has_no_answer(demo: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = demo.prepare(COUPLE[0], Rise(masks=16))
    with pytest.raises(OptionError, match="no prepared references"):
        prepared.explain(demo.prepare(COUPLE[1], Rise(masks=16)), rather_than=CAT[0])
    with pytest.raises(OptionError, match='leave out rather_than, or use ranking "joint"'):
        prepared.explain(COUPLE[1], rather_than=CAT[0], ranking="sane")
    monkeypatch.setattr("engine.passed.MaskedPasses", None)  # nothing is run in vain
    for asked, message in (
        ({"rather_than": COUPLE[1]}, "same as the reference to this model"),
        ({"rather_than": demo.embed([COUPLE[1]])[0]}, "same as the reference to this model"),
        ({"rather_than": CAT[0], "mode": "both"}, "use mode fixed"),
        ({"rather_than": CAT[0], "method": "mask"}, "method mask learns a map for each reference"),
    ):
        with pytest.raises(OptionError, match=message):
            demo.explain(*COUPLE, **asked)


def test_an_answer_is_drawn_and_kept(demo: Explainer, tmp_path: Path) -> None:
    told = demo.explain(*COUPLE, Rise(masks=64), rather_than=GESTURE[0])
    told.save(tmp_path / "e.npz")
    loaded = type(told).load(tmp_path / "e.npz")
    assert loaded.to_dict() == told.to_dict()
    assert loaded.rather_than_box == told.rather_than_box
    np.testing.assert_array_equal(loaded.rather_than_image, told.rather_than_image)
    plain = demo.explain(*COUPLE, Rise(masks=64))
    for name in ("with.png", "with.html"):
        told.save(tmp_path / name)
        plain.save(tmp_path / f"plain-{name}")
    (view,) = views_of((tmp_path / "with.html").read_text())
    assert [side["name"] for side in view["sides"]] == ["query", "reference", "rather than"]
    assert view["sides"][0]["map"]["of"] == "what speaks for the reference"
    assert " rather than " in view["title"]
    told.save(tmp_path / "originals.png", (COUPLE[0], COUPLE[1]))
