"""Links: which regions match, what is not drawn, and mode pair, which has them."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import CAT, COUPLE, count_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import Explainer, Explanation, LearnedMask, Lime, OptionError, Rise, Window
from engine.render.texts import links_text
from engine.saliency.links import LEAST_AGREEMENT, MOST_LINKS, Effects, Link, find_links

SIDE, COLUMNS, PIXELS = 8, 400, (64, 64)
METHODS = (Rise(masks=128), Rise(), Window(), Lime(samples=100), LearnedMask(iterations=2))


def effects(seed: int, tiles: dict[int, np.ndarray], noise: float = 0.02, strength: float = 1.0) -> Effects:
    """Effects of an 8 x 8 grid: noise, and directions planted in some tiles."""
    random = np.random.default_rng(seed)
    planted = np.zeros((SIDE**2, COLUMNS))
    for tile, direction in tiles.items():
        planted[tile] = strength * direction
    parts = [planted + noise * random.standard_normal(planted.shape) / np.sqrt(2 - (i == 0)) for i in range(3)]
    return Effects(parts, planted.sum(0), np.zeros(COLUMNS))


def directions(count: int) -> np.ndarray:
    return np.eye(COLUMNS)[:count]


def test_planted_regions_are_linked_the_strongest_first() -> None:
    d = directions(2)
    query = effects(0, {9: 1.3 * d[0], 50: d[1]})
    reference = effects(1, {14: 1.3 * d[0], 33: d[1]})
    first, second = find_links([query], [reference], PIXELS)
    assert (first.query_box, first.reference_box) == ((8, 8, 16, 16), (48, 8, 56, 16))
    assert (second.query_box, second.reference_box) == ((16, 48, 24, 56), (8, 32, 16, 40))
    assert first.strength > 1.5 * second.strength > 0
    assert 0.9 < second.reliability <= 1


def test_weak_links_beside_a_strong_one_are_left_out() -> None:
    d = directions(2)
    query, reference = effects(0, {9: 2 * d[0], 50: d[1]}), effects(1, {14: 2 * d[0], 33: 0.5 * d[1]})
    assert len(find_links([query], [reference], PIXELS)) == 1


def test_neighbours_that_match_as_one_are_one_region() -> None:
    d = directions(1)[0]
    query = effects(0, {9: d, 10: d, 17: d, 18: d})
    reference = effects(1, {36: d})
    (link,) = find_links([query], [reference], PIXELS)
    assert link.query_box == (8, 8, 24, 24)
    assert link.reference_box == (32, 32, 40, 40)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_noise_has_no_links(seed: int) -> None:
    assert find_links([effects(seed, {})], [effects(seed + 1, {})], PIXELS) == ()


def test_large_effects_that_share_little_are_no_link() -> None:
    d = directions(2)
    for cosine, links in ((LEAST_AGREEMENT + 0.1, 1), (LEAST_AGREEMENT - 0.1, 0)):
        other = cosine * d[0] + np.sqrt(1 - cosine**2) * d[1]
        query, reference = effects(0, {9: d[0]}), effects(1, {14: other})
        assert len(find_links([query], [reference], PIXELS)) == links


def test_pictures_that_do_not_match_have_no_links() -> None:
    d = directions(1)[0]
    query, reference = effects(0, {9: d}), effects(1, {14: d})
    assert len(find_links([query], [reference], PIXELS)) == 1
    apart = Effects(reference.tiles, -reference.whole, reference.masked)
    assert find_links([query], [apart], PIXELS) == ()


def test_what_only_one_half_of_the_masks_says_is_no_link() -> None:
    d = directions(1)[0]
    query, reference = effects(0, {9: d}), effects(1, {14: d})
    parts = [query.tiles[0], query.tiles[1], -query.tiles[2]]
    assert find_links([Effects(parts, query.whole, query.masked)], [reference], PIXELS) == ()


def test_without_halves_nothing_is_linked() -> None:
    d = directions(1)[0]
    query, reference = effects(0, {9: d}), effects(1, {14: d})
    alone = Effects(query.tiles[:1], query.whole, query.masked)
    assert find_links([alone], [reference], PIXELS) == ()


def test_finer_tiles_are_taken_only_where_their_halves_agree() -> None:
    d = directions(1)[0]
    coarse = [effects(s, {9: d}) for s in (0, 1)]
    random = np.random.default_rng(5)
    noisy = [Effects([random.standard_normal((256, COLUMNS)) for _ in range(3)], c.whole, c.masked) for c in coarse]
    (link,) = find_links([noisy[0], coarse[0]], [noisy[1], coarse[1]], PIXELS)
    assert link.query_box == (8, 8, 16, 16)
    fine = [Effects([np.repeat(t, 4, 0) for t in c.tiles], c.whole, c.masked) for c in coarse]
    found = find_links([fine[0], coarse[0]], [fine[1], coarse[1]], PIXELS)
    assert 1 <= len(found) <= MOST_LINKS
    assert found[0].query_box[2] - found[0].query_box[0] <= 12


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.name} {getattr(m, 'masks', '')}")
def test_pair_equals_two_explanations_of_mode_fixed(method: Rise | Window | Lime | LearnedMask) -> None:
    explainer = Explainer()
    pair = explainer.explain(*CAT, method, mode="pair")
    there, back = explainer.explain(*CAT, method), explainer.explain(*CAT[::-1], method)
    assert pair.reference_saliency is not None
    np.testing.assert_allclose(pair.saliency, there.saliency, rtol=0, atol=1e-6)
    np.testing.assert_allclose(pair.reference_saliency, back.saliency, rtol=0, atol=1e-6)
    assert pair.similarity == pytest.approx(there.similarity, abs=1e-6)
    assert (pair.mode, pair.attributes == () or pair.attributes[0].name) == ("pair", there.attributes[0].name)
    if isinstance(method, Rise):
        assert pair.reference_saliency_reliability == pytest.approx(back.saliency_reliability, abs=1e-6)
        assert pair.passes == there.passes + back.passes - 2
        assert pair.correspondence is not None
    else:
        assert pair.links == ()


def test_pair_runs_n_and_k_and_two_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = Explainer()
    rows = count_rows(monkeypatch)
    pair = explainer.explain(*CAT, Rise(masks=64), mode="pair")
    assert sum(rows) - 2 == pair.passes == 64 + 64 + 2  # 2: the attribute network, once a picture


def test_links_are_kept_in_files_and_told_as_numbers(tmp_path: object) -> None:
    pair = Explainer().explain(*CAT, mode="pair")
    assert pair.links
    assert [link.strength for link in pair.links] == sorted((link.strength for link in pair.links), reverse=True)
    pair.save(f"{tmp_path}/pair.npz")
    assert Explanation.load(f"{tmp_path}/pair.npz").links == pair.links
    told = pair.to_dict()["links"][0]
    assert told["query_box"] == list(pair.links[0].query_box)
    assert isinstance(pair.links[0], Link)


def test_a_file_without_links_does_not_say_that_none_matches(tmp_path: Path) -> None:
    pair = Explainer().explain(*CAT, Rise(masks=64), mode="pair")
    pair.save(tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as data:
        arrays = dict(data)
    fields = json.loads(str(arrays.pop("fields")))
    del fields["links"]
    np.savez(tmp_path / "old.npz", fields=np.array(json.dumps(fields)), **arrays)
    old = Explanation.load(tmp_path / "old.npz")
    assert old.links is None
    assert "explain the pair again" in str(links_text(old))
    old.save(tmp_path / "old.png")


def test_unlike_emoji_have_no_links() -> None:
    assert Explainer().explain(CAT[0], COUPLE[1], mode="pair").links == ()


def test_a_prepared_reference_is_explained_in_both_ways() -> None:
    explainer = Explainer()
    query, reference = (explainer.prepare(picture, Rise(masks=64)) for picture in CAT)
    assert query.explain(reference).mode == "both"
    assert query.explain(reference, mode="pair").mode == "pair"
    with pytest.raises(OptionError, match="mode pair or both, got 'fixed'"):
        query.explain(reference, mode="fixed")


def test_a_reference_of_another_bundle_is_seen_by_the_attributes_of_the_querys(tmp_path: object) -> None:
    explainer, other = Explainer(), Explainer()
    query, reference = (e.prepare(picture, Rise(masks=64)) for e, picture in ((explainer, CAT[0]), (other, CAT[1])))
    same = explainer.prepare(CAT[1], Rise(masks=64))
    object.__setattr__(reference, "activations", None)
    names = [[(a.name, a.score) for a in query.explain(r).attributes] for r in (reference, same)]
    assert names[0] == names[1] != []
