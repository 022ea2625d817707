"""Learned masks: what to blur so that the similarity falls (Fong and Vedaldi 2017; docs/method.md, Learned mask).

Adam optimises one coarse mask per picture. The gradient of the similarity with respect to the pixels comes from a separate
graph (`engine.protocol.Gradients`); the rest is numpy. Several pairs are optimised at the same time, in one batch.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from engine.errors import OptionError
from engine.methods.window import corners_aligned
from engine.protocol import LARGEST_PLAN, Gradients, Progress, Runner, require_seed, require_whole
from engine.saliency.stopping import AUTO

SIDE = 8
"""Cells of a mask per side."""
LEARNING_RATE, MOMENT_DECAYS, ADAM_EPSILON = 0.1, (0.9, 0.999), 1e-8
"""The parameters of Adam."""
SIZE_WEIGHT, VARIATION_WEIGHT = 0.01, 0.2
"""Weights of the regulariser's two terms, see `regulariser_gradient`."""


@dataclasses.dataclass(frozen=True)
class LearnedMask:
    """The learned mask (docs/method.md, Learned mask).

    iterations: steps of Adam; noise: standard deviation of the noise that every step adds to the normalised pictures
    seed: of the noise, 0..2^64-1
    Needs a bundle with a gradient graph (`python -m export similarity --gradient`). Hidden pixels are blurred unless a
    baseline is given. Raises OptionError for values out of range.
    """

    iterations: int = 500
    noise: float = 0.2
    seed: int = 0

    name: ClassVar[str] = "mask"
    baseline: ClassVar[str] = "blur"
    estimator: ClassVar[str] = "sane"
    ends_early: ClassVar[bool] = True
    automatic: ClassVar[bool] = False
    enough: ClassVar[float | None] = None
    first_look: ClassVar[int] = AUTO[0]
    step: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        require_whole("iterations", self.iterations, 1, LARGEST_PLAN)
        require_seed(self.seed)
        number = isinstance(self.noise, (int, float)) and not isinstance(self.noise, bool)
        if not number or not 0 <= self.noise < math.inf:
            raise OptionError(f"noise must be a number of at least 0, got {self.noise!r}")


@dataclasses.dataclass(frozen=True, eq=False)
class MaskPair:
    """A query and a reference for which a mask is learned: over the query (s = 1), or over both pictures (s = 2).

    images, baselines: (s, ...) float32 as the network takes them: the query, and with s = 2 the reference
    target: (D,) float32, the reference's embedding; with s = 2 every step computes it again
    weights: (D,) float32, multiplied with the embeddings; scale: the similarity is divided by it
    seed: of the noise; pairs with the same seed get the same noise
    """

    images: np.ndarray
    baselines: np.ndarray
    target: np.ndarray
    weights: np.ndarray
    scale: float
    seed: int


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedMasks:
    """The result of `learn`.

    masks: (n, 8, 8 * s) float64 in [0, 1], 1 where the picture is shown; iterations: steps that were taken
    flat: (n, s) bool, sides that hiding does not change: what their masks took over from the other side says nothing
    """

    masks: np.ndarray
    iterations: int
    flat: np.ndarray

    def maps(self, height: int, width: int) -> np.ndarray:
        """Return the maps (n, s, height, width) float32: `1 - m`, each side's mask upsampled alone, with corners aligned;
        0 for sides that are flat.
        """
        halves = np.split(self.masks, self.masks.shape[2] // SIDE, axis=2)
        down, across = corners_aligned(height, SIDE), corners_aligned(width, SIDE)
        maps = (1 - np.stack([down @ half @ across.T for half in halves], axis=1)).astype(np.float32)
        maps[self.flat] = 0
        return maps


def rows_per_step(sides: int) -> int:
    """Return the network rows that a step takes for one pair.

    A row run forward and backward counts once; with two sides, both pictures are first run forward alone.
    """
    return 1 if sides == 1 else 4


def learn(
    session: Gradients,
    network: Runner,
    pairs: Sequence[MaskPair],
    options: LearnedMask,
    channels_last: bool,
    until: float | None,
    progress: Progress,
) -> LearnedMasks:
    """Optimise the masks of all pairs in one batch; all pairs have the same number of sides.

    session: the gradient graph; network: the similarity graph in fp32
    until: time.perf_counter() at which the caller wants the answer: no step ends later, except the first
    progress: called with (network rows done, rows in all)
    Raises BundleError if a network's result is not finite.
    """
    images, baselines = (np.stack([getattr(p, what) for p in pairs], axis=1) for what in ("images", "baselines"))
    sides, count = images.shape[:2]  # (s, n, ...)
    weights, targets = (np.tile(np.stack([getattr(p, what) for p in pairs]), (sides, 1)) for what in ("weights", "target"))
    scales = np.array([p.scale for p in pairs])[:, None, None]
    height, width = images.shape[2:4] if channels_last else images.shape[3:5]
    upsampling = Upsampling(height, width, sides)
    channel, contrast = (-1 if channels_last else 2), images - baselines
    noise, adam = Noise([p.seed for p in pairs], options.noise, images[:, 0].shape), Adam()
    masks, slowest, done = np.ones((count, SIDE, SIDE * sides)), 0.0, 0
    while done < options.iterations:
        began = time.perf_counter()
        if until is not None and done and began + slowest > until:
            break
        shown = np.expand_dims(upsampling.full(masks), channel)  # draws the masks: (s, n, 1, H, W) or (s, n, H, W, 1)
        x = (baselines + contrast * shown + noise.draw()).reshape(-1, *images.shape[2:])
        if sides == 2:
            targets = network.run(x).reshape(2, count, -1)[::-1].reshape(2 * count, -1)
        _, gradients = session.run(x, targets, weights)  # runs the network forward and backward
        by_pixel = (gradients.reshape(images.shape) * contrast).sum(channel)  # (s, n, H, W)
        masks = adam.step(masks, upsampling.back(by_pixel) / scales + regulariser_gradient(masks))
        done, slowest = done + 1, max(slowest, time.perf_counter() - began)
        rows = count * rows_per_step(sides)
        progress(done * rows, options.iterations * rows)
    flat = ~contrast.any(axis=tuple(range(2, contrast.ndim))).T
    return LearnedMasks(masks, done, flat)


def regulariser_gradient(masks: np.ndarray) -> np.ndarray:
    """Return the gradient (n, h, w) of `0.01 mean|1 - m| + 0.2 TV_3(m)` for each of masks (n, h, w) float64.

    TV_3 is the mean of |difference|^3 over vertical neighbours, plus the same over horizontal neighbours. The derivative of
    |1 - m| at 1 is taken as 0.
    """
    gradient = -SIZE_WEIGHT * np.sign(1 - masks) / masks[0].size
    for axis in (1, 2):
        difference = np.diff(masks, axis=axis)
        slope = VARIATION_WEIGHT * 3 * difference * np.abs(difference) / difference[0].size
        first, last = ((slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None)))
        gradient[last] += slope
        gradient[first] -= slope
    return gradient


class Adam:
    """The optimiser of Kingma and Ba 2015, which clamps the masks to [0, 1] after every step."""

    def __init__(self) -> None:
        self._first, self._second = np.zeros(()), np.zeros(())
        self._steps = 0

    def step(self, masks: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Return the masks (n, h, w) float64 after one step along their gradient, of the same shape."""
        self._steps += 1
        a, b = MOMENT_DECAYS
        self._first = a * self._first + (1 - a) * gradient
        self._second = b * self._second + (1 - b) * gradient**2
        first, second = self._first / (1 - a**self._steps), self._second / (1 - b**self._steps)
        return np.clip(masks - LEARNING_RATE * first / (np.sqrt(second) + ADAM_EPSILON), 0, 1)


class Upsampling:
    """Masks (n, 8, 8 s) drawn over s pictures of height x width, bilinear with corners aligned.

    Two sides count as one picture of twice the width.
    """

    def __init__(self, height: int, width: int, sides: int) -> None:
        self._down, self._across = corners_aligned(height, SIDE), corners_aligned(sides * width, sides * SIDE)
        self._sides = sides

    def full(self, masks: np.ndarray) -> np.ndarray:
        """Return the masks over every pixel: (s, n, H, W) float32."""
        whole = (self._down @ masks @ self._across.T).astype(np.float32)
        return np.stack(np.split(whole, self._sides, axis=2))

    def back(self, by_pixel: np.ndarray) -> np.ndarray:
        """Apply the transpose of `full`: (s, n, H, W) -> (n, 8, 8 s) float64."""
        return self._down.T @ np.concatenate(list(by_pixel), axis=2) @ self._across


class Noise:
    """Normal noise for n pairs, each from the stream of its seed.

    deviation: standard deviation; shape: (s, ...), of one pair's noise
    Box and Muller's transform of 32-bit halves of raw Philox words (key = seed): every pair of halves gives two numbers, and
    all the first ones come before all the second ones.
    """

    def __init__(self, seeds: Sequence[int], deviation: float, shape: tuple[int, ...]) -> None:
        self._deviation, self._shape = deviation, shape
        self._streams = {seed: np.random.Philox(key=seed) for seed in seeds}
        self._seeds = list(seeds) if len(self._streams) > 1 else list(self._streams)

    def draw(self) -> np.ndarray:
        """Draw the noise of the next step: (s, n, ...) float32, or a shape that broadcasts to it."""
        if self._deviation == 0:
            return np.zeros(1, np.float32)
        fields = {seed: self._field(stream) for seed, stream in self._streams.items()}
        return np.stack([fields[seed] for seed in self._seeds], axis=1)

    def _field(self, stream: np.random.Philox) -> np.ndarray:
        """Return one pair's noise: (s, ...) float32."""
        count = math.prod(self._shape)
        words = stream.random_raw((count + 1) // 2).astype("<u8", copy=False).view("<u4").astype(np.float32)
        first, second = (words.reshape(-1, 2).T + 0.5) * np.float32(2**-32)
        radius = self._deviation * np.sqrt(-2 * np.log(first))
        angle = np.float32(2 * np.pi) * second
        normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
        return normal.reshape(self._shape).astype(np.float32, copy=False)
