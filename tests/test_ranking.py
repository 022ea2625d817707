"""Ranking all references at once against a slow twin, and the words that speak against a match."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.attributes.ranking import Activations, name_attributes, opposing, rank, rank_both_ways
from engine.attributes.table import AttributeTable


def tables(random: np.random.Generator, count: int) -> AttributeTable:
    first, second, third = random.uniform(-1, 2, 3).tolist()
    prior = random.random(count).astype(np.float32) if random.random() < 0.5 else None
    bias = random.normal(size=count).astype(np.float32)
    names = tuple(f"word {i}" for i in range(count))
    return AttributeTable(names, "sigmoid", bias, random.random(), (first, second, third), prior)


def slow_share(pixel: int, part: int, length: int, parts: int) -> float:
    """Of a pixel within an area, in pixels."""
    return max(min((part + 1) * length / parts, pixel + 1) - max(part * length / parts, pixel), 0)


def slow_cells(image: list[list[float]], height: int, width: int) -> list[float]:
    """Means over areas, row by row."""
    cells = []
    for i in range(height):
        for j in range(width):
            total = weight = 0.0
            for y, row in enumerate(image):
                for x, value in enumerate(row):
                    share = slow_share(y, i, len(image), height) * slow_share(x, j, len(row), width)
                    total, weight = total + share * value, weight + share
            cells.append(total / weight)
    return cells


def slow_pearson(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    together = squares_a = squares_b = 0.0
    for x, y in zip(a, b, strict=True):
        together += (x - mean_a) * (y - mean_b)
        squares_a += (x - mean_a) ** 2
        squares_b += (y - mean_b) ** 2
    return together / math.sqrt(squares_a * squares_b) if squares_a * squares_b > 0 else 0.0


def slow_terms(table: AttributeTable, seen: Activations, saliency: np.ndarray) -> Iterator[tuple[float, float, float]]:
    """Score, confidence and match of each attribute."""
    cells = slow_cells(saliency.tolist(), *seen.maps.shape[1:])
    for i in range(len(table.names)):
        agreement = slow_pearson(cells, [v for row in seen.maps[i].tolist() for v in row])
        score = table.phi[0] * float(seen.confidences[i]) + table.phi[1] * agreement
        if table.prior is not None:
            score += table.phi[2] * float(table.prior[i])
        yield score, float(seen.confidences[i]), agreement


def slow_opposing(saliency: np.ndarray) -> np.ndarray:
    mean = sum(v for row in saliency.tolist() for v in row) / saliency.size
    return np.array([[max(0.0, mean - v) for v in row] for row in saliency.tolist()])


SIDES = st.integers(2, 5)


@given(st.integers(0, 2**32 - 1), st.integers(0, 4), st.integers(1, 6), SIDES, SIDES, st.integers(3, 9), st.integers(3, 9))
def test_ranking_equals_a_slow_twin(seed: int, count: int, words_: int, h: int, w: int, height: int, width: int) -> None:
    random = np.random.default_rng(seed)
    table = tables(random, words_)
    seen = Activations.of(table, random.normal(size=(words_, h, w)).astype(np.float32))
    saliencies = random.uniform(-50, 50, size=(count, 1, 1)) + random.normal(size=(count, height, width))
    for against in (False, True):
        slow_maps = [slow_opposing(s) for s in saliencies] if against else saliencies
        ranking = rank(table, seen, saliencies, against)
        assert ranking.agreement.shape == ranking.scores.shape == ranking.order.shape == (count, words_)
        for r, saliency in enumerate(slow_maps):
            scores, _, agreement = zip(*slow_terms(table, seen, saliency), strict=True)
            np.testing.assert_allclose(ranking.agreement[r], agreement, atol=1e-9)
            np.testing.assert_allclose(ranking.scores[r], scores, atol=1e-9)
            assert sorted(ranking.order[r].tolist()) == list(range(words_))
            ordered = ranking.scores[r, ranking.order[r]]
            assert (np.diff(ordered) <= 0).all()


@given(st.integers(0, 2**32 - 1), st.one_of(st.none(), st.integers(0, 4)))
def test_words_equal_a_slow_twin(seed: int, top: int | None) -> None:
    random = np.random.default_rng(seed)
    table = tables(random, 7)
    seen = Activations.of(table, random.normal(size=(7, 3, 3)).astype(np.float32))
    saliencies = random.normal(size=(3, 6, 7))
    for found, saliency in zip(rank_both_ways(table, seen, saliencies, top), saliencies, strict=True):
        agreeing, against = (
            sorted(zip(slow_terms(table, seen, m), table.names, strict=True), key=lambda one: -one[0][0])
            for m in (saliency, slow_opposing(saliency))
        )
        assert [a.name for a in found.agreeing] == [n for (_, c, _), n in agreeing if c >= table.threshold][:top]
        shown = {n: m for (_, _, m), n in agreeing}
        expected = [(terms, n) for terms, n in against if terms[1] >= table.threshold and terms[2] > 1e-12]
        expected = [(terms, n) for terms, n in expected if shown[n] < 0][
            :top
        ]  # one that matches both parts is not said twice
        assert [a.name for a in found.opposing] == [n for _, n in expected]
        for attribute, (terms, _) in zip(found.opposing, expected, strict=True):
            assert (attribute.score, attribute.confidence, attribute.match) == pytest.approx(terms, abs=1e-9)
            np.testing.assert_array_equal(attribute.map, seen.maps[table.names.index(attribute.name)])


def test_blocks_of_maps_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(8)
    table = tables(random, 5)
    seen, saliencies = Activations.of(table, random.normal(size=(5, 3, 3)).astype(np.float32)), random.random((7, 6, 6))
    one = [rank(table, seen, saliencies, against).scores for against in (False, True)]
    for kept in (1, 3):
        monkeypatch.setattr("engine.attributes.ranking.BLOCK_BYTES", kept * saliencies[0].nbytes)
        for scores, against in zip(one, (False, True), strict=True):
            np.testing.assert_allclose(rank(table, seen, saliencies, against).scores, scores, rtol=1e-12)


def test_equal_scores_keep_the_order_of_the_table() -> None:
    count = 200  # sorts that do not keep the order do so for few
    table = AttributeTable(tuple(map(str, range(count))), "sigmoid", np.zeros(count, np.float32))
    activations = np.zeros((count, 2, 2), np.float32)
    activations[: count // 2, 0, 0] = 1
    saliency = np.zeros((1, 8, 8))
    saliency[0, :4, :4] = -1
    order = rank(table, Activations.of(table, activations), saliency).order
    assert order.tolist() == [[*range(count // 2, count), *range(count // 2)]]


def test_threshold_and_top_hold_for_every_reference() -> None:
    random = np.random.default_rng(3)
    table = tables(random, 30)
    seen = Activations.of(table, random.normal(size=(30, 4, 4)).astype(np.float32))
    ranking = rank(table, seen, random.random((20, 16, 16)))
    everything, some = (name_attributes(table, seen, ranking, top) for top in (None, 4))
    reaching = {n for n, c in zip(table.names, seen.confidences, strict=True) if c >= table.threshold}
    assert 4 < len(reaching) < 30
    assert len({names[0].name for names in everything}) > 1
    for all_of_them, best in zip(everything, some, strict=True):
        assert {a.name for a in all_of_them} == reaching
        assert [a.name for a in best] == [a.name for a in all_of_them[:4]]


@pytest.mark.parametrize(("level", "range_"), [(0, 1), (199, 0.1), (-3, 1e-3)])
def test_float32_maps_rank_as_their_float64_twins(level: float, range_: float) -> None:
    """Raw maps of the published estimator are nearly constant: only their shape means anything."""
    random = np.random.default_rng(4)
    table = tables(random, 40)
    seen = Activations.of(table, random.normal(size=(40, 7, 7)).astype(np.float32))
    coarse = np.kron(random.random((3, 8, 8)), np.ones((28, 28)))
    single = (level + range_ * coarse).astype(np.float32)
    twin = rank(table, seen, single.astype(np.float64))
    np.testing.assert_allclose(rank(table, seen, single).scores, twin.scores, atol=1e-6)


@pytest.mark.parametrize("level", [0, 0.3, 199])
def test_inverting_a_map_around_its_mean_swaps_what_is_above_and_below(level: float) -> None:
    saliencies = (level + np.random.default_rng(6).random((3, 9, 8))).astype(np.float32)
    mean = saliencies.mean((1, 2), keepdims=True, dtype=np.float64)
    above = np.maximum(saliencies - mean, 0)
    assert opposing(saliencies).dtype == np.float32
    np.testing.assert_allclose(opposing((2 * mean - saliencies).astype(np.float32)), above, atol=1e-6 + level * 2e-7)
    np.testing.assert_allclose(above - opposing(saliencies), saliencies - mean, atol=1e-6 + level * 2e-7)
    np.testing.assert_array_equal(opposing(saliencies)[1], opposing(saliencies[1]))


@pytest.mark.parametrize("level", [0, 0.1, -7, 199])
def test_a_constant_map_opposes_nothing(level: float) -> None:
    random = np.random.default_rng(7)
    constant = np.full((2, 30, 31), level, np.float32)
    constant[1, ::2] *= 1 + 1.2e-7  # the next number of that type
    assert not opposing(constant).any()
    table = AttributeTable(tuple("abcd"), "sigmoid", np.zeros(4, np.float32))
    seen = Activations.of(table, random.normal(size=(4, 3, 3)).astype(np.float32))
    for found in rank_both_ways(table, seen, constant):
        assert found.opposing == ()
        assert [a.match for a in found.agreeing] == [0] * 4


def test_words_of_high_regions_do_not_oppose_and_words_of_low_ones_do() -> None:
    corners = np.full((4, 4, 4), -4.0, np.float32)
    for i, (y, x) in enumerate(((0, 0), (0, 3), (3, 0), (3, 3))):
        corners[i, y, x] = 4
    bias = np.full(4, 10, np.float32)
    bias[3] = -10  # is not in the picture
    table = AttributeTable(("high", "middle", "low", "absent"), "sigmoid", bias, threshold=0.5)
    saliency = np.full((1, 16, 16), 0.5)
    saliency[0, :4, :4], saliency[0, 12:, :4], saliency[0, 12:, 12:] = 0.9, 0.1, 0.1
    (found,) = rank_both_ways(table, Activations.of(table, corners), saliency)
    assert [a.name for a in found.agreeing] == ["high", "middle", "low"]
    assert [a.name for a in found.opposing] == ["low"]
    assert found.opposing[0].match > 0.5
    assert found.agreeing[2].match < 0
    (inverted,) = rank_both_ways(table, Activations.of(table, corners), -saliency)
    assert [a.name for a in inverted.opposing] == ["high"]
