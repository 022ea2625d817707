"""Ranking attributes: each term against its definition."""

import json

import numpy as np
import pytest

from engine.attributes.ranking import Activations, area_means, match, name_attributes, rank
from engine.attributes.table import Attribute, AttributeTable
from engine.bundle.manifest import attributes_from_json, attributes_to_json
from engine.errors import BundleError, OptionError

RANDOM = np.random.default_rng(5)
ACTIVATIONS = RANDOM.normal(size=(6, 4, 5)).astype(np.float32)
NAMES = tuple("abcdef")


def table(**changes: object) -> AttributeTable:
    fields = {"names": NAMES, "confidence": "softmax", "bias": np.zeros(6, np.float32), **changes}
    return AttributeTable(**fields)  # type: ignore[arg-type]


def ranked(chosen: AttributeTable, seen: Activations, saliency: np.ndarray) -> tuple[Attribute, ...]:
    """For one map."""
    (found,) = name_attributes(chosen, seen, rank(chosen, seen, saliency[None]))
    return found


def test_terms_follow_their_definitions() -> None:
    prior = RANDOM.random(6).astype(np.float32)
    chosen = table(confidence="sigmoid", bias=np.arange(6, dtype=np.float32) / 10, phi=(0.5, 2.0, 3.0), prior=prior)
    saliency = RANDOM.random((4, 5))
    found = ranked(chosen, Activations.of(chosen, ACTIVATIONS), saliency)
    assert [a.score for a in found] == sorted((a.score for a in found), reverse=True)
    for attribute in found:
        i = NAMES.index(attribute.name)
        spatial = np.exp(ACTIVATIONS[i]) / np.exp(ACTIVATIONS[i]).sum()
        confidence = 1 / (1 + np.exp(-(ACTIVATIONS[i].mean() + i / 10)))
        agreement = np.corrcoef(spatial.ravel(), saliency.ravel())[0, 1]
        np.testing.assert_allclose(attribute.map, spatial, rtol=1e-5)
        np.testing.assert_allclose(
            [attribute.confidence, attribute.match, attribute.prior], [confidence, agreement, prior[i]], rtol=1e-5
        )
        assert attribute.score == pytest.approx(0.5 * confidence + 2 * agreement + 3 * prior[i], rel=1e-5)


def test_softmax_confidences_sum_to_one() -> None:
    seen = Activations.of(table(), ACTIVATIONS)
    assert seen.confidences.sum() == pytest.approx(1)
    assert seen.confidences.argmax() == ACTIVATIONS.mean((1, 2)).argmax()


def test_scale_and_bias_calibrate_scores() -> None:
    scale, bias = np.linspace(0.5, 3, 6, dtype=np.float32), np.linspace(-1, 1, 6, dtype=np.float32)
    scores = scale * ACTIVATIONS.mean((1, 2)) + bias
    for confidence, expected in (
        ("sigmoid", 1 / (1 + np.exp(-scores))),
        ("softmax", np.exp(scores) / np.exp(scores).sum()),
    ):
        calibrated = table(confidence=confidence, scale=scale, bias=bias)
        np.testing.assert_allclose(Activations.of(calibrated, ACTIVATIONS).confidences, expected, rtol=1e-5)
    assert (table().slopes == 1).all()
    assert (
        Activations.of(table(confidence="sigmoid", scale=np.full(6, 1e30, np.float32)), ACTIVATIONS).confidences.max() == 1
    )


def test_the_table_is_kept_in_json_and_older_ones_have_scale_one() -> None:
    kept = table(scale=np.linspace(0.1, 3, 6, dtype=np.float32), prior=np.full(6, 0.3, np.float32))
    again = attributes_from_json(attributes_to_json(kept))
    for name in ("scale", "bias", "prior"):
        np.testing.assert_array_equal(getattr(again, name), getattr(kept, name))
    fields = json.loads(attributes_to_json(kept))
    without = {k: v for k, v in fields.items() if k != "scale"}
    np.testing.assert_array_equal(attributes_from_json(json.dumps(without)).slopes, np.ones(6, np.float32))
    for scale in ([0] * 6, [1] * 5, 1, "a"):
        with pytest.raises(BundleError, match=r"attributes\.json"):
            attributes_from_json(json.dumps(fields | {"scale": scale}))


def test_inverting_the_map_flips_the_sign_of_every_match() -> None:
    seen, saliency = Activations.of(table(), ACTIVATIONS), 198.9 + 0.01 * RANDOM.random((64, 80))
    ways = [{a.name: a.match for a in ranked(table(), seen, sign * saliency)} for sign in (1, -1)]
    assert max(abs(m) for m in ways[0].values()) > 0.05
    for name in NAMES:
        assert ways[0][name] == pytest.approx(-ways[1][name], abs=1e-9)


def test_a_constant_map_matches_nothing() -> None:
    rounded = 199 * (1 + 1e-7 * RANDOM.random((1, 4, 5)))
    for constant in (np.full((1, 4, 5), 7.0), np.full((1, 9, 9), 0.1, np.float32), rounded):
        assert not match(Activations(np.ones(len(ACTIVATIONS)), ACTIVATIONS), constant).any()
    assert not match(Activations(np.ones(2), np.ones((2, 4, 5))), RANDOM.random((1, 4, 5))).any()


@pytest.mark.parametrize("saliencies", [np.zeros((4, 5)), np.zeros((1, 4, 5), int), np.zeros((1, 0, 5))])
def test_arrays_that_are_no_maps_are_refused(saliencies: np.ndarray) -> None:
    with pytest.raises(OptionError, match=r"\(R, H, W\)"):
        match(Activations.of(table(), ACTIVATIONS), saliencies)


def test_without_a_prior_its_weight_counts_as_zero() -> None:
    seen, saliency = Activations.of(table(), ACTIVATIONS), RANDOM.random((4, 5))
    assert table(phi=(1.0, 1.0, 9.0)).weights == (1.0, 1.0, 0.0)
    for with_weight, without in zip(
        ranked(table(phi=(1.0, 1.0, 9.0)), seen, saliency), ranked(table(), seen, saliency), strict=True
    ):
        assert with_weight.score == without.score


def test_attributes_below_the_threshold_are_not_named() -> None:
    seen, saliency = Activations.of(table(), ACTIVATIONS), RANDOM.random((4, 5))
    middle = float(np.sort(seen.confidences)[3])
    assert {a.name for a in ranked(table(threshold=middle), seen, saliency)} == {
        n for n, c in zip(NAMES, seen.confidences, strict=True) if c >= middle
    }
    assert ranked(table(threshold=1.0), seen, saliency) == ()


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (10, 10)])
def test_area_means_weigh_pixels_by_their_overlap(shape: tuple[int, int]) -> None:
    image = RANDOM.random((10, 12))
    fine = np.kron(image, np.ones((shape[0], shape[1])))  # every pixel cut so that the areas fall on edges
    expected = fine.reshape(shape[0], 10, shape[1], 12).mean((1, 3))
    np.testing.assert_allclose(area_means(image[None], *shape)[0], expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"confidence": "tanh"},
        {"names": ("a",) * 6},
        {"names": ()},
        {"bias": np.zeros(5, np.float32)},
        {"prior": np.zeros(7, np.float32)},
        {"threshold": 2.0},
        {"phi": (1.0, 1.0)},
        {"phi": (1.0, 1.0, float("nan"))},
        {"bias": np.full(6, np.inf, np.float32)},
        {"scale": np.ones(5, np.float32)},
        {"scale": np.zeros(6, np.float32)},
        {"scale": np.full(6, np.nan, np.float32)},
        {"scale": np.full(6, np.inf, np.float32)},
    ],
)
def test_inconsistent_tables_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        table(**changes)
