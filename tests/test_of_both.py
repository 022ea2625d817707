"""What is true of both pictures: against a slow twin, symmetric, and told apart from what is true of one only."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import CAT, COUPLE, NAMES, PICTURES, VENDORS
from hypothesis import given
from hypothesis import strategies as st

from engine import Explainer, LearnedMask, Lime, OptionError, Rise, StoredReference, Window
from engine.attributes.of_both import KnownAttributes, rank_of_both, rank_rather_than
from engine.attributes.probability import joint_probability, logits
from engine.attributes.ranking import Activations
from engine.attributes.table import Attribute, AttributeTable

JOINT = (0.7, 0.5, -0.2)
PROBABILITIES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def table_of(count: int, joint: tuple[float, float, float] | None = None, threshold: float = 0.5) -> AttributeTable:
    names = tuple(f"attribute {i}" for i in range(count))
    return AttributeTable(names, "sigmoid", np.zeros(count, np.float32), threshold, joint=joint)


def slow_joint(ours: float, theirs: float, joint: tuple[float, float, float] | None) -> float:
    if joint is None:
        return ours * theirs
    low, high = sorted(math.log(min(max(p, 1e-7), 1 - 1e-7) / (1 - min(max(p, 1e-7), 1 - 1e-7))) for p in (ours, theirs))
    return 1 / (1 + math.exp(-(joint[0] * low + joint[1] * high + joint[2])))


def names(attributes: tuple[Attribute, ...]) -> list[str]:
    return [a.name for a in attributes]


@given(PROBABILITIES, st.sampled_from([None, JOINT, (1.0, 0.0, 0.0)]))
def test_the_joint_probability_is_that_of_the_slow_twin_and_symmetric(
    ours: list[float], joint: tuple[float, float, float] | None
) -> None:
    theirs = ours[::-1]
    found = joint_probability(np.array(ours), np.array(theirs), joint)
    np.testing.assert_allclose(found, [slow_joint(*pair, joint) for pair in zip(ours, theirs, strict=True)], atol=1e-12)
    np.testing.assert_array_equal(found, joint_probability(np.array(theirs), np.array(ours), joint))
    assert ((found >= 0) & (found <= 1)).all()


def test_logits_stay_finite() -> None:
    assert np.isfinite(logits(np.array([0, 1, 0.5]))).all()
    assert logits(np.array([0.5])) == 0


@given(st.integers(0, 2**32), st.sampled_from([None, JOINT]), st.none() | st.integers(1, 3))
def test_lists_are_those_of_the_slow_twin(seed: int, joint: tuple[float, float, float] | None, top: int | None) -> None:
    random = np.random.default_rng(seed)
    table = table_of(8, joint, threshold=0.3)
    maps = random.random((8, 3, 3)).astype(np.float32)
    ours, theirs = random.random(8), random.random((2, 8))
    elsewhere = random.random((8, 2, 2)).astype(np.float32)
    found = rank_of_both(
        table, Activations(ours, maps), random.random((2, 6, 6)), KnownAttributes(theirs, [elsewhere, None]), top
    )
    for row, ranked in enumerate(found):
        assert ranked.note == ""
        for attributes, scores in (
            (ranked.agreeing, [slow_joint(a, b, joint) for a, b in zip(ours, theirs[row], strict=True)]),
            (ranked.only_query, [a * (1 - b) for a, b in zip(ours, theirs[row], strict=True)]),
            (ranked.only_reference, [b * (1 - a) for a, b in zip(ours, theirs[row], strict=True)]),
        ):
            best = sorted((i for i in range(8) if scores[i] >= 0.3), key=lambda i: -scores[i])[:top]
            assert names(attributes) == [f"attribute {i}" for i in best]
            for i, attribute in zip(best, attributes, strict=True):
                assert attribute.score == pytest.approx(scores[i], abs=1e-12)
                assert (attribute.confidence, attribute.reference_confidence) == (ours[i], theirs[row, i])
    for attribute in found[0].only_reference:
        np.testing.assert_array_equal(attribute.map, elsewhere[int(attribute.name[-1])])
    assert all(attribute.map is None for attribute in found[1].only_reference)


def test_without_the_reference_the_query_alone_counts_and_a_note_says_so() -> None:
    ours = np.array([0.9, 0.2, 0.7])
    unknown = KnownAttributes(np.full((1, 3), np.nan), [None])
    (found,) = rank_of_both(table_of(3), Activations(ours, np.ones((3, 1, 1), np.float32)), np.ones((1, 4, 4)), unknown)
    assert names(found.agreeing) == ["attribute 0", "attribute 2"]
    assert [a.reference_confidence for a in found.agreeing] == [None, None]
    assert (found.only_query, found.only_reference) == ((), ())
    assert "query's alone" in found.note


def test_rather_than_names_what_one_reference_has_and_the_other_lacks() -> None:
    seen = Activations(np.array([0.9, 0.9, 0.9, 0.1]), np.ones((4, 1, 1), np.float32))
    here, there = (KnownAttributes(np.array([row]), [None]) for row in ([0.9, 0.1, 0.9, 0.9], [0.1, 0.9, 0.9, 0.1]))
    (found,) = rank_rather_than(table_of(4), seen, np.ones((1, 4, 4)), here, there)
    assert (names(found.agreeing), names(found.for_other)) == (["attribute 0"], ["attribute 1"])
    assert found.agreeing[0].score == pytest.approx(0.9**3)
    assert found.for_other[0].reference_confidence == 0.9
    (untold,) = rank_rather_than(
        table_of(4), seen, np.ones((1, 4, 4)), here, KnownAttributes(np.full((1, 4), np.nan), [None])
    )
    assert untold.agreeing == ()
    assert "both are needed" in untold.note


def test_the_couple_against_the_cat_says_what_tells_them_apart(demo: Explainer) -> None:
    found = demo.explain(COUPLE[0], CAT[0], Rise(masks=64))
    assert not {"family", "heart", "love"} & set(names(found.attributes))
    assert {"family", "heart", "love"} <= set(names(found.only_query))
    assert "face" in names(found.only_reference)
    assert not set(names(found.only_query)) & set(names(found.only_reference))


@pytest.mark.parametrize("method", [Rise(masks=32), Window(size=16, stride=16), Lime(samples=32), LearnedMask(iterations=2)])
def test_both_directions_name_the_same_attributes(method: Rise | Window | Lime | LearnedMask, demo: Explainer) -> None:
    for name in NAMES:
        pair = [PICTURES / f"{name}-{vendor}.png" for vendor in VENDORS]
        one, other = demo.explain(*pair, method), demo.explain(*pair[::-1], method)
        assert names(one.attributes) == names(other.attributes)
        assert [a.score for a in one.attributes] == [a.score for a in other.attributes]
        assert names(one.only_query) == names(other.only_reference)


def test_every_way_to_give_the_reference_knows_its_attributes(demo: Explainer) -> None:
    by_picture = demo.explain(*COUPLE, Rise(masks=64))
    prepared = demo.prepare(COUPLE[0], Rise(masks=64))
    embedding, confidences = demo.embed([COUPLE[1]])[0], demo.confidences([COUPLE[1]])[0]
    stored = prepared.explain(StoredReference(embedding, confidences))
    both = prepared.explain(demo.prepare(COUPLE[1], Rise(masks=64)))
    for found in (stored, both):
        assert [(a.name, a.score) for a in found.attributes] == [(a.name, a.score) for a in by_picture.attributes]
        assert names(found.only_query) == names(by_picture.only_query)
    np.testing.assert_array_equal(stored.saliency, by_picture.saliency)
    bare = prepared.explain(embedding)
    assert bare.notes == prepared.explain(StoredReference(embedding)).notes
    assert "not known" in bare.notes[0]
    assert [a.score for a in bare.attributes] == [a.confidence for a in bare.attributes]


def test_wrong_confidences_are_told(demo: Explainer, tiny_bundle: Path, golden: dict[str, np.ndarray]) -> None:
    embedding, count = demo.embed([COUPLE[1]])[0], len(demo.confidences([COUPLE[1]])[0])
    for wrong, message in (
        (np.zeros(count - 1), f"{count} numbers.*got shape"),
        (np.full(count, 1.5), "number 0 of them is 1.5"),
        (np.full(count, np.nan), "is nan"),
        ("none", "got str"),
    ):
        with pytest.raises(OptionError, match=message):
            demo.explain(COUPLE[0], StoredReference(embedding, wrong), Rise(masks=4))
    plain = Explainer(tiny_bundle)
    vector = plain.embed([golden["query"]])[0]
    with pytest.raises(OptionError, match="no attributes: leave them out"):
        plain.explain(golden["query"], StoredReference(vector, [0.5]), Rise(masks=4))
    with pytest.raises(OptionError, match="export attributes"):
        plain.confidences([golden["query"]])
    with pytest.raises(OptionError, match="ranking must be one of joint, sane, got 'best'"):
        demo.explain(*COUPLE, Rise(masks=4), ranking="best")


def test_the_fitted_parameters_are_used_and_kept(demo_with: Callable[..., Path], demo: Explainer, tmp_path: Path) -> None:
    fitted = Explainer(demo_with(joint=JOINT, threshold=0.4)).explain(*COUPLE, Rise(masks=16))
    assert fitted.joint == JOINT
    ours, theirs = demo.confidences(COUPLE)
    scores = joint_probability(ours, theirs, JOINT)
    assert [a.score for a in fitted.attributes] == sorted(scores[scores >= 0.4], reverse=True)
    fitted.save(tmp_path / "e.npz")
    assert type(fitted).load(tmp_path / "e.npz").to_dict() == fitted.to_dict()
    with pytest.raises(OptionError, match="joint must be three finite"):
        dataclasses.replace(table_of(2), joint=(1.0, math.inf, 0.0))
