"""Ranking attributes: each term against its definition."""

import numpy as np
import pytest

from engine.attributes import AttributeTable, Seen, area_mean, match, rank, see
from engine.errors import OptionError

RANDOM = np.random.default_rng(5)
ACTIVATIONS = RANDOM.normal(size=(6, 4, 5)).astype(np.float32)
NAMES = tuple("abcdef")


def table(**changes: object) -> AttributeTable:
    fields = {"names": NAMES, "confidence": "softmax", "bias": np.zeros(6, np.float32), **changes}
    return AttributeTable(**fields)  # type: ignore[arg-type]


def test_terms_follow_their_definitions() -> None:
    prior = RANDOM.random(6).astype(np.float32)
    chosen = table(confidence="sigmoid", bias=np.arange(6, dtype=np.float32) / 10, phi=(0.5, 2.0, 3.0), prior=prior)
    saliency = RANDOM.random((4, 5))
    ranked = rank(chosen, see(chosen, ACTIVATIONS), saliency)
    assert [a.score for a in ranked] == sorted((a.score for a in ranked), reverse=True)
    for attribute in ranked:
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
    seen = see(table(), ACTIVATIONS)
    assert seen.confidences.sum() == pytest.approx(1)
    assert seen.confidences.argmax() == ACTIVATIONS.mean((1, 2)).argmax()


def test_inverting_the_map_flips_the_sign_of_every_match() -> None:
    seen, saliency = see(table(), ACTIVATIONS), 198.9 + 0.01 * RANDOM.random((64, 80))
    ways = [{a.name: a.match for a in rank(table(), seen, sign * saliency)} for sign in (1, -1)]
    assert max(abs(m) for m in ways[0].values()) > 0.05
    for name in NAMES:
        assert ways[0][name] == pytest.approx(-ways[1][name], abs=1e-9)


def test_a_constant_map_matches_nothing() -> None:
    assert not match(Seen(np.ones(len(ACTIVATIONS)), ACTIVATIONS), np.full((4, 5), 7.0)).any()
    assert not match(Seen(np.ones(2), np.ones((2, 4, 5))), RANDOM.random((4, 5))).any()


def test_without_a_prior_its_weight_counts_as_zero() -> None:
    seen, saliency = see(table(), ACTIVATIONS), RANDOM.random((4, 5))
    assert table(phi=(1.0, 1.0, 9.0)).weights == (1.0, 1.0, 0.0)
    for with_weight, without in zip(
        rank(table(phi=(1.0, 1.0, 9.0)), seen, saliency), rank(table(), seen, saliency), strict=True
    ):
        assert with_weight.score == without.score


def test_attributes_below_the_threshold_are_not_named() -> None:
    seen, saliency = see(table(), ACTIVATIONS), RANDOM.random((4, 5))
    middle = float(np.sort(seen.confidences)[3])
    assert {a.name for a in rank(table(threshold=middle), seen, saliency)} == {
        n for n, c in zip(NAMES, seen.confidences, strict=True) if c >= middle
    }
    assert rank(table(threshold=1.0), seen, saliency) == ()


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (10, 10)])
def test_area_mean_weighs_pixels_by_their_overlap(shape: tuple[int, int]) -> None:
    image = RANDOM.random((10, 12))
    fine = np.kron(image, np.ones((shape[0], shape[1])))  # every pixel cut so that the areas fall on edges
    expected = fine.reshape(shape[0], 10, shape[1], 12).mean((1, 3))
    np.testing.assert_allclose(area_mean(image, *shape), expected)


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
    ],
)
def test_inconsistent_tables_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        table(**changes)
