"""Figures about attributes, on cases worked by hand and against slow twins."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from engine.evaluate.bootstrap import bootstrap
from engine.evaluate.recognition import average_precisions, mean_average_precision, reliability
from engine.evaluate.removal import direction_agreement, first_named, removal, removal_drops, top_true


def test_average_precision_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 12, 60) / 12  # with ties
    truth = random.random(60) < 0.3
    weights = random.integers(0, 3, (5, 60)).astype(np.float32)
    found = average_precisions(truth, scores, np.concatenate([weights, np.zeros((1, 60), np.float32)]))
    for row, got in zip(weights.astype(int), found, strict=False):
        assert got == pytest.approx(average_precision_score(truth.repeat(row), scores.repeat(row)), abs=1e-6)
    assert np.isnan(found[-1])


def test_the_mean_leaves_out_attributes_without_a_positive() -> None:
    random = np.random.default_rng(0)
    truth = random.random((50, 4)) < 0.3
    truth[:, 2] = False
    scores = random.normal(size=(50, 4)) + truth
    mean, single = mean_average_precision(truth, scores)
    wanted = [average_precision_score(truth[:, i], scores[:, i]) for i in (0, 1, 3)]
    assert single[[0, 1, 3]] == pytest.approx(wanted, abs=1e-6)
    assert np.isnan(single[2])
    assert mean.mean == pytest.approx(np.mean(wanted), abs=1e-6)
    assert mean.low < mean.mean < mean.high
    doubled = mean_average_precision(truth.repeat(2, 0), scores.repeat(2, 0), np.arange(50).repeat(2))[0]
    assert (doubled.low, doubled.high) == pytest.approx((mean.low, mean.high), abs=1e-6)


def test_reliability_by_hand() -> None:
    confidences = np.array([[0.05, 0.0], [0.95, 1.0], [0.42, 0.48]])
    truth = np.array([[1, 0], [1, 1], [1, 0]], bool)
    found = reliability(truth, confidences)
    assert found.count.tolist() == [2, 0, 0, 0, 2, 0, 0, 0, 0, 2]
    assert found.confidence[[0, 4, 9]] == pytest.approx([0.025, 0.45, 0.975])
    assert found.share[[0, 4, 9]] == pytest.approx([0.5, 0.5, 1])
    assert np.isnan(found.share[1])
    assert found.error == pytest.approx((2 * 0.475 + 2 * 0.05 + 2 * 0.025) / 6)


def test_intervals_resample_clusters() -> None:
    values = np.random.default_rng(0).normal(size=40)
    single, repeated = bootstrap(values), bootstrap(values.repeat(5), np.arange(40).repeat(5))
    assert (repeated.mean, repeated.low, repeated.high) == pytest.approx((single.mean, single.low, single.high))
    alone = bootstrap(values.repeat(5))
    assert alone.high - alone.low < 0.6 * (single.high - single.low)
    assert bootstrap(np.append(values, np.nan)).mean == single.mean
    assert bootstrap(np.array([np.nan])).to_dict() == {"mean": None, "low": None, "high": None}


def test_removal_by_hand() -> None:
    truth = np.array(
        [
            [1, 1, 0],  # query
            [1, 1, 0],  # reference, its group
            [0, 1, 0],  # lacks 0, else alike
            [0, 1, 0],  # the same: the mean of both
            [0, 0, 0],  # lacks 0, one off; lacks 1, one off
            [1, 0, 1],  # lacks 1, one off; lacks 0 not
            [0, 1, 1],
        ],
        bool,
    )
    groups = np.array([0, 0, 1, 2, 3, 4, 5])
    similarities = np.zeros((7, 7))
    similarities[:, 1] = [0.9, 1, 0.5, 0.3, 0.2, 0.1, 0.6]
    similarities[1] = 99  # not the reference's row
    found = removal_drops(similarities, truth, groups, np.array([[0, 1]]))
    # 1: pictures 4 and 5 lack it, both one off; 2: those that lack it and differ least have 0 1 0
    assert found == pytest.approx(np.array([[0.9 - 0.4, 0.9 - 0.15, 0.9 - 0.4]]))


def test_the_reference_does_not_replace_the_query() -> None:
    """It is in another group where pairs are of most similar pictures, and may lack the attribute."""
    truth, similarities = np.array([[1], [0], [0]], bool), np.array([[1, 0.8, 0], [0.8, 1, 0.3], [0, 0.3, 1]])
    assert removal_drops(similarities, truth, np.arange(3), np.array([[0, 1]])) == pytest.approx(np.array([[0.5]]))


def test_removal_is_that_of_a_slow_loop() -> None:
    random = np.random.default_rng(0)
    n, count = 24, 6
    truth = random.random((n, count)) < 0.5
    truth[:, 3] = True  # none lacks it
    groups = np.arange(n) // 2
    similarities = random.normal(size=(n, n))
    pairs = np.array([[0, 1], [1, 0], [4, 5], [7, 20]])  # the last one across groups
    found = removal_drops(similarities, truth, groups, pairs)
    for (q, r), row in zip(pairs, found, strict=True):
        for i in range(count):
            others = [c for c in range(n) if groups[c] != groups[q] and c != r and not truth[c, i]]
            if not others:
                assert np.isnan(row[i])
                continue
            rest = np.arange(count) != i
            distance = {c: int((truth[c, rest] != truth[q, rest]).sum()) for c in others}
            alike = [c for c in others if distance[c] == min(distance.values())]
            assert row[i] == pytest.approx(similarities[q, r] - np.mean([similarities[c, r] for c in alike]))
    assert np.isnan(found[:, 3]).all()


def test_ways_to_choose_an_attribute_by_hand() -> None:
    drops = np.array([[0.1, 0.5, np.nan], [0.3, -0.1, 0.4], [np.nan] * 3])
    truth = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], bool)
    found = removal(drops, truth, {"confidence": np.array([0, 0, 0]), "all": np.array([1, 2, 1])}, np.arange(3))
    means = {name: drop.mean.mean for name, drop in found.items()}
    assert means == pytest.approx({"confidence": 0.2, "all": 0.45, "random": 0.25, "random_true": 0.1, "best": 0.45})
    assert found["all"].over_random.mean == pytest.approx((0.5 - 0.3 + 0.4 - 0.2) / 2)
    assert found["all"].over_confidence.mean == pytest.approx((0.4 + 0.1) / 2)
    assert [found[name].pairs for name in ("confidence", "random_true", "best")] == [2, 1, 2]


def test_attributes_below_the_threshold_are_not_named_first() -> None:
    scores = np.array([[1, 5, 3], [1, 5, 3], [2, 2, 1.0]])
    confidences = np.array([[0.6, 0.4, 0.5], [0.1, 0.2, 0.1], [0.9, 0.9, 0.9]])
    assert first_named(scores, confidences, 0.5).tolist() == [2, 1, 0]


def test_agreement_by_hand() -> None:
    clusters = np.arange(4)
    assert direction_agreement(np.array([1, 2, 3, 0]), np.array([1, 0, 3, 0]), clusters).mean == 0.75
    truth = np.array([[1, 0], [1, 1]], bool)
    pairs = np.array([[0, 1], [1, 0], [0, 1], [1, 0]])
    assert top_true(np.array([0, 0, 1, 1]), truth, pairs, clusters).mean == 0.5
