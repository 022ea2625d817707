"""The prior on embeddings in which it is known what the similarity goes by."""

import numpy as np
import pytest

from engine.errors import OptionError
from engine.evaluate.matching import halves
from engine.saliency import similarity
from export.tcav import LEVEL, Prior, derivatives, prior

SIZE, GROUPS = 16, 150
USED, IGNORED = 0, 1


def pairs_of(groups: np.ndarray) -> np.ndarray:
    return np.argwhere((groups[:, None] == groups) & ~np.eye(len(groups), dtype=bool))


def drawn(seed: int, attributes: int, mean: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings (n, D) of pictures that share a part with their group, attributes of whole groups that say nothing."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(GROUPS), 2)
    embeddings = mean + random.normal(size=(GROUPS, SIZE))[groups] + random.normal(size=(len(groups), SIZE))
    truth = (random.random((GROUPS, attributes)) < 0.3)[groups]
    return embeddings, truth, groups, pairs_of(groups)


def planted(metric: str, seed: int = 0) -> Prior:
    """The first of six attributes shifts the embedding along its first axis."""
    embeddings, truth, groups, pairs = drawn(seed, 6)
    embeddings[:, 0] = 4 * truth[:, USED] + 0.3 * embeddings[:, 0]
    return prior(embeddings, truth, groups, pairs, metric, seed)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_a_direction_the_similarity_uses_passes_and_one_it_ignores_does_not(metric: str) -> None:
    found = planted(metric)
    assert found.value[USED] == found.share[USED] > 0.9
    assert found.p_values[USED] == pytest.approx(1 / 201)
    assert found.p_values[IGNORED] > LEVEL
    assert found.value[IGNORED] == 0
    assert 0.2 < found.share[IGNORED] < 0.8


def test_a_direction_that_tells_the_attribute_but_lowers_the_similarity_fails() -> None:
    """With it -3, without it -6: a classifier finds it, and a dot product falls along it."""
    embeddings, truth, groups, pairs = drawn(1, 1)
    embeddings[:, 0] = 3 * truth[:, 0] - 6
    found = prior(embeddings, truth, groups, pairs, "dot", 0)
    assert found.share[0] < 0.1
    assert found.p_values[0] > 0.9
    assert found.value[0] == 0


@pytest.mark.parametrize("mean", [0.0, 2.0])
def test_random_concepts_pass_at_the_nominal_rate(mean: float) -> None:
    """Of 240 of them, in six sets of embeddings, what a binomial bound allows; a sign test over pairs passes more."""
    p_values, naive = [], []
    for seed in range(6):
        embeddings, truth, groups, pairs = drawn(10 + seed, 40, mean)
        found = prior(embeddings, truth, groups, pairs, "cosine", seed)
        p_values.append(found.p_values)
        naive.append((found.share - 0.5) * 2 * np.sqrt(found.pairs) > 1.645)
    every = np.concatenate(p_values)
    passed = float((every <= LEVEL).mean())
    spread = 3 * np.sqrt(LEVEL * (1 - LEVEL) / every.size)
    assert LEVEL - spread < passed < LEVEL + spread
    assert 0.4 < every.mean() < 0.6  # and uniform altogether
    if mean:
        assert np.concatenate(naive).mean() > 0.1


def test_pictures_of_a_group_may_differ() -> None:
    """Random concepts are carried by part of their groups' pictures, as the attributes are; else the rate doubles."""
    p_values = []
    for seed in range(6):
        random = np.random.default_rng(seed)
        groups = np.repeat(np.arange(60), 5)
        embeddings = random.normal(size=(60, SIZE))[groups] + random.normal(size=(300, SIZE)) + 0.5
        truth = (random.random((60, 40)) < 0.4)[groups] & (random.random((300, 40)) < 0.3)
        p_values.append(prior(embeddings, truth, groups, pairs_of(groups), "cosine", seed).p_values)
    passed = (np.concatenate(p_values) <= LEVEL).mean()
    assert LEVEL - 0.035 < passed < LEVEL + 0.035


def test_a_vector_is_not_judged_on_the_pairs_it_was_learned_from() -> None:
    """More dimensions than pictures: a classifier separates anything it was shown."""
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 2)
    embeddings = random.normal(size=(60, 300))[groups] + 0.1 * random.normal(size=(120, 300))
    truth = (random.random((60, 8)) < 0.4)[groups]
    found = prior(embeddings, truth, groups, pairs_of(groups), "dot", 0)
    assert found.share.mean() < 0.65  # 1 otherwise


def test_features_of_any_unit_count_alike() -> None:
    """The penalty is on standardised features, and the normal is brought back to those of the embedding."""
    embeddings, truth, groups, pairs = drawn(0, 6)
    plain = prior(embeddings, truth, groups, pairs, "dot", 0)
    # v is then in inverse units, which a derivative of the dot product, r . v, cancels
    scaled = prior(embeddings * np.geomspace(0.01, 100, SIZE), truth, groups, pairs, "dot", 0)
    assert (scaled.share == plain.share).all()


def test_few_pairs_say_nothing() -> None:
    embeddings, truth, groups, pairs = drawn(0, 3)
    truth[:] = False
    first = halves(groups, 0)
    truth[np.isin(groups, [groups[first][0], groups[~first][0]]), 0] = True  # four ordered pairs, two in each half
    truth[::2, 1] = True  # many pictures, no pair
    truth[:, 2] = True  # nothing to tell it from
    found = prior(embeddings, truth, groups, pairs, "cosine", 0)
    assert found.pairs.tolist() == [4, 0, 0]
    assert np.isnan(found.share[1:]).all()
    assert np.isnan(found.p_values).all()
    assert (found.value == 0).all()


def test_squared_distances_have_no_prior() -> None:
    found = planted("euclidean")
    assert (found.share == 0.5).all()
    assert (found.value == 0).all()


def test_twins_are_no_evidence() -> None:
    """Pictures and their copies: the cosine's derivative is rounding."""
    embeddings, truth, groups, pairs = drawn(0, 4)
    found = prior(embeddings[(groups * 2)] * 3, truth, groups, pairs, "cosine", 0)
    assert (found.share == 0).all()


@pytest.mark.parametrize("metric", similarity.METRICS)
def test_derivatives_are_those_of_the_similarity(metric: str) -> None:
    random = np.random.default_rng(0)
    query, reference = random.normal(size=(2, 7, 5))
    step = 1e-6

    def value(q: np.ndarray) -> np.ndarray:
        return (similarity.query_features(q, metric, None) * similarity.reference_features(reference, metric, None)).sum(1)

    wanted = np.stack([(value(query + step * a) - value(query - step * a)) / (2 * step) for a in np.eye(5)], 1)
    if metric == "cosine":  # up to a factor
        wanted *= np.linalg.norm(query, axis=1, keepdims=True)
    assert derivatives(query, reference, metric) == pytest.approx(wanted, abs=1e-6)


def test_a_seed_decides_everything() -> None:
    one, same, other = planted("cosine"), planted("cosine"), planted("cosine", 1)
    assert (one.p_values == same.p_values).all()
    assert (one.share != other.share).any()


def test_one_group_cannot_be_divided() -> None:
    embeddings, truth, groups, pairs = drawn(0, 2)
    with pytest.raises(OptionError, match="several groups"):
        prior(embeddings, truth, np.zeros_like(groups), pairs, "cosine", 0)
