"""Maps of tokens, their errors, and when a map says nothing: once more, from docs/ with dense matrices."""

import math

import numpy as np
import pytest
from test_regression_written_out import SIDE, covariance

from engine import BundleError, Rise, Tokens
from engine.methods.rise import draw_balanced
from engine.saliency.designs import RiseDesign, TokenDesign
from engine.saliency.flatness import (
    HIDING_CHANGES_NOTHING,
    LEAST_HELD,
    OF_REFERENCE,
    VANISHED,
    Extent,
    flattened,
    judged,
    require_held,
)
from engine.saliency.geometry import Geometry
from engine.saliency.map_fits import MapFits
from engine.saliency.operator import Operator
from engine.saliency.posterior import Posterior
from engine.saliency.regression import Estimate, contrasts
from kernels.areas import areas
from kernels.rise import RiseRenderer, upsampling

SIZE, GRID, TOKENS = (20, 24), 8, (5, 4)
EPS = float(np.finfo(np.float32).eps)


def of_tokens(length: int, tokens: int) -> np.ndarray:
    """(length, tokens): of a pixel and a token along one side, times 4, for masks of GRID cells."""
    ups = upsampling(length, GRID).astype(float)
    return sum(up @ up.T @ areas(length, tokens).T for up in ups) / len(ups)


def drawn(coefficients: np.ndarray) -> np.ndarray:
    """(rows * columns,) coefficients -> the map (H, W) of mean 0."""
    centred = (coefficients - coefficients.mean()).reshape(TOKENS)
    found = of_tokens(SIZE[0], TOKENS[0]) @ centred @ of_tokens(SIZE[1], TOKENS[1]).T / 4 / (1 / 2)
    return np.asarray(found - found.mean())


def means(saliency: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(areas(SIZE[0], side) @ saliency @ areas(SIZE[1], side).T).ravel()


@pytest.fixture
def geometry() -> Geometry:
    return Geometry.of_tokens(*SIZE, GRID, TOKENS)


def test_maps_of_tokens_are_drawn_as_masks_would_draw_them(geometry: Geometry) -> None:
    coefficients = np.random.default_rng(0).normal(size=(3, 20)) + 5
    wanted = np.array([drawn(one) for one in coefficients])
    np.testing.assert_allclose(geometry.maps(coefficients), wanted, atol=1e-6)
    assert geometry.maps(coefficients).dtype == np.float32
    np.testing.assert_allclose(geometry.tiles(coefficients), [means(one, 16) for one in wanted], atol=1e-12)
    np.testing.assert_allclose(geometry.coarse_tiles(coefficients, 8), [means(one, 8) for one in wanted], atol=1e-12)
    assert (geometry.centred, Geometry.of(*SIZE, GRID).centred) == (True, False)


def test_maps_of_masks_keep_their_mean() -> None:
    rise, coefficients = Geometry.of(*SIZE, 7), np.random.default_rng(0).normal(size=(2, SIDE**2)) + 5
    wanted = [covariance(SIZE[0], 7) @ c.reshape(SIDE, SIDE) @ covariance(SIZE[1], 7).T / 2 for c in coefficients]
    np.testing.assert_allclose(rise.maps(coefficients), wanted, rtol=1e-5)
    np.testing.assert_allclose(rise.coarse_tiles(coefficients, 4), [means(one, 4) for one in wanted])


@pytest.mark.parametrize("passes", [48, 26, 14], ids="{} passes".format)
@pytest.mark.parametrize("noise", [0.0, 0.3, 30.0])
def test_the_posterior_is_that_of_a_ridge_regression(geometry: Geometry, passes: int, noise: float) -> None:
    random = np.random.default_rng(passes)
    x = random.choice([-0.5, 0.0, 0.5], (passes, 20))
    z = x @ random.normal(size=(20, 3)) + noise * random.normal(size=(passes, 3))
    references, variances = random.normal(size=(2, 3)), random.uniform(0.1, 2, 20)
    best = (math.inf, 0.0)
    for share in 10 ** np.linspace(-5, 1, 40):
        penalty = share * np.linalg.eigvalsh(x * variances @ x.T).max()
        hat = x @ np.linalg.inv(x.T @ x + penalty * np.diag(1 / variances)) @ x.T
        best = min(best, (np.square(z - hat @ z).sum() / (passes - np.trace(hat)) ** 2, penalty))
    inverse = np.linalg.inv(x.T @ x + best[1] * np.diag(1 / variances))
    tiles = np.array([means(drawn(one), SIDE) for one in np.eye(20)]).T
    posterior = Posterior(x, z, geometry, variances)
    errors, reliability = posterior.errors(references)
    for error, found, reference in zip(errors, reliability, references, strict=True):
        y = z @ reference
        hat = x @ inverse @ x.T
        scale = np.square(y - hat @ y).sum() / (passes - np.trace(hat))
        variance = scale * np.diag(tiles @ inverse @ tiles.T)
        signal = (tiles @ inverse @ x.T @ y).var()
        np.testing.assert_allclose(error, np.sqrt(variance), rtol=1e-5)
        assert found == pytest.approx(math.sqrt(signal / (signal + variance.mean())), rel=1e-6)
    spanned = min(passes, 20)
    assert posterior.nbytes == 8 * (passes * 3 + spanned * 3 + SIDE**2 * spanned + SIDE**2)


def test_scores_that_do_not_vary_have_a_posterior_that_says_so(geometry: Geometry) -> None:
    x = np.random.default_rng(0).choice([-0.5, 0.5], (24, 20))
    errors, reliability = Posterior(x, np.zeros((24, 2)), geometry, np.ones(20)).errors(np.ones((1, 2)))
    assert not errors.any()
    assert not reliability.any()


def test_noise_as_a_quadratic_form_is_that_of_the_errors(geometry: Geometry) -> None:
    random = np.random.default_rng(3)
    x = random.choice([-0.5, 0.5], (24, 20))
    z = x @ random.normal(size=(20, 4)) + 0.3 * random.normal(size=(24, 4))
    posterior, directions, mixed = (
        Posterior(x, z, geometry, random.uniform(0.1, 2, 20)),
        random.normal(size=(3, 4)),
        [1, -2, 3],
    )
    form = posterior.form(directions)
    np.testing.assert_allclose(form.diagonal(), np.square(posterior.errors(directions)[0]).mean(1), rtol=1e-6)
    np.testing.assert_allclose(posterior.form(np.array([mixed]) @ directions), [[mixed @ form @ mixed]], rtol=1e-9)


def test_noise_of_tokens_has_its_shrinkage_undone() -> None:
    plan = Tokens(masks=64).plan(*TOKENS)
    features = np.random.default_rng(4).normal(size=(64, 5))
    regression = MapFits(plan.design(SIZE), lambda _: features, 5).regression(None)
    form, constant = regression.noise(np.eye(5))
    errors = [np.square(e.error).mean() for e in regression.estimates(np.eye(5)) if e.error is not None]
    np.testing.assert_allclose(form.diagonal(), errors, rtol=1e-5)
    assert regression.amplitude < 0.9
    assert not constant.any()


@pytest.mark.parametrize("parts", [2, 4])
def test_the_design_of_tokens_is_what_the_passes_of_a_group_differ_by(parts: int) -> None:
    plan = Tokens(masks=26, kept=1 / parts).plan(*TOKENS)
    design = TokenDesign(plan.kept[:26], parts, SIZE)
    rows = []
    for start in range(0, 26 - parts + 1, parts):  # the last group of four is not whole
        a, *others = (plan.kept[start + i].ravel().astype(float) for i in range(parts))
        if parts == 2:
            rows.append((a - others[0]) / 2)
            continue
        b, c, d = others
        rows += [(a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2]
    np.testing.assert_array_equal(design.matrix(), rows)
    assert design.side == 8
    wanted = Geometry.of_tokens(*SIZE, 8, TOKENS)
    for name in ("rows", "columns", "tile_rows", "tile_columns"):
        np.testing.assert_array_equal(getattr(design.geometry, name), getattr(wanted, name))


def test_the_design_of_masks_is_of_the_first_of_each_pair() -> None:
    plan = draw_balanced(Rise(seed=1, grid=6), 12, *SIZE)
    design = RiseDesign(plan.grids[:7], plan.shifts[:7], SIZE)
    first = [0, 2, 4]
    tiles = RiseRenderer(plan.grids[first], plan.shifts[first], *SIZE).tiles(SIDE)
    np.testing.assert_array_equal(design.matrix(), tiles - 0.5)
    assert (design.side, design.parts) == (6, 2)
    np.testing.assert_array_equal(design.geometry.rows, Geometry.of(*SIZE, 6).rows)
    np.testing.assert_array_equal(design.geometry.columns, Geometry.of(*SIZE, 6).columns)


def test_the_errors_of_a_map_of_tokens_are_those_of_its_posterior() -> None:
    random, plan = np.random.default_rng(0), Tokens(masks=64, kept=0.5).plan(*TOKENS)
    features = plan.kept.reshape(64, 20) @ random.normal(size=(20, 3)) + 0.1 * random.normal(size=(64, 3))
    design = TokenDesign(plan.kept, 2, SIZE)
    fits, references = MapFits(design, lambda _: features, 3), random.normal(size=(2, 3))
    regression, z = fits.regression(None), contrasts(features, 2)
    variances = Operator.fitted(design.rows(), z).variances
    posterior = Posterior(design.matrix(), z, design.geometry, variances)
    assert variances.std() > 0.1
    errors, reliability = posterior.errors(references)
    for i, estimate in enumerate(fits.estimates(references, None)):
        assert estimate.error is not None
        np.testing.assert_allclose(estimate.error.ravel(), errors[i] / regression.amplitude, rtol=1e-5)
        assert estimate.reliability == pytest.approx(reliability[i])
    assert regression.nbytes == 8 * (20 * 3 + 32 * 3) + posterior.nbytes


def test_what_changes_by_rounding_alone_is_flat() -> None:
    step = 2.0**-20
    extent = Extent.of(np.array([[1.0, -3.0], [1.0 - step, -3.0], [1.0, -3.0 + 3 * step]]))
    np.testing.assert_array_equal(extent.largest, [1, 3])
    np.testing.assert_array_equal(extent.spread, [step, 3 * step])
    np.testing.assert_array_equal(extent.flat(np.array([[1.0, 0], [0, -1], [-2, 5]])), [True, True, True])
    wide = Extent.of(np.array([[1.0, 8.0], [1.0 - 2 * step, 8.0]]))
    # what does not change outweighs what does, and signs do not matter
    np.testing.assert_array_equal(wide.flat(np.array([[1.0, 0], [1, 1], [-1, 1], [1, -0.1]])), [False, True, True, False])


def estimate(*values: float, error: bool = True) -> Estimate:
    saliency = np.array([values], np.float32)
    return Estimate(saliency, np.ones((SIDE, SIDE), np.float32) if error else None, 0.9, "")


def test_a_map_that_says_nothing_is_zero_and_says_why() -> None:
    good = estimate(0.1, -0.2)
    assert judged([good, good], np.array([False, False]))[0] is good
    kept, flat = judged([good, estimate(0.1, 0.2, error=False)], np.array([False, True]))
    assert kept is good
    assert (flat.error, flat.reliability, flat.note) == (None, 0, HIDING_CHANGES_NOTHING)
    assert not flat.saliency.any()
    zero = flattened(good, VANISHED)
    assert zero.error is not None
    assert not zero.error.any()
    assert (zero.saliency.shape, zero.reliability, zero.note) == ((1, 2), 0, VANISHED)
    assert OF_REFERENCE[VANISHED] == VANISHED.replace("query", "reference") != VANISHED
    with pytest.raises(ValueError, match="longer"):
        judged([good], np.array([False, False]))


@pytest.mark.parametrize(
    ("values", "offset", "kept"),
    [
        ((LEAST_HELD, 0.0), False, True),
        ((-LEAST_HELD, 0.0), False, True),
        ((LEAST_HELD / 2, 0.0), False, False),
        ((1.0, 1.0 + 4 * EPS), True, False),
        ((1.0, 1.0 - 4 * EPS), True, False),
        ((1.0, 1.0 + 5 * EPS), True, True),
        ((-1.0, -1.0 - 4 * EPS), True, False),
        ((1.0, 1.0), False, True),
    ],
)
def test_what_float32_loses_vanishes(values: tuple[float, ...], offset: bool, kept: bool) -> None:
    told = {"offset": True} if offset else {}  # none is the default
    (found,) = judged([estimate(*values)], np.array([False]), **told)
    assert bool(found.saliency.any()) == kept
    assert found.note == ("" if kept else VANISHED)


def test_what_float32_cannot_hold_is_refused() -> None:
    require_held(None)
    require_held(np.ones(2, np.float32))
    for bad in (np.inf, -np.inf, np.nan):
        with pytest.raises(BundleError, match="too large for a map in float32"):
            judged([estimate(1.0, bad)], np.array([False]))
        worse = estimate(1.0, 2.0)
        assert worse.error is not None
        worse.error[3, 4] = bad
        with pytest.raises(BundleError, match="too large for a map in float32"):
            judged([worse], np.array([False]))
