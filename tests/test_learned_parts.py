"""The parts of a learned mask's optimisation, each against its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.methods.learned_mask import SIDE, Adam, Noise, Upsampling, regulariser_gradient
from engine.methods.window import corners_aligned


def loss(mask: np.ndarray) -> float:
    """Return the loss of docs/method.md, Learned mask, without the similarity."""
    down, across = np.abs(np.diff(mask, axis=0)) ** 3, np.abs(np.diff(mask, axis=1)) ** 3
    return float(0.01 * np.abs(1 - mask).mean() + 0.2 * (down.mean() + across.mean()))


@given(mask=arrays(np.float64, (8, 16), elements=st.floats(0, 0.99)))
@settings(max_examples=15)
def test_the_regular_part_has_the_gradient_of_its_loss(mask: np.ndarray) -> None:
    got, step = regulariser_gradient(mask[None])[0], 1e-6
    for place in ((0, 0), (3, 7), (3, 8), (7, 15), (5, 0)):
        moved = np.zeros_like(mask)
        moved[place] = step
        assert got[place] == pytest.approx((loss(mask + moved) - loss(mask - moved)) / (2 * step), abs=1e-8)


def test_where_nothing_is_hidden_nothing_pulls() -> None:
    assert not regulariser_gradient(np.ones((2, 8, 8))).any()


@pytest.mark.parametrize("sides", [1, 2])
def test_going_back_is_the_transpose_of_upsampling(sides: int) -> None:
    random, upsampling = np.random.default_rng(0), Upsampling(20, 30, sides)
    mask, pixels = random.normal(size=(3, SIDE, SIDE * sides)), random.normal(size=(sides, 3, 20, 30))
    full = upsampling.full(mask)
    assert full.shape == pixels.shape
    left = (full * pixels).sum((0, 2, 3))
    np.testing.assert_allclose(left, (mask * upsampling.back(pixels)).sum((1, 2)), rtol=1e-4)
    whole = corners_aligned(20, SIDE) @ mask @ corners_aligned(30 * sides, SIDE * sides).T
    np.testing.assert_allclose(np.concatenate(list(full), axis=2), whole, atol=1e-6)


def test_noise_is_normal_new_at_every_step_and_the_same_for_ever() -> None:
    noise = Noise([7], 0.5, (1, 3, 40, 41))
    first, second = noise.draw(), noise.draw()
    assert first.shape == (1, 1, 3, 40, 41)
    assert first.dtype == np.float32
    values = np.concatenate([first.ravel(), second.ravel()]).astype(np.float64) / 0.5
    assert abs(values.mean()) < 0.05
    assert values.std() == pytest.approx(1, abs=0.03)
    assert (np.abs(values) < 1).mean() == pytest.approx(0.683, abs=0.02)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(values[:2460], values[2460:4920])[0, 1]) < 0.05
    halves = (np.random.Philox(key=7).random_raw(2460).astype("<u8").view("<u4").astype(np.float64) + 0.5) / 2**32
    radius, angle = np.sqrt(-2 * np.log(halves[::2])), 2 * np.pi * halves[1::2]
    twin = 0.5 * np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: first.size]
    np.testing.assert_allclose(first.ravel(), twin, atol=1e-5)
    assert not Noise([7], 0, (1, 3, 4, 5)).draw().any()
    assert Noise([7, 8, 7], 0.1, (2, 3, 4, 5)).draw().shape == (2, 3, 3, 4, 5)


def test_adam_steps_as_torch_does() -> None:
    random = np.random.default_rng(2)
    mask = random.uniform(0.4, 0.6, (1, 4, 4))
    leaf = torch.from_numpy(mask.copy()).requires_grad_(True)
    ours, theirs = Adam(), torch.optim.Adam([leaf], lr=0.1)
    for _ in range(5):
        gradient = random.normal(size=mask.shape)
        mask = ours.step(mask, gradient)
        leaf.grad = torch.from_numpy(gradient)
        theirs.step()
        with torch.no_grad():
            leaf.clamp_(0, 1)
        np.testing.assert_allclose(mask, leaf.detach().numpy(), atol=1e-9)
