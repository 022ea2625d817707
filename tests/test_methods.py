"""Window, LIME, and both pictures masked: golden values, naive twins, and how many rows run."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import count_rows
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from engine import Explainer, Lime, LimePlan, OptionError, Rise, RisePlan, Window
from engine.explain import main
from engine.methods.lime import draw_samples


def test_golden_rise_both(explainer: Explainer, golden: dict[str, np.ndarray]) -> None:
    plans = [RisePlan(golden["rise_grids"][part], golden["rise_shifts"][part]) for part in (slice(5, None), slice(5))]
    query, reference = (explainer.prepare(golden[n], plan=p) for n, p in zip(("query", "reference"), plans, strict=True))
    explanation = query.explain(reference)
    np.testing.assert_allclose(explanation.saliency, golden["rise_both"], atol=1e-3, rtol=0)
    assert (explanation.passes, explanation.mode) == (207, "both")
    back = reference.explain(query)
    np.testing.assert_array_equal(back.saliency, explanation.reference_saliency)
    np.testing.assert_array_equal(back.reference_saliency, explanation.saliency)
    np.testing.assert_allclose(back.correspondence, explanation.correspondence.T, atol=1e-5)


def test_golden_slide_fixed_and_both(explainer: Explainer, golden: dict[str, np.ndarray]) -> None:
    prepared = explainer.prepare(golden["query"], Window())
    reference = explainer.prepare(golden["reference"], Window(size=32, stride=16, pad=0))
    assert (len(prepared.plan), len(reference.plan)) == (625, 36)
    query_features = prepared.model.query_features(prepared.embeddings, None)
    whole = prepared.model.reference_features(reference.whole[None], None)
    masked = prepared.model.reference_features(reference.embeddings, None).mean(0, keepdims=True)
    for target, name in ((whole, "slide_fixed"), (masked, "slide_both")):
        lattice = prepared.plan.lattice_maps(query_features @ target.T)[0]
        np.testing.assert_allclose(lattice, golden[name], atol=1e-5, rtol=0)
    fixed, both = prepared.explain(golden["reference"]), prepared.explain(reference)
    for explanation, name in ((fixed, "slide_fixed"), (both, "slide_both")):
        corners = explanation.saliency[[0, 0, -1, -1], [0, -1, 0, -1]]
        np.testing.assert_allclose(corners, golden[name][[0, 0, -1, -1], [0, -1, 0, -1]], atol=1e-5)
        # 111 / 24 pixels between samples: every eighth sample falls on every 37th pixel
        np.testing.assert_allclose(explanation.saliency[::37, ::37], golden[name][::8, ::8], atol=1e-5)
    assert (fixed.seed, both.passes) == (None, 625 + 36 + 2)
    assert both.correspondence is None


def test_golden_lime(explainer: Explainer, golden: dict[str, np.ndarray]) -> None:
    plan = LimePlan(golden["lime_segments"], golden["lime_samples"])
    np.testing.assert_allclose(
        plan.coefficients(golden["lime_scores"][:, None])[:, 0], golden["lime_coefficients"], atol=1e-6
    )
    prepared = explainer.prepare(golden["query"], "lime", plan=plan)
    explanation = prepared.explain(golden["reference"])
    painted = golden["lime_coefficients"][golden["lime_segments"]]
    np.testing.assert_allclose(explanation.saliency, painted, atol=1e-5)
    assert (explanation.baseline, explanation.method) == ("black", "lime")


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_lime_equals_scikit_learns_ridge(samples: int, segments: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    on = random.random((samples, segments)) < 0.5
    scores = random.normal(size=(samples, 2))
    norms = np.linalg.norm(on, axis=1) * np.sqrt(segments)
    cosine = np.divide(on.sum(1), norms, out=np.zeros(samples), where=norms > 0)
    weights = np.sqrt(np.exp(-((1 - cosine) ** 2) / 0.25**2))
    expected = Ridge(alpha=1).fit(on, scores, sample_weight=weights).coef_.T.reshape(segments, 2)
    plan = LimePlan(np.zeros((1, 1), int), on)
    np.testing.assert_allclose(plan.coefficients(scores), expected, atol=1e-9)


@given(st.integers(3, 40), st.integers(3, 40), st.integers(1, 9), st.integers(1, 5), st.integers(0, 4))
def test_windows_are_where_the_formula_says(height: int, width: int, size: int, stride: int, pad: int) -> None:
    picture = np.empty((height, width, 3), np.uint8)
    if min(height, width) + 2 * pad < size:
        with pytest.raises(OptionError):
            Window(size, stride, pad).plan(picture)
        return
    plan = Window(size, stride, pad).plan(picture)
    masks = np.empty((len(plan), height, width), np.float32)
    plan.renderer(height, width).masks(0, len(plan), masks)
    expected = []
    for top in range(-pad, height + pad - size + 1, stride):
        for left in range(-pad, width + pad - size + 1, stride):
            mask = np.ones((height, width), np.float32)
            mask[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
            expected.append(mask)
    np.testing.assert_array_equal(masks, expected)


def test_window_keeps_the_papers_proportions_per_axis() -> None:
    assert vars(Window().plan(np.empty((112, 112, 3)))) == {
        "size": (32, 32),
        "stride": (4, 4),
        "pad": (8, 8),
        "lattice": (25, 25),
    }
    assert vars(Window().plan(np.empty((224, 64, 3))))["size"] == (64, 18)


def test_lime_samples_are_the_same_for_ever_and_begin_all_on() -> None:
    drawn = draw_samples(9, 70, 5)
    assert drawn[0].all()
    assert abs(draw_samples(4000, 70, 0)[1:].mean() - 0.5) < 0.01
    assert hashlib.sha256(np.packbits(drawn).tobytes()).hexdigest()[:16] == "b35cd8c4a009588c"
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:, 8:] = 255
    few, many = Lime(samples=3, seed=5).plan(picture), Lime(samples=9, seed=5).plan(picture)
    assert many.samples[0].all()
    np.testing.assert_array_equal(few.samples, many.samples[:3])
    assert many.segments.shape == (16, 16)


def test_the_papers_both_mode_runs_2032_rows(
    explainer: Explainer, golden: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = count_rows(monkeypatch)
    query = explainer.prepare(golden["query"], Rise(masks=2000, estimator="sane"))
    explanation = query.explain(explainer.prepare(golden["reference"], Rise(masks=30, estimator="sane")))
    padding = -2000 % explanation.batch + -30 % explanation.batch
    assert sum(rows) - padding == explanation.passes == 2032


def test_mode_both_prepares_both_pictures_alike(explainer: Explainer, golden: dict[str, np.ndarray]) -> None:
    for method in (Rise(masks=40, estimator="sane"), Window(size=40, stride=24, pad=0), Lime(samples=20)):
        explanation = explainer.explain(golden["query"], golden["reference"], method, mode="both")
        sides = [explainer.prepare(golden[n], method) for n in ("query", "reference")]
        np.testing.assert_array_equal(explanation.saliency, sides[0].explain(sides[1]).saliency)
        assert explanation.reference_saliency.shape == (112, 112)
        assert explanation.passes == 2 + sum(len(s.plan) for s in sides)
        pairs = sides[0].model.query_features(sides[0].embeddings, None) @ (
            sides[0].model.reference_features(sides[1].embeddings, None).T
        )
        slow = sides[0].plan.maps(pairs, 112, 112).astype(np.float64).mean(0)
        np.testing.assert_allclose(explanation.saliency, slow, atol=1e-4)


def test_prepared_and_whole_references_may_be_mixed(explainer: Explainer, golden: dict[str, np.ndarray]) -> None:
    query = explainer.prepare(golden["query"], Rise(masks=30))
    masked = explainer.prepare(golden["reference"], Rise(masks=30))
    mixed = query.explain_many([masked, golden["reference"], masked], condition=["top", "shoe", 2])
    assert [e.mode for e in mixed] == ["both", "fixed", "both"]
    assert [e.condition for e in mixed] == ["top", "shoe", "bag"]
    shown = query.explain_many([golden["query"], masked, golden["reference"]])
    assert shown[0].similarity == pytest.approx(1)
    assert shown[2].similarity == pytest.approx(float(golden["similarity"]), abs=1e-5)
    np.testing.assert_allclose([e.similarity for e in mixed], golden["similarity_by_condition"], atol=1e-5)


def test_pictures_prepared_with_different_models_are_refused(explainer: Explainer, golden: dict[str, np.ndarray]) -> None:
    other = Explainer().prepare(golden["reference"], Rise(masks=4))
    with pytest.raises(OptionError, match="different models"):
        explainer.prepare(golden["query"], Rise(masks=4)).explain(other)


@pytest.mark.parametrize("method", ["rise", "window", "lime"])
@pytest.mark.parametrize("mode", ["fixed", "both"])
def test_the_command_takes_every_method_and_mode(
    method: str, mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = [] if method == "window" else ["--masks", "40"]
    for suffix in ("png", "html"):
        assert main(["--method", method, "--mode", mode, *few, "--out", f"a.{suffix}"]) == 0
    assert "wrote" in capsys.readouterr().out


def test_a_plan_decides_the_method(explainer: Explainer, golden: dict[str, np.ndarray]) -> None:
    plan = LimePlan(golden["lime_segments"], golden["lime_samples"])
    explanation = explainer.prepare(golden["query"], plan=plan).explain(golden["reference"])
    assert (explanation.method, explanation.baseline, explanation.seed) == ("lime", "black", None)
    with pytest.raises(OptionError, match="RisePlan"):
        explainer.prepare(golden["query"], plan=(plan.samples, plan.segments))


def test_lime_without_scikit_image_says_what_to_install(
    explainer: Explainer, golden: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(OptionError, match=r"sane-engine\[lime\]"):
        explainer.prepare(golden["query"], "lime")


def test_masks_do_not_apply_to_windows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--method", "window", "--masks", "9", "--json"]) == 2
    assert "--masks does not apply" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("segments", "samples"),
    [
        (np.zeros((4, 4)), np.ones((2, 1), bool)),
        (np.ones((4, 4), int), np.ones((2, 1), bool)),
        (np.zeros((4, 4), int), np.ones((2, 1))),
        (np.zeros((4, 4), int), np.full((2, 1), 2)),
        (np.zeros((4, 4), int), np.ones((0, 1), bool)),
    ],
)
def test_lime_plans_of_other_shapes_are_refused(segments: np.ndarray, samples: np.ndarray) -> None:
    with pytest.raises(OptionError):
        LimePlan(segments, samples)
