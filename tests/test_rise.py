"""RISE masks: against golden values, against a naive twin, and their transpose against the sum it replaces."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Rise, RisePlan
from engine.errors import OptionError
from engine.methods.rise import draw_independent
from kernels.rise import GROUP, RiseRenderer, cell_size


def naive_mask(grid: np.ndarray, dy: int, dx: int, height: int, width: int) -> np.ndarray:
    """Bilinear upsampling pixel by pixel, the grid mirrored about its border cells' centres; then the crop."""
    s = len(grid)
    padded = np.pad(grid.astype(float), 2, mode="reflect" if s > 2 else "wrap" if s == 2 else "edge")
    cells = (cell_size(height, s), cell_size(width, s))
    out = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            v = (y + dy + 0.5) * s / ((s + 1) * cells[0]) - 0.5
            u = (x + dx + 0.5) * s / ((s + 1) * cells[1]) - 0.5
            i, j = int(np.floor(v)), int(np.floor(u))
            a, b = v - i, u - j
            block = padded[i + 2 : i + 4, j + 2 : j + 4]
            out[y, x] = (1 - a) * ((1 - b) * block[0, 0] + b * block[0, 1]) + a * ((1 - b) * block[1, 0] + b * block[1, 1])
    return out


def rendered(plan: RisePlan, height: int, width: int) -> np.ndarray:
    out = np.empty((len(plan), height, width), np.float32)
    plan.renderer(height, width).masks(0, len(plan), out)
    return out


plans = st.builds(
    lambda masks, grid, p, seed, height, width: (
        draw_independent(Rise(grid=grid, p=p, estimator="sane", seed=seed), masks, height, width),
        height,
        width,
    ),
    st.integers(1, 7),
    st.integers(1, 9),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.integers(0, 2**64 - 1),
    st.integers(1, 40),
    st.integers(1, 40),
)


def test_golden_masks(golden: dict[str, np.ndarray]) -> None:
    plan = RisePlan(golden["rise_grids"][:4], golden["rise_shifts"][:4])
    np.testing.assert_allclose(rendered(plan, 112, 112), golden["rise_masks_first4"], atol=1e-6, rtol=0)


@given(plans)
def test_masks_equal_the_naive_twin(drawn: tuple[RisePlan, int, int]) -> None:
    plan, height, width = drawn
    masks = rendered(plan, height, width)
    for mask, grid, (dy, dx) in zip(masks, plan.grids, plan.shifts, strict=True):
        np.testing.assert_allclose(mask, naive_mask(grid, dy, dx, height, width), atol=1e-6)
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-6


@given(plans, st.integers(0, GROUP + 2))
def test_transpose_is_the_weighted_sum_of_masks(drawn: tuple[RisePlan, int, int], count: int) -> None:
    plan, height, width = drawn
    weights = np.random.default_rng(0).normal(size=(len(plan), count))
    dense = np.einsum("nr,nhw->rhw", weights, rendered(plan, height, width).astype(float))
    np.testing.assert_allclose(plan.renderer(height, width).transpose(weights), dense, atol=1e-5)


def test_transpose_of_more_weightings_than_are_summed_at_once() -> None:
    renderer = draw_independent(Rise(grid=8, p=0.5, estimator="sane", seed=1), 6, 20, 24).renderer(20, 24)
    weights = np.random.default_rng(0).normal(size=(6, 2 * GROUP + 1))
    one_by_one = [renderer.transpose(weights[:, [i]])[0] for i in range(2 * GROUP + 1)]
    np.testing.assert_allclose(renderer.transpose(weights), one_by_one, atol=1e-12)


def test_rows_of_a_plan_can_be_rendered_in_any_batches() -> None:
    renderer = draw_independent(Rise(grid=8, p=0.5, estimator="sane", seed=1), 10, 30, 50).renderer(30, 50)
    whole, part = np.empty((10, 30, 50), np.float32), np.empty((3, 30, 50), np.float32)
    renderer.masks(0, 10, whole)
    renderer.masks(4, 7, part)
    np.testing.assert_array_equal(part, whole[4:7])


def test_a_seed_means_the_same_masks_for_ever() -> None:
    plan = draw_independent(Rise(grid=8, p=0.5, estimator="sane", seed=42), 100, 112, 112)
    digest = hashlib.sha256(np.packbits(plan.grids).tobytes() + plan.shifts.astype("<i4").tobytes()).hexdigest()
    assert digest == "497f7c7bdf012fb2ce0c7e815f7794f442e301b699989d4fb260f6ce095350e7"


def test_more_masks_begin_with_the_fewer() -> None:
    few, many = (
        draw_independent(Rise(grid=7, p=0.3, estimator="sane", seed=9), 5, 64, 48),
        draw_independent(Rise(grid=7, p=0.3, estimator="sane", seed=9), 50, 64, 48),
    )
    np.testing.assert_array_equal(few.grids, many.grids[:5])
    np.testing.assert_array_equal(few.shifts, many.shifts[:5])


def test_draws_follow_p_and_cover_every_shift() -> None:
    plan = draw_independent(Rise(grid=8, p=0.3, estimator="sane", seed=0), 4000, 112, 80)
    assert abs(plan.grids.mean() - 0.3) < 0.005
    assert set(plan.shifts[:, 0]) == set(range(14))
    assert set(plan.shifts[:, 1]) == set(range(10))
    assert abs(np.corrcoef(plan.shifts.T)[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("grids", "shifts"),
    [
        (np.zeros((2, 8, 8)), np.zeros((2, 2), int)),  # not bool
        (np.zeros((2, 8, 7), bool), np.zeros((2, 2), int)),
        (np.zeros((0, 8, 8), bool), np.zeros((0, 2), int)),
        (np.zeros((2, 8, 8), bool), np.zeros((3, 2), int)),
        (np.zeros((2, 8, 8), bool), np.zeros((2, 2))),
    ],
)
def test_plans_of_other_shapes_are_refused(grids: np.ndarray, shifts: np.ndarray) -> None:
    with pytest.raises(OptionError):
        RisePlan(grids, shifts)


def test_a_shift_outside_the_cell_is_refused() -> None:
    plan = RisePlan(np.ones((1, 8, 8), bool), np.array([[0, 14]]))
    with pytest.raises(OptionError, match="below"):
        plan.renderer(112, 112)
    assert isinstance(plan.renderer(112, 120), RiseRenderer)
