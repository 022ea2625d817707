"""What decides at the very border of a rule: when passes end, which pixels a box shows, which words a map gets."""

import math

import numpy as np
import pytest

from engine import OptionError, Rise, Tokens, Window
from engine.methods.rise import draw_balanced
from engine.saliency.correspondence import split_half_reliability
from engine.saliency.designs import RiseDesign, kept_rows
from engine.saliency.geometry import TILES, Geometry
from engine.saliency.originals import map_on_original, seen_part
from engine.saliency.similarity import query_features, reference_features
from engine.saliency.steadiness import FAINT, FLAT_MAP, NOTHING_STANDS_OUT, steadiness
from engine.saliency.stopping import AUTO, Budget, Convergence
from engine.saliency.tile_means import tile_means


def test_passes_go_on_by_what_is_missing() -> None:
    budget = Budget(tolerance=0.9)
    assert budget.goal(0, None, 2000) == 256
    assert budget.goal(300, None, 2000) == 301
    assert budget.goal(0, None, 100) == 100
    # noise is (1 - r^2) of the variance and falls as 1 / masks; goals are multiples of 128, at least 128 more
    needed = 256 * (1 - 0.7**2) / (1 - 0.9**2)
    assert 5 * 128 < needed < 6 * 128
    assert budget.goal(256, Convergence(0.7, 0.0), 2000) == 5 * 128
    assert budget.goal(256, Convergence(0.89, 0.0), 2000) == 256 + 128
    assert budget.goal(256, Convergence(0.0, 0.0), 1000) == 896
    assert budget.goal(1000, Convergence(0.899, 0.0), 1010) == 1010
    assert budget.goal(256, Convergence(0.9, 1.0), 2000) is None
    assert budget.goal(256, Convergence(math.nextafter(0.9, 0), 0.0), 2000) == 384
    assert budget.goal(2000, Convergence(0.1, 0.0), 2000) is None
    assert Budget(tolerance=1.0).goal(256, Convergence(0.5, 0.0), 4000) == 31 * 128
    published = Budget(as_published=True)
    assert published.goal(256, Convergence(0.8, 0.8), 2000) is None
    assert published.goal(256, Convergence(0.7, 0.9), 2000) == 5 * 128
    assert published.goal(256, Convergence(0.8, 0.9, 0.1), 2000) == 5 * 128
    assert published.goal(256, Convergence(0.8, 0.8, 0.1), 2000) is not None
    assert published.goal(256, Convergence(0.9, 0.8, 0.1), 900) is None
    assert Budget(0.9).goal(256, Convergence(0.9, 0.8, 0.1), 2000) is None
    assert Budget().goal(10, None, 2000) == 2000
    assert Budget().goal(2000, None, 2000) is None
    assert Budget(tolerance=1.0).goal(1280, Convergence(1 - 2e-9, 0.0), 12800) == 4 * 1280
    """Below 1e-9 of missing correlation, the wish counts as 1e-9: or a tolerance of 1 could not be divided by."""
    assert Budget(0.9, step=64).goal(192, Convergence(0.1, 0.0), 1024) == 256
    assert Budget(0.9, step=64).goal(192, Convergence(0.9, 0.0), 1024) is None
    assert Budget(0.9, step=64).goal(1000, Convergence(0.1, 0.0), 1024) == 1024


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> float:
    """What the clock of budgets says: it stands still."""
    monkeypatch.setattr("engine.saliency.stopping.time.perf_counter", lambda: 1000.0)
    return 1000.0


def test_a_budget_is_for_the_options_that_can_end_early(clock: float) -> None:
    auto, fixed, sane = Rise(), Rise(masks=64), Rise(masks=64, estimator="sane")
    assert Budget.of(auto, True, None, None) == Budget(None, None, True)
    assert Budget.of(auto, False, None, None) == Budget(None, None, False)
    assert Budget.of(auto, True, 0.9, None) == Budget(0.9, None, False)
    assert Budget.of(fixed, True, None, None) == Budget()
    assert Budget.of(fixed, True, 1, None) == Budget(1)
    assert Budget.of(Tokens(), True, None, None) == Budget(0.97, first_look=192, step=64)
    budget = Budget.of(auto, True, None, 100)
    assert budget.as_published
    assert budget.until == clock + 100
    for tolerance in (True, "0.9", 0, -0.5, 1.1, math.nan):
        with pytest.raises(OptionError, match="above 0 and at most 1"):
            Budget.of(auto, True, tolerance, None)  # type: ignore[arg-type]
    for options, drawn in ((sane, True), (fixed, False), (Window(), True)):
        with pytest.raises(OptionError, match="needs estimator 'regression'"):
            Budget.of(options, drawn, 0.9, None)
    for deadline in (True, "1", 0, -1, math.inf, math.nan):
        with pytest.raises(OptionError, match="seconds above 0"):
            Budget.of(auto, True, None, deadline)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="does not apply to method window"):
        Budget.of(Window(), True, None, 1)


def test_pictures_share_the_time_that_is_left(clock: float) -> None:
    assert Budget(0.9).share(4) == Budget(0.9)
    assert Budget(0.9, clock + 100).share(4).until == clock + 25
    assert Budget(0.9, clock + 100, True).share(2).as_published
    assert Budget(0.9, 7.0).first_check() == Budget(0.0, 7.0)
    assert Budget(None, 7.0, True).first_check() == Budget(0.0, 7.0, True)
    assert Budget(None, 7.0).first_check() == Budget(None, 7.0)
    assert [b.checks for b in (Budget(), Budget(0.0), Budget(0.9), Budget(as_published=True))] == [False, True, True, True]


def on_original(saliency: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """`map_on_original`, pixel by pixel."""
    found = np.full(size[::-1], np.nan)
    rows, columns = saliency.shape
    for y, x in np.ndindex(*found.shape):
        if not (box[0] <= x + 0.5 < box[2] and box[1] <= y + 0.5 < box[3]):
            continue
        v = min(max((y + 0.5 - box[1]) * rows / (box[3] - box[1]) - 0.5, 0), rows - 1)
        u = min(max((x + 0.5 - box[0]) * columns / (box[2] - box[0]) - 0.5, 0), columns - 1)
        for i, j in np.ndindex(rows, columns):
            weight = max(0.0, 1 - abs(v - i)) * max(0.0, 1 - abs(u - j))
            found[y, x] = np.nan_to_num(found[y, x]) + weight * saliency[i, j]
    return found


@pytest.mark.parametrize("seed", range(12))
def test_a_map_on_the_original_is_bilinear_within_the_box(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = int(random.integers(5, 20)), int(random.integers(5, 20))
    left, top = random.uniform(-4, 3, 2)
    right, bottom = left + random.uniform(3, 18), top + random.uniform(3, 18)
    saliency = random.normal(size=random.integers(1, 9, 2)).astype(np.float32)
    got = map_on_original(saliency, (left, top, right, bottom), size)
    assert (got.shape, got.dtype) == (size[::-1], np.float32)
    np.testing.assert_allclose(got, on_original(saliency, (left, top, right, bottom), size), rtol=1e-5, atol=1e-5)


def test_a_box_shows_the_pixels_whose_centres_are_in_it() -> None:
    assert seen_part((0.5, 0.51, 2.5, 2.51), (9, 9)) == (0, 1, 2, 3)
    assert seen_part((-9, -9, 99, 99), (5, 7)) == (0, 0, 5, 7)
    assert seen_part((2.6, 3.6, 3.4, 4.4), (9, 9)) == (2, 3, 4, 5) or seen_part((2.6, 3.6, 3.4, 4.4), (9, 9)) == (3, 4, 4, 5)
    assert seen_part((8.6, 8.6, 20, 20), (9, 9)) == (8, 8, 9, 9)
    assert seen_part((-20, -20, 0.2, 0.2), (9, 9)) == (0, 0, 1, 1)


def test_words_about_a_map_begin_at_their_borders() -> None:
    map_, error = np.ones((16, 16), np.float32), np.full((16, 16), 0.25, np.float32)
    assert steadiness(map_, error, 0.95) == "steady (0.95)"
    assert steadiness(map_, error, 0.949) == "fairly steady (0.95)"
    assert steadiness(map_, error, 0.85) == "fairly steady (0.85)"
    assert str(steadiness(map_, error, 0.849)).startswith("rough")
    assert steadiness(map_, 1.001 * error, 0.95) == NOTHING_STANDS_OUT
    assert steadiness(-map_, error, 0.95) == "steady (0.95)"
    assert steadiness(0 * map_, 0 * error, 0.95) == FLAT_MAP
    assert steadiness(map_, error, 0.95, partner=2 * map_) == "steady (0.95)"
    assert steadiness(map_, error, 0.95, partner=-2.01 * map_) == f"{FAINT} (0.95)"
    assert steadiness(map_, error, None) is None
    assert steadiness(map_, None, 0.95) is None


def test_small_vectors_have_a_direction_and_no_vector_has_none() -> None:
    vectors = np.array([[3e-9, 4e-9], [0.0, 0.0], [3e-13, 4e-13]])
    for features in (query_features, reference_features):
        np.testing.assert_allclose(features(vectors, "cosine", None), [[0.6, 0.8], [0, 0], [0.3, 0.4]])


def test_rows_of_masks_are_kept_for_what_the_rule_looks_at() -> None:
    kept_rows.cache_clear()
    for masks, kept in ((AUTO[1], 1), (AUTO[1] + 2, 1)):
        plan = draw_balanced(Rise(seed=3), masks, 28, 28)
        design = RiseDesign(plan.grids, plan.shifts, (28, 28))
        rows = design.rows()
        assert kept_rows.cache_info().currsize == kept
        assert (design.rows() is rows) == (masks <= AUTO[1])
        np.testing.assert_allclose(rows.basis @ rows.compressed @ rows.compressed.T, design.matrix() @ rows.compressed.T)


def test_a_map_is_made_of_as_many_coefficients_as_there_are_parts() -> None:
    assert Geometry.of(28, 32, 8).parts == TILES**2
    assert Geometry.of_tokens(28, 32, 8, (5, 4)).parts == 20


def test_halves_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="shorter"):
        split_half_reliability([np.eye(2)] * 2, [np.eye(2)])


def test_means_over_tiles_are_of_equal_parts_of_the_map() -> None:
    saliency = np.random.default_rng(0).normal(size=(32, 48))
    np.testing.assert_allclose(tile_means(saliency), saliency.reshape(16, 2, 16, 3).mean((1, 3)))
