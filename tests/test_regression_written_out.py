"""The regression once more, from docs/estimator.md with dense matrices; and the fits that a prepared picture keeps."""

import dataclasses
import itertools

import numpy as np
import pytest

from engine import Rise
from engine.methods.rise import draw_balanced
from engine.saliency.geometry import Geometry
from engine.saliency.map_fits import KnownReferences, MapFits, all_and_halves, published_tile_effects
from engine.saliency.operator import LEAST_EIGENVALUE, MaskRows, Operator
from engine.saliency.regression import Regression, differences
from kernels.areas import areas
from kernels.rise import RiseRenderer, upsampling

SIZE, SIDE = (20, 24), 16
RANDOM = np.random.default_rng(0)


def seen(x: np.ndarray) -> np.ndarray:
    """x (P, T) without the directions that say next to nothing."""
    left, sizes, right = np.linalg.svd(x, full_matrices=False)
    return (left * np.where(sizes**2 > LEAST_EIGENVALUE * sizes[0] ** 2, sizes, 0)) @ right


class Ridge:
    """With prior variances and a penalty, by the formulas."""

    def __init__(self, x: np.ndarray, z: np.ndarray, variances: np.ndarray, penalty: float) -> None:
        self.x, self.z, self.variances, self.penalty = x, z, variances, penalty
        self.inverse = np.linalg.inv(x.T @ x + penalty * np.diag(1 / variances))
        hat = x @ self.inverse @ x.T
        self.left, self.freedom = np.square(z - hat @ z).sum(), len(x) - np.trace(hat)
        self.score = np.log(self.left / self.freedom**2)

    def at(self, penalty: float) -> "Ridge":
        return Ridge(self.x, self.z, self.variances, penalty)

    def updated(self) -> np.ndarray:
        coefficients = self.inverse @ self.x.T @ self.z
        squares = np.square(coefficients).sum(1) + self.left / self.freedom * np.diag(self.inverse)
        return np.maximum(squares / squares.mean(), 0.02)

    def stepped(self) -> float:
        """The penalty after a step of Newton's method in its logarithm, at most tenfold, by finite differences."""
        h = 1e-3
        before, now, after = (self.at(self.penalty * np.exp(d)).score for d in (-h, 0, h))
        slope, curvature = (after - before) / (2 * h), (after - 2 * now + before) / h**2
        step = -slope / curvature if curvature > 0 else -np.sign(slope) * np.inf
        return self.penalty * np.exp(np.clip(step, -np.log(10), np.log(10)))


def fitted(x: np.ndarray, z: np.ndarray) -> Ridge:
    """After two rounds about the tiles' variances."""
    x = seen(x)
    largest = np.linalg.eigvalsh(x.T @ x).max()
    penalties = largest * 10 ** np.linspace(-5, 1, 40)
    equal = min((Ridge(x, z, np.ones(x.shape[1]), p) for p in penalties), key=lambda fit: fit.score)
    first = Ridge(x, z, equal.updated(), equal.penalty)
    return Ridge(x, z, first.updated(), np.clip(1.3 * first.stepped(), penalties[0], penalties[-1]))


@pytest.mark.parametrize(("pairs", "tiles"), [(60, 12), (12, 12), (9, 30)])
def test_the_operator_is_a_ridge_regression_with_fitted_variances(pairs: int, tiles: int) -> None:
    random = np.random.default_rng(pairs)
    x = random.choice([-0.5, 0.5], (pairs, tiles)) * random.uniform(0.5, 1, (pairs, tiles))
    slopes = random.normal(size=(tiles, 3)) * (np.arange(tiles) % 4 == 0)[:, None]
    z = x @ slopes + 0.1 * random.normal(size=(pairs, 3))
    operator = Operator.fitted(MaskRows.of(x), z)
    np.testing.assert_allclose(operator.coefficients(z), fitted(x, z).inverse @ seen(x).T @ z, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(operator.variances, fitted(x, z).variances, rtol=1e-6)
    grouped = sum(array.nbytes for array in operator._without)
    assert operator.nbytes == operator.gain.nbytes + operator.explained.nbytes + 8 * tiles + grouped


def test_scores_of_noise_alone_have_the_largest_penalty() -> None:
    random = np.random.default_rng(8)
    x, z = random.choice([-0.5, 0.5], (200, 6)), random.normal(size=(200, 4))
    z -= x @ np.linalg.lstsq(x, z, rcond=None)[0] * 0.999
    operator = Operator.fitted(MaskRows.of(x), z)
    np.testing.assert_allclose(operator.coefficients(z), fitted(x, z).inverse @ x.T @ z, rtol=1e-4, atol=1e-9)


def test_rows_are_shared_so_that_nobody_may_change_them() -> None:
    rows = MaskRows.of(RANDOM.normal(size=(3, 8)))
    arrays = rows.basis, rows.compressed, rows.values
    assert not any(array.flags.writeable for array in arrays)
    assert rows.nbytes == sum(array.nbytes for array in arrays) == 8 * (3 * 3 + 3 * 8 + 3)
    assert MaskRows.of(np.empty((0, 8))).spread == 0


def test_masks_that_span_little_are_fitted_where_they_span() -> None:
    """The same pair four times tells as much as once, four times as surely; rounding errors are not fitted."""
    x = np.repeat(RANDOM.normal(size=(3, 8)), 4, 0)
    z = np.repeat(RANDOM.normal(size=(3, 2)), 4, 0)
    operator = Operator.fitted(MaskRows.of(x), z)
    assert operator.gain.shape == (3, 8)
    np.testing.assert_allclose(operator.coefficients(z), fitted(x, z).inverse @ x.T @ z, rtol=1e-5, atol=1e-7)


def covariance(length: int, grid: int) -> np.ndarray:
    """(length, T): of a pixel and a tile along one side, times 4 for cells that are shown half the time."""
    ups = upsampling(length, grid).astype(float)
    return sum(up @ up.T @ areas(length, SIDE).T for up in ups) / len(ups)


class WrittenOut:
    """A regression by its formulas. x: (P, 256); z: (P, F)"""

    def __init__(self, x: np.ndarray, inverse: np.ndarray, z: np.ndarray, grid: int) -> None:
        self.x, self.rows, self.columns = x, covariance(SIZE[0], grid), covariance(SIZE[1], grid)
        weights = inverse @ x.T @ z
        again = inverse @ x.T @ (x @ weights)
        first, second = (np.array([self.tiles(w) for w in both.T]) for both in (weights, again))
        self.amplitude = (first * second).sum() / np.square(first).sum()
        self.weights, self.inverse, self.z = weights / self.amplitude, inverse, z
        self.residuals = (z - x @ weights) / self.amplitude

    def map(self, coefficients: np.ndarray) -> np.ndarray:
        return self.rows @ coefficients.reshape(SIDE, SIDE) @ self.columns.T / 4 / (1 / 2)

    def tiles(self, coefficients: np.ndarray) -> np.ndarray:
        return (areas(SIZE[0], SIDE) @ self.map(coefficients) @ areas(SIZE[1], SIDE).T).ravel()

    def errors(self, reference: np.ndarray) -> tuple[np.ndarray, float]:
        """(256,) standard errors and the reliability, from fits without each of 16 groups of pairs."""
        pairs, residuals = len(self.x), self.residuals @ reference
        edges = [int(pairs * g / 16) for g in range(17)]
        replicates = []
        for begin, end in itertools.pairwise(edges):
            part = self.x[begin:end]
            influence = self.inverse @ part.T
            change = influence @ np.linalg.inv(np.eye(len(part)) - part @ influence) @ residuals[begin:end]
            replicates.append(self.tiles(change))
        apart = np.array(replicates) - np.mean(replicates, 0)
        noise = 15 / 16 * apart.var(1).sum()
        signal = self.tiles(self.weights @ reference).var()
        return np.sqrt(15 / 16 * np.square(apart).sum(0)), np.sqrt(max(1 - noise / signal, 0))


@pytest.fixture(scope="module")
def cases() -> list[tuple[Regression, WrittenOut, np.ndarray, Operator]]:
    """With references (R, F), for a clear and a noisy network."""
    made = []
    for noise in (0.05, 2.0):
        plan, random = draw_balanced(Rise(seed=4), 80, *SIZE), np.random.default_rng(7)
        x = RiseRenderer(plan.grids[:80:2], plan.shifts[:80:2], *SIZE).tiles(SIDE) - 0.5
        z = x @ (random.normal(size=(256, 5)) * (np.arange(256) % 16 < 5)[:, None]) + noise * random.normal(size=(40, 5))
        operator = Operator.fitted(MaskRows.of(x), z)
        regression = Regression(operator, Geometry.of(*SIZE, plan.grids.shape[1]), z)
        inverse = operator.gain.T @ operator.rows.basis.T @ np.linalg.pinv(x.T)
        made.append((regression, WrittenOut(x, inverse, z, plan.grids.shape[1]), random.normal(size=(3, 5)), operator))
    return made


def test_maps_errors_and_reliability_are_the_formulas(
    cases: list[tuple[Regression, WrittenOut, np.ndarray, Operator]],
) -> None:
    for regression, twin, references, _ in cases:
        for estimate, reference in zip(regression.estimates(references), references, strict=True):
            np.testing.assert_allclose(estimate.saliency, twin.map(twin.weights @ reference), rtol=1e-4, atol=1e-6)
            error, reliability = twin.errors(reference)
            assert estimate.error is not None
            np.testing.assert_allclose(estimate.error.ravel(), error, rtol=1e-4)
            assert estimate.reliability == pytest.approx(reliability, abs=1e-6)


def test_convergence_is_that_of_the_published_noise(
    cases: list[tuple[Regression, WrittenOut, np.ndarray, Operator]],
) -> None:
    for regression, twin, references, _ in cases:
        variances = np.array([0.5, 0.01, 2.0])
        for extra in (0.0, np.array([0.0, 1e-4, 1e-3])):
            reliability, published = regression.convergence(references, variances, 500, extra)
            for i, reference in enumerate(references):
                expected = twin.errors(reference)[1]
                signal = twin.tiles(twin.weights @ reference).var() * expected**2
                noise = variances[i] * np.mean([row.var() for row in twin.x]) / (500 * 0.25) + np.broadcast_to(extra, 3)[i]
                assert reliability[i] == pytest.approx(expected, abs=1e-6)
                assert published[i] == pytest.approx(np.sqrt(signal / (signal + noise)), rel=1e-5, abs=1e-9)
        centred = references - references.mean(0)
        spread = np.mean([twin.tiles(twin.weights @ r).var() for r in centred])
        assert regression.map_variance(references) == pytest.approx(spread)
        leading = regression.leading(2)
        np.testing.assert_allclose(leading @ leading.T, np.eye(2), atol=1e-9)
        strongest = np.linalg.svd(twin.weights)[2][0]
        assert abs(leading[0] @ strongest) == pytest.approx(1)
        assert regression.nbytes == twin.weights.nbytes + twin.residuals.nbytes


def test_scores_that_do_not_vary_have_no_signal_and_no_reliability() -> None:
    plan = draw_balanced(Rise(), 64, *SIZE)
    x = RiseRenderer(plan.grids[::2], plan.shifts[::2], *SIZE).tiles(SIDE) - 0.5
    flat = Regression(Operator.fitted(MaskRows.of(x), np.zeros((32, 2))), Geometry.of(*SIZE, 8), np.zeros((32, 2)))
    reliability, published = flat.convergence(np.eye(2), np.zeros(2), 2000)
    assert reliability.tolist() == published.tolist() == [0, 0]


def test_differences_are_halves_of_pairs() -> None:
    np.testing.assert_array_equal(differences(np.array([[1.0], [3.0], [8.0], [2.0], [9.0]])), [[-1.0], [3.0]])


GRID = 5


def fits(masks: int, columns: int = 6, rank: int | None = None) -> tuple[MapFits, np.ndarray]:
    """Fits of a made-up network, of whose columns the first 4 are the embedding, and its features (N, columns).

    rank: of the features, None for as many as columns
    """
    plan = draw_balanced(Rise(seed=2, grid=GRID), masks, *SIZE)
    tiles = RiseRenderer(plan.grids, plan.shifts, *SIZE).tiles(SIDE)
    noise = np.random.default_rng(6).normal(size=(masks, columns))
    features = tiles @ np.random.default_rng(5).normal(size=(256, columns)) + noise
    if rank is not None:
        features = features[:, :rank] @ np.random.default_rng(7).normal(size=(rank, columns))

    def under(condition: int | None) -> np.ndarray:
        return features if condition is None else features * (1 + condition)

    return MapFits(plan.design(SIZE), under, 4), features


def test_fits_are_of_the_embedding_and_kept_for_four_conditions() -> None:
    made, features = fits(80)
    plan = draw_balanced(Rise(seed=2, grid=GRID), 80, *SIZE)
    x = RiseRenderer(plan.grids[::2], plan.shifts[::2], *SIZE).tiles(SIDE) - 0.5
    operator = Operator.fitted(MaskRows.of(x), differences(features[:, :4]))
    wanted = Regression(operator, Geometry.of(*SIZE, GRID), differences(features)).estimates(np.eye(6))
    for got, one in zip(made.estimates(np.eye(6), None), wanted, strict=True):
        np.testing.assert_allclose(got.saliency, one.saliency, atol=1e-6)
    kept = [made.regression(c) for c in (None, 1, 2, 3)]
    assert [made.regression(c) for c in (3, 2, 1, None)] == kept[::-1]
    made.regression(4)  # the fifth; 3 is the one that was used longest ago
    assert made.regression(None) is kept[0]
    assert made.regression(3) is not kept[3]
    one = made.regression(None).nbytes
    assert made.nbytes(9) - made.nbytes(1) == 3 * one
    assert made.nbytes(4) - made.nbytes(2) == 2 * one
    halves = [made._design.rows(slice(i, None, 2)) for i in (0, 1)]
    of_halves = sum(8 * (len(half.values) * (256 + len(half.values)) + 256) for half in halves)
    assert made.nbytes(1) == operator.nbytes + of_halves + 2 * made._operator.rows.nbytes + one


def test_twelve_leading_directions_stand_for_references_that_are_not_known() -> None:
    made, _ = fits(80, 16)
    by_count = {n: made.convergence({None: KnownReferences(made.regression(None).leading(n))}) for n in (11, 12, 13)}
    got = made.convergence(None)
    assert [n for n, one in by_count.items() if one == dataclasses.replace(got, behind=0.0)] == [12]


def test_nine_in_ten_directions_must_reach_what_published_maps_would() -> None:
    made, features = fits(80, 16)
    regression = made.regression(None)
    leading = regression.leading(12)
    own, published = regression.convergence(leading, (features @ leading.T).var(0), 2000)
    got = made.convergence(None)
    enough = np.sort(published - own)
    between = 0.9 * 11  # of twelve, the tenth and the eleventh
    wanted = enough[9] + (between - 9) * (enough[10] - enough[9])
    assert got.published + got.behind - got.reliability == pytest.approx(wanted)
    assert got.behind > 0
    assert made.convergence({None: KnownReferences(leading)}).behind == 0


def test_the_mean_of_the_directions_must_reach_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one direction is far behind, nine in ten are less behind than the mean is."""
    own, published = np.full(12, 0.9), np.full(12, 0.89)
    own[3] = 0.1
    monkeypatch.setattr(Regression, "convergence", lambda *_: (own, published))
    assert np.percentile(published - own, 90) < (published - own).mean()
    assert fits(80, 16)[0].convergence(None).behind == 0


@pytest.mark.parametrize(("columns", "rank"), [(16, 5), (300, 5)])
def test_directions_along_which_there_is_but_rounding_are_left_out(columns: int, rank: int) -> None:
    regression = fits(80, columns, rank)[0].regression(None)
    assert len(regression.leading(12)) == rank


@pytest.mark.parametrize("columns", [16, 300], ids=["more tiles than features", "more features than tiles"])
def test_leading_directions_are_those_of_the_largest_maps(columns: int) -> None:
    regression = fits(80, columns)[0].regression(None)
    leading = regression.leading(5)
    wanted = np.linalg.svd(regression.weights)[2][:5]
    np.testing.assert_allclose(abs(leading @ wanted.T), np.eye(5), atol=1e-6)


def test_weights_times_features_are_the_coefficients_of_a_map() -> None:
    regression, references = fits(80)[0].regression(None), np.random.default_rng(0).normal(size=(2, 6))
    maps = regression.geometry.maps(references @ regression.weights.T)
    np.testing.assert_allclose([e.saliency for e in regression.estimates(references)], maps, atol=1e-6)


def test_what_the_fit_shrinks_does_not_depend_on_the_scale() -> None:
    made, features = fits(80)
    operator, z = made._operator, differences(features)
    geometry = Geometry.of(*SIZE, GRID)
    amplitude = Regression(operator, geometry, z).amplitude
    assert 0 < amplitude < 1
    assert Regression(operator, geometry, 1e-6 * z).amplitude == pytest.approx(amplitude)
    assert Regression(operator, geometry, 0 * z).amplitude == 1


def test_errors_need_a_pair_for_each_group() -> None:
    for masks, known in ((32, True), (30, False)):
        (estimate,) = fits(masks)[0].estimates(np.eye(6)[:1], None)
        assert (estimate.error is not None) == known


def test_noise_as_a_quadratic_form_is_that_of_the_errors() -> None:
    regression, random = fits(80)[0].regression(None), np.random.default_rng(0)
    directions = random.normal(size=(3, 6))
    form, constant = regression.noise(directions)
    errors = [np.square(e.error).mean() for e in regression.estimates(directions) if e.error is not None]
    np.testing.assert_allclose(form.diagonal() + constant, errors, rtol=1e-5)
    assert constant.all()  # by leaving masks out, and not by a posterior
    mixed = random.normal(size=3)
    np.testing.assert_allclose(regression.noise(mixed[None] @ directions)[0], mixed @ form @ mixed, rtol=1e-9)


def test_what_geometries_share_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Geometry.of(23, 29, GRID).rows[0, 0] = 1


def test_effects_of_tiles_are_those_of_all_pairs_and_of_each_half() -> None:
    made, features = fits(80)
    plan = draw_balanced(Rise(seed=2, grid=GRID), 80, *SIZE)
    x = RiseRenderer(plan.grids[::2], plan.shifts[::2], *SIZE).tiles(SIDE) - 0.5
    z, geometry = differences(features), Geometry.of(*SIZE, GRID)
    operator = Operator.fitted(MaskRows.of(x), z[:, :4])
    halves = [Operator.fitted(MaskRows.of(x[part]), z[part, :4]) for part in (slice(0, None, 2), slice(1, None, 2))]
    parts = ((operator, z), (halves[0], z[::2]), (halves[1], z[1::2]))
    for side, got in zip((GRID, 3), made.effects_by_side(features, [GRID, 3]), strict=True):
        rows, columns = areas(SIZE[0], side), areas(SIZE[1], side)
        for (one, values), effects in zip(parts, got, strict=True):
            maps = geometry.maps(one.coefficients(values).T)
            np.testing.assert_allclose(effects, (rows @ maps @ columns.T).reshape(6, -1).T, atol=1e-5)
    np.testing.assert_array_equal(made.tile_effects(features)[1], made.effects_by_side(features, [GRID])[0][1])
    few, features = fits(6)
    assert len(few.tile_effects(features)) == 1
    assert [len(all_and_halves(count)) for count in (7, 8)] == [1, 3]


def test_a_last_mask_without_its_complement_is_left_out() -> None:
    odd, even = fits(81)[0], fits(80)[0]
    assert odd.regression(None).nbytes == even.regression(None).nbytes


def test_published_effects_are_of_single_masks() -> None:
    _, features = fits(9)
    plan = draw_balanced(Rise(seed=2, grid=GRID), 9, *SIZE)
    got = published_tile_effects(plan.grids, plan.shifts, SIZE, features)
    tiles = RiseRenderer(plan.grids, plan.shifts, *SIZE).tiles(GRID)
    for part, effects in zip((slice(None), slice(0, None, 2), slice(1, None, 2)), got, strict=True):
        np.testing.assert_allclose(effects, (tiles[part] - tiles[part].mean(0)).T @ features[part])


def test_convergence_is_the_mean_over_references_and_conditions() -> None:
    made, features = fits(80)
    references, masked = RANDOM.normal(size=(2, 6)), [RANDOM.normal(size=(5, 6)), RANDOM.normal(size=(5, 6))]
    regression = made.regression(None)
    variances = (features @ references.T).var(0)
    alone = regression.convergence(references, variances, 2000)
    got = made.convergence({None: KnownReferences(references)})
    assert (got.reliability, got.published) == (pytest.approx(alone[0].mean()), pytest.approx(alone[1].mean()))
    noisier = regression.convergence(
        references, variances, 2000, np.array([regression.map_variance(m) for m in masked]) / 30
    )
    got = made.convergence({None: KnownReferences(references, masked)})
    assert (got.reliability, got.published) == (pytest.approx(alone[0].mean()), pytest.approx(noisier[1].mean()))
    under = made.regression(1).convergence(references[:1], 4 * variances[:1], 2000)
    got = made.convergence({None: KnownReferences(references), 1: KnownReferences(references[:1])})
    assert got.published == pytest.approx(np.concatenate([alone[1], under[1]]).mean())
    leading = regression.leading(12)
    unknown = regression.convergence(leading, (features @ leading.T).var(0), 2000)
    assert made.convergence(None).published == pytest.approx(unknown[1].mean())
    assert (made.convergence({}).reliability, made.convergence({}).published) == (1, 1)
