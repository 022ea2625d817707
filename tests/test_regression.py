"""The regression estimator: balanced masks, closed-form covariance, a linear operator, and errors that tell the truth."""

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import OptionError, Rise
from engine.methods.rise import RisePlan, draw_balanced
from engine.saliency.geometry import TILES, Geometry
from engine.saliency.operator import GROUPS, MaskRows, Operator, groups
from engine.saliency.regression import Estimate, Regression, differences
from kernels.areas import areas

SIZE = (48, 40)


def tiles(plan: RisePlan) -> np.ndarray:
    return plan.renderer(*SIZE).tiles(TILES)


def design(means: np.ndarray) -> np.ndarray:
    """Of the first mask of every pair, less 1/2."""
    return means[: len(means) // 2 * 2 : 2] - 0.5


@given(grid=st.integers(1, 16), count=st.integers(1, 300), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=25)
def test_masks_come_with_their_complements_and_fewer_are_the_first_of_more(grid: int, count: int, seed: int) -> None:
    options = Rise(grid=grid, seed=seed)
    plan, more = draw_balanced(options, count, *SIZE), draw_balanced(options, count + 77, *SIZE)
    pairs = count // 2
    np.testing.assert_array_equal(plan.grids[1 : 2 * pairs : 2], ~plan.grids[: 2 * pairs : 2])
    np.testing.assert_array_equal(plan.shifts[1 : 2 * pairs : 2], plan.shifts[: 2 * pairs : 2])
    np.testing.assert_array_equal(plan.grids, more.grids[:count])
    np.testing.assert_array_equal(plan.shifts, more.shifts[:count])
    plan.renderer(*SIZE)  # the shifts lie within the cells


def test_a_block_shows_any_two_cells_in_all_four_ways_equally_often() -> None:
    for grid in (5, 8):
        cells = draw_balanced(Rise(grid=grid, seed=3), 128, *SIZE).grids.reshape(128, -1)
        assert (cells.sum(0) == 64).all()
        together = cells.T.astype(int) @ cells
        assert (together[~np.eye(len(together), dtype=bool)] == 32).all()


def test_balanced_masks_are_the_same_for_ever_and_spread_evenly() -> None:
    plan = draw_balanced(Rise(seed=42), 256, 112, 112)
    digest = hashlib.sha256(np.packbits(plan.grids).tobytes() + plan.shifts.astype("<i4").tobytes()).hexdigest()
    assert digest[:16] == "bf6287de6d889077"
    many = draw_balanced(Rise(seed=0), 12800, 112, 80)
    counts = np.bincount(many.shifts[:, 0], minlength=14), np.bincount(many.shifts[:, 1], minlength=10)
    for count in counts:
        assert abs(count / count.mean() - 1).max() < 0.2
    blocks = many.grids.reshape(100, 128, 64)
    assert len(np.unique(np.packbits(blocks, axis=-1).reshape(100, -1), axis=0)) == 100
    assert abs(blocks[:, 0].mean(0) - 0.5).max() < 0.25  # no cell is tied to a place in the block


def test_the_population_covariance_is_that_of_rendered_masks() -> None:
    options = Rise(estimator="sane", masks=20000, seed=5)
    renderer = options.plan(np.empty((*SIZE, 3))).renderer(*SIZE)
    masks = np.empty((20000, *SIZE), np.float32)
    renderer.masks(0, 20000, masks)
    means = renderer.tiles(TILES)
    geometry = Geometry.of(*SIZE, 8)
    some = [3, 100, 250]
    sampled = np.einsum("nhw,nt->thw", masks - masks.mean(0), means[:, some] - 0.5) / len(masks)
    closed = geometry.maps(np.eye(TILES**2)[some]) / 2  # maps divide by E[m] = 1/2
    assert np.corrcoef(sampled.ravel(), closed.ravel())[0, 1] > 0.99
    assert (sampled * closed).sum() / np.square(closed).sum() == pytest.approx(1, abs=0.02)
    coarse = geometry.maps(np.eye(TILES**2)[some])
    averaged = areas(SIZE[0], TILES) @ coarse @ areas(SIZE[1], TILES).T
    np.testing.assert_allclose(geometry.tiles(np.eye(TILES**2)[some]), averaged.reshape(3, -1), atol=1e-7)


def test_left_out_groups_are_those_of_fits_without_them() -> None:
    """With fewer tiles than pairs the penalty matrix can be read off the operator, and the fits done anew."""
    random = np.random.default_rng(0)
    rows, z = random.normal(size=(50, 6)), random.normal(size=(50, 3))
    operator = Operator.fitted(MaskRows.of(rows), z)
    penalty = np.linalg.inv(operator.gain.T @ np.linalg.inv(operator.rows.compressed.T)) - rows.T @ rows
    assert np.linalg.eigvalsh((penalty + penalty.T) / 2).min() > 0
    whole = operator.coefficients(z)
    for group, lost in zip(groups(50), operator.left_out(z - rows @ whole), strict=True):
        kept = np.delete(np.arange(50), group[group < 50])
        without = np.linalg.solve(rows[kept].T @ rows[kept] + penalty, rows[kept].T @ z[kept])
        np.testing.assert_allclose(whole - lost.T, without, atol=1e-9)


def test_groups_cover_every_pair_once() -> None:
    for pairs in (1, 15, 16, 17, 128, 500):
        found = groups(pairs)
        np.testing.assert_array_equal(found[found < pairs], np.arange(pairs))
        assert len(found) == min(pairs, GROUPS)
        lengths = (found < pairs).sum(1)
        assert lengths.max() - lengths.min() <= 1
        assert found.max() <= pairs


@dataclasses.dataclass(frozen=True)
class Planted:
    """F = 40 smooth functions of the tiles plus interactions of three of them.

    operator: fitted to the masks; scores: (N, F) of the masks; limits: (F, T*T), tile means of the maps by infinitely many
    """

    operator: Operator
    scores: np.ndarray
    limits: np.ndarray

    def regression(self, shift: float = 0.0) -> Regression:
        """Return the maps' regression, with `shift` added to every score."""
        return Regression(self.operator, Geometry.of(*SIZE, 8), differences(self.scores + shift))


def tile_means(estimates: list[Estimate]) -> np.ndarray:
    """Return the maps' means over the tiles: (R, T*T)."""
    maps = np.stack([e.saliency for e in estimates])
    return (areas(SIZE[0], TILES) @ maps @ areas(SIZE[1], TILES).T).reshape(len(maps), -1)


def planted(seed: int, masks: int, noise: float) -> Planted:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:TILES, :TILES] / TILES
    centres, widths = random.uniform(0.1, 0.9, (2, 40)), random.uniform(0.05, 0.2, 40)
    slopes = np.stack(
        [np.exp(-((y - a) ** 2 + (x - b) ** 2) / w**2).ravel() for a, b, w in zip(*centres, widths, strict=True)]
    ) * random.choice([-1, 1], (40, 1))
    slopes /= np.sqrt(np.square(slopes).sum(1, keepdims=True))
    plan = draw_balanced(Rise(seed=seed), masks, *SIZE)
    means = tiles(plan) - 0.5
    triple = random.integers(0, TILES**2, (40, 3))
    interactions = means[:, triple[:, 0]] * means[:, triple[:, 1]] * means[:, triple[:, 2]] * 20
    scores = means @ slopes.T + interactions + noise * random.normal(size=(masks, 40))
    operator = Operator.fitted(MaskRows.of(design(means + 0.5)), differences(scores))
    population = tiles(draw_balanced(Rise(seed=seed + 10**6), 12800, *SIZE)) - 0.5
    triples = population[:, triple[:, 0]] * population[:, triple[:, 1]] * population[:, triple[:, 2]] * 20
    limits = 2 * (population.T @ (population @ slopes.T + triples) / len(population)).T  # Cov / E[m]
    return Planted(operator, scores, limits)


def test_nine_intervals_in_ten_cover_the_truth() -> None:
    shares = []
    for seed in range(3):
        for masks, noise in ((256, 0.5), (512, 0.5), (512, 1.5)):
            truth = planted(seed, masks, noise)
            estimates = truth.regression().estimates(np.eye(40))
            error = np.stack([e.error.ravel() for e in estimates])
            shares.append(np.mean(np.abs(tile_means(estimates) - truth.limits) <= 1.645 * error))
    assert 0.80 < np.mean(shares) < 0.97
    assert min(shares) > 0.75


def test_reliability_is_the_correlation_with_the_limit() -> None:
    told, true = [], []
    for noise in (0.1, 0.5, 1.5):
        truth = planted(7, 256, noise)
        regression = truth.regression()
        got = tile_means(regression.estimates(np.eye(40)))
        true.append(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(got, truth.limits, strict=True)]))
        told.append(regression.convergence(np.eye(40), np.ones(40), 2000)[0].mean())
    np.testing.assert_allclose(told, true, atol=0.06)
    assert true[0] > 0.94
    assert true[2] < 0.9


def test_the_bias_vanishes_below_the_standard_error() -> None:
    for masks, most in ((256, 0.5), (8192, 0.25)):
        truth = planted(1, masks, noise=1.0)
        estimates, limits = truth.regression().estimates(np.eye(40)), truth.limits
        got = tile_means(estimates)
        # the mean over functions of the amplitude along each one's own limit: noise averages out of it, bias does not
        slope = ((got * limits).sum(1) / np.square(limits).sum(1)).mean()
        error = np.stack([e.error.ravel() for e in estimates])
        relative = np.sqrt(np.square(error).sum(1) / np.square(limits).sum(1)).mean()
        assert abs(slope - 1) < most * relative


def test_maps_are_linear_in_the_scores() -> None:
    truth = planted(2, 256, noise=0.3)
    a, b = np.random.default_rng(3).normal(size=(2, 40))
    one, other, sum_ = truth.regression().estimates(np.stack([a, b, 2 * a - 3 * b]))
    np.testing.assert_allclose(sum_.saliency, 2 * one.saliency - 3 * other.saliency, atol=1e-5)
    shifted = truth.regression(shift=5.0).estimates(a[None])[0]
    np.testing.assert_allclose(shifted.saliency, one.saliency, atol=1e-6)


def test_few_masks_tell_no_error_and_constant_scores_no_map() -> None:
    few = draw_balanced(Rise(), 30, *SIZE)
    z = np.random.default_rng(0).normal(size=(15, 4))
    estimate = Regression(Operator.fitted(MaskRows.of(design(tiles(few))), z), Geometry.of(*SIZE, 8), z).estimates(
        np.eye(4)
    )[0]
    assert estimate.saliency.shape == SIZE
    assert estimate.error is None
    assert estimate.reliability is None
    plan = draw_balanced(Rise(), 64, *SIZE)
    operator = Operator.fitted(MaskRows.of(design(tiles(plan))), np.zeros((32, 4)))
    flat = Regression(operator, Geometry.of(*SIZE, 8), np.zeros((32, 4)))
    estimate = flat.estimates(np.eye(4))[0]
    assert not estimate.saliency.any()
    assert not estimate.error.any()
    assert estimate.reliability == 0


@pytest.mark.parametrize("fields", [{"p": 0.4}, {"grid": 17}, {"masks": 1}, {"masks": "many"}, {"estimator": "ridge"}])
def test_what_the_regression_cannot_do_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        Rise(**fields)  # type: ignore[arg-type]
    if "estimator" not in fields and fields.get("masks") != "many":
        assert Rise(**fields, estimator="sane").estimator == "sane"  # type: ignore[arg-type]
