"""Links once more, written out with loops from docs/method.md (Links), and what decides at the borders of their rules."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from engine.saliency.correspondence import correlation_of_centred, correspondence, split_half_reliability, tile_features
from engine.saliency.links import Effects, Link, _region, find_links

SEEDS, SIZE = 60, (60, 96)


def centred(c: np.ndarray) -> np.ndarray:
    rows, columns = c.shape
    means = [sum(c[i]) / columns for i in range(rows)], [sum(c[:, j]) / rows for j in range(columns)]
    whole = sum(means[0]) / rows
    return np.array([[c[i, j] - means[0][i] - means[1][j] + whole for j in range(columns)] for i in range(rows)])


def chance(effects: np.ndarray, side: int) -> float:
    """The root mean square cosine of tiles a third of the picture apart, each pair weighted by its size."""
    above = below = 0.0
    for a in range(side * side):
        for b in range(side * side):
            if max(abs(a // side - b // side), abs(a % side - b % side)) >= side / 3:
                above += (effects[a] @ effects[b]) ** 2
                below += (effects[a] @ effects[a]) * (effects[b] @ effects[b])
    return math.sqrt(above / below) if below > 0 else 1.0


def agreeing(query: Effects, reference: Effects, strength: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    shared = [
        k
        for k in range(len(query.whole))
        if all(
            np.ptp(e.tiles[0][:, k]) > 1e-9 * max(np.ptp(e.tiles[0][:, c]) for c in range(len(query.whole)))
            for e in (query, reference)
        )
    ]
    shown = [(e.whole - e.masked)[shared] for e in (query, reference)]
    gain = query.whole @ reference.whole - query.masked @ reference.masked
    allowed = np.zeros(strength.shape, bool)
    if gain < -0.1 * math.sqrt((shown[0] @ shown[0]) * (shown[1] @ shown[1])):
        return allowed
    q, r = ([tile[shared] - e.tiles[0].mean(0)[shared] for tile in e.tiles[0]] for e in (query, reference))
    least = max(0.35, 2 * math.sqrt(chance(np.array(q), sides[0]) * chance(np.array(r), sides[1])))
    for i, j in np.ndindex(*strength.shape):
        norm = math.sqrt((q[i] @ q[i]) * (r[j] @ r[j]))
        allowed[i, j] = norm > 0 and strength[i, j] >= least * norm
    return allowed


def region(grid: dict[tuple[int, int], float], peak: tuple[int, int], side: int) -> set[tuple[int, int]]:
    """grid: the entries of the tiles that are free."""
    least, (row, column) = 0.85 * grid[peak], peak
    rows = [row] + [row + step for step in (-1, 1) if grid.get((row + step, column), -math.inf) >= least]
    columns = [column]
    for step in (-1, 1):
        free = all((r, column + step) in grid for r in rows)
        if free and grid[row, column + step] >= least:
            columns.append(column + step)
    return {(r, c) for r in rows for c in columns}


def box(tiles: set[tuple[int, int]], side: int, size: tuple[int, int]) -> tuple[float, ...]:
    tall, wide = size[0] / side, size[1] / side
    rows, columns = [r for r, _ in tiles], [c for _, c in tiles]
    return min(columns) * wide, min(rows) * tall, (max(columns) + 1) * wide, (max(rows) + 1) * tall


def written_out(query: Effects, reference: Effects, sides: tuple[int, int], size: tuple[int, int]) -> list[Link]:
    strength = centred(query.tiles[0] @ reference.tiles[0].T)
    halves = [centred(query.tiles[a] @ reference.tiles[b].T) for a, b in ((1, 2), (2, 1))]
    differences = [(a - b) ** 2 for a, b in zip(*(h.ravel() for h in halves), strict=True)]
    noise = math.sqrt(sum(differences) / len(differences)) / 2
    allowed = agreeing(query, reference, strength, sides)
    reliability = np.zeros(strength.shape)
    for i, j in np.ndindex(*strength.shape):
        small, large = sorted(h[i, j] for h in halves)
        reliability[i, j] = 2 * small / (small + large) if small > 0 else 0
        clear = strength[i, j] > noise * math.sqrt(2 * math.log(strength.size))
        allowed[i, j] &= clear and reliability[i, j] >= 0.3
    free = [{divmod(t, side) for t in range(side * side)} for side in sides]
    found: list[Link] = []
    while len(found) < 4:
        left = {
            (strength[i, j], i, j)
            for i, j in np.ndindex(*strength.shape)
            if allowed[i, j] and divmod(i, sides[0]) in free[0] and divmod(j, sides[1]) in free[1]
        }
        if not left or max(left)[0] < 0.4 * strength.max():
            break
        best, i, j = max(left)
        own = region({t: strength[t[0] * sides[0] + t[1], j] for t in free[0]}, divmod(i, sides[0]), sides[0])
        other = region({t: strength[i, t[0] * sides[1] + t[1]] for t in free[1]}, divmod(j, sides[1]), sides[1])
        boxes = box(own, sides[0], size), box(other, sides[1], size)
        found.append(Link(*boxes, best, reliability[i, j]))  # type: ignore[arg-type]
        free[0] -= own
        free[1] -= other
    return found


def random_effects(random: np.random.Generator, side: int, planted: np.ndarray, noise: float) -> Effects:
    """Blobs of directions that both pictures have, at places of their own; the last column never changes."""
    tiles = np.zeros((side * side, planted.shape[1]))
    for direction in planted:
        row, column = random.integers(0, side, 2)
        for r, c in np.ndindex(side, side):
            near = random.choice([0.7, 0.9, 1.0]) if max(abs(r - row), abs(c - column)) <= 1 else 0.0
            tiles[r * side + c] += direction * (1.0 if (r, c) == (row, column) else near * random.integers(0, 2))
    parts = [tiles + noise * random.normal(size=tiles.shape) for _ in range(3)]
    for part in parts:
        part[:, -1] = 3.0
    masked = random.normal(size=planted.shape[1])
    return Effects(parts, tiles.sum(0) + random.choice([1, 1, 1, -3]) * masked, masked)


def drawn(seed: int) -> tuple[Effects, Effects, tuple[int, int]]:
    """Return effects of a query and a reference, and the sides of their grids."""
    random = np.random.default_rng(seed)
    sides = int(random.choice([3, 4, 6])), int(random.choice([3, 4, 6]))
    planted = random.normal(size=(random.integers(1, 7), 40)) * random.uniform(0.5, 1.3)
    planted *= random.uniform(0.6, 1.2, (len(planted), 1))
    noise = float(random.choice([0.02, 0.1, 0.3]))
    query, reference = (random_effects(random, side, planted, noise) for side in sides)
    return query, reference, sides


def noisy(seed: int) -> tuple[Effects, Effects, tuple[int, int]]:
    """The same of every size, mostly with so much noise that it decides."""
    random = np.random.default_rng(seed)
    sides = int(random.choice([3, 4, 6])), int(random.choice([3, 4, 6]))
    planted = random.normal(size=(random.integers(1, 5), random.choice([6, 12, 40]))) * random.uniform(0.05, 2)
    noise = float(random.choice([0.2, 0.5, 1.0, 2.0]) * np.abs(planted).mean())
    query, reference = (random_effects(random, side, planted, noise) for side in sides)
    return query, reference, sides


@pytest.mark.parametrize("draw", [drawn, noisy])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_links_are_those_of_the_rules_written_out(
    seed: int, draw: Callable[[int], tuple[Effects, Effects, tuple[int, int]]]
) -> None:
    query, reference, sides = draw(seed)
    got, wanted = find_links([query], [reference], SIZE), written_out(query, reference, sides, SIZE)
    boxes = [(pytest.approx(w.query_box), pytest.approx(w.reference_box)) for w in wanted]
    assert [(g.query_box, g.reference_box) for g in got] == boxes
    for g, w in zip(got, wanted, strict=True):
        assert (g.strength, g.reliability) == (pytest.approx(w.strength), pytest.approx(w.reliability))


def test_those_pairs_have_from_none_to_all_links() -> None:
    """Else the test above would say little."""
    counts = {len(find_links([q], [r], SIZE)) for q, r, _ in map(drawn, range(SEEDS))}
    assert counts == {0, 1, 2, 3, 4}


def test_a_correlation_needs_variation_and_two_halves() -> None:
    random = np.random.default_rng(0)
    some, other = random.normal(size=(2, 6, 9))
    assert correlation_of_centred(some, np.zeros_like(some)) == 0
    assert correlation_of_centred(some, other) == pytest.approx(
        (some * other).sum() / math.sqrt((some * some).sum() * (other * other).sum())
    )
    halves = (
        [random.normal(size=(6, 4)), random.normal(size=(6, 4))],
        [random.normal(size=(9, 4)), random.normal(size=(9, 4))],
    )
    maps = [centred(q @ r.T) for q, r in zip(*halves, strict=True)]
    assert split_half_reliability(*halves) == pytest.approx(np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1], abs=1e-6)
    assert split_half_reliability(halves[0], []) is None
    assert split_half_reliability([], halves[1]) is None
    got = correspondence(halves[0][0], halves[1][0])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, maps[0], rtol=1e-5, atol=1e-6)


def test_the_published_effect_of_a_tile_is_a_sum_over_masks() -> None:
    random = np.random.default_rng(1)
    tiles, features = random.uniform(size=(7, 4)), random.normal(size=(7, 3))
    mean = sum(tiles) / 7
    wanted = sum(np.outer(t - mean, f) for t, f in zip(tiles, features, strict=True))
    np.testing.assert_allclose(tile_features(tiles, features), wanted)


@pytest.mark.parametrize(("gain", "links"), [(-0.05, 1), (-0.2, 0), (-0.9, 0)])
@pytest.mark.parametrize("size", [0.25, 1.0, 4.0])
def test_pictures_that_match_a_little_less_when_shown_may_have_links(gain: float, links: int, size: float) -> None:
    """gain: of showing both, as a share of what showing each does; below -0.1 they do not match. size: of both effects

    What the masked pictures share is no gain.
    """
    direction, other, shared = np.eye(400)[:3] * size
    random = np.random.default_rng(0)
    tiles = np.zeros((64, 400))
    tiles[9] = direction
    parts = [[tiles + 0.02 * size * random.normal(size=tiles.shape) for _ in range(3)] for _ in range(2)]
    query = Effects(parts[0], direction + 3 * shared, 3 * shared)
    shown = gain * direction + math.sqrt(1 - gain**2) * other
    reference = Effects(parts[1], shown + shared, shared)
    assert len(find_links([query], [reference], SIZE)) == links


@pytest.mark.parametrize("seed", range(4))
def test_links_do_not_depend_on_the_scale_of_the_embedding(seed: int) -> None:
    query, reference, _ = drawn(seed)

    def scaled(effects: Effects) -> Effects:
        return Effects([1e-12 * tiles for tiles in effects.tiles], 1e-12 * effects.whole, 1e-12 * effects.masked)

    boxes = [
        [(link.query_box, link.reference_box) for link in find_links([q], [r], SIZE)]
        for q, r in ((query, reference), (scaled(query), scaled(reference)))
    ]
    assert boxes[0] == boxes[1]


def test_a_region_takes_what_is_just_strong_enough() -> None:
    grid = np.array([[0, 17, 0], [17, 20, 17], [0, 17, 0]], float)  # 17 is .85 of 20, exactly
    assert _region(grid.ravel(), 4, 3).all()
    assert _region(np.where(grid == 17, np.nextafter(17.0, 0), grid).ravel(), 4, 3).sum() == 1


def test_the_last_grid_is_taken_if_no_halves_agree_and_none_without_halves() -> None:
    query, reference, _ = drawn(1)
    random = np.random.default_rng(2)
    noisy = [Effects([random.normal(size=(64, 40)) for _ in range(3)], e.whole, e.masked) for e in (query, reference)]
    wanted = find_links([query], [reference], SIZE)
    assert wanted
    assert find_links([noisy[0], query], [noisy[1], reference], SIZE) == wanted
    assert find_links([query, noisy[0]], [reference, noisy[1]], SIZE) == wanted
    assert find_links([noisy[0], query, noisy[0]], [noisy[1], reference, noisy[1]], SIZE) == wanted
    for few in (Effects(query.tiles[:1], query.whole, query.masked), Effects(query.tiles[:2], query.whole, query.masked)):
        assert find_links([few], [reference], SIZE) == ()
        assert find_links([reference], [few], SIZE) == ()
        assert find_links([few, query], [reference, reference], SIZE) == ()
    with pytest.raises(ValueError, match="zip"):
        find_links([noisy[0]], [noisy[1], reference], SIZE)
