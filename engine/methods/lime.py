"""LIME: a linear model of the similarity over superpixels shown or hidden (Ribeiro et al. 2016; docs/method.md, LIME)."""

import dataclasses
from typing import ClassVar

import numpy as np

from engine.errors import OptionError
from engine.protocol import LARGEST_PLAN, random_words, require_arrays, require_seed, require_whole
from engine.saliency.stopping import AUTO
from kernels.segments import SegmentRenderer

KERNEL_WIDTH = 0.25
LIME_RIDGE = 1.0
"""Penalty (alpha) of the ridge regression."""


@dataclasses.dataclass(frozen=True, eq=False)
class LimePlan:
    """Superpixels, and which of them are shown in each pass.

    segments: (H, W) int, a label in [0, S) for each pixel of the picture as the network sees it
    samples: (N, S) bool or 0/1 integers, true if the superpixel is shown
    Raises OptionError for other shapes or values.
    """

    segments: np.ndarray
    samples: np.ndarray

    def __post_init__(self) -> None:
        segments, samples = self.segments, self.samples
        require_arrays(segments=segments, samples=samples)
        if samples.ndim != 2 or not samples.size or samples.dtype.kind not in "biu" or not np.isin(samples, (0, 1)).all():
            raise OptionError(f"a plan's samples must be bool (N, S) with N, S >= 1, got {samples.dtype} {samples.shape}")
        count = samples.shape[1]
        if segments.ndim != 2 or not segments.size or segments.dtype.kind not in "iu":
            raise OptionError(f"a plan's segments must be integers (H, W), got {segments.dtype} {segments.shape}")
        if segments.min() < 0 or segments.max() >= count:
            raise OptionError(f"a plan's segments must be labelled from 0 to {count - 1}, one column of samples each")

    def __len__(self) -> int:
        return len(self.samples)

    def first(self, count: int) -> "LimePlan":
        """Return the plan of the first `count` samples."""
        return LimePlan(self.segments, self.samples[:count])

    def renderer(self, height: int, width: int) -> SegmentRenderer:
        """Return what draws the plan's masks. Raises OptionError if the segments have another size."""
        if self.segments.shape != (height, width):
            raise OptionError(f"the plan's segments are {self.segments.shape}, but the network sees {(height, width)}")
        return SegmentRenderer(self.segments, self.samples.astype(bool))

    def coefficients(self, scores: np.ndarray) -> np.ndarray:
        """(N, R) scores -> (S, R) float64 coefficients of a ridge regression on the samples, with alpha 1 and an intercept.

        Samples have weights `sqrt(exp(-d^2 / 0.25^2))`, where d is the cosine distance to the sample that shows everything.
        The result is linear in the scores.
        """
        x = self.samples.astype(np.float64)
        distance = 1 - np.sqrt(x.mean(1))
        weights = np.sqrt(np.exp(-((distance / KERNEL_WIDTH) ** 2)))[:, None]
        centred = x - (weights * x).sum(0) / weights.sum()
        weighted = weights * centred
        normal = centred.T @ weighted + LIME_RIDGE * np.eye(x.shape[1])
        return np.linalg.solve(normal, weighted.T @ scores)  # the weighted mean of the scores drops out

    def maps(self, scores: np.ndarray, height: int, width: int) -> np.ndarray:
        """(N, R) scores -> (R, H, W) float32: every pixel has the coefficient of its superpixel."""
        return self.coefficients(scores).astype(np.float32)[self.segments].transpose(2, 0, 1)


@dataclasses.dataclass(frozen=True)
class Lime:
    """LIME (docs/method.md, LIME).

    samples: passes over the picture, the first of which shows everything; seed: 0..2^64-1
    Superpixels come from scikit-image's quickshift (kernel 4, maximal distance 200, ratio 0.2), as in the `lime` package;
    hidden ones are black unless a baseline is given. Raises OptionError for values out of range.
    """

    samples: int = 1000
    seed: int = 0

    name: ClassVar[str] = "lime"
    baseline: ClassVar[str] = "black"
    estimator: ClassVar[str] = "sane"
    ends_early: ClassVar[bool] = True
    automatic: ClassVar[bool] = False
    enough: ClassVar[float | None] = None
    first_look: ClassVar[int] = AUTO[0]
    step: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        require_whole("samples", self.samples, 1, LARGEST_PLAN)
        require_seed(self.seed)

    def plan(self, pixels: np.ndarray) -> LimePlan:
        """Return the plan for a picture (H, W, 3) uint8. Raises OptionError if scikit-image is not installed."""
        segments = superpixels(pixels)
        return LimePlan(segments, draw_samples(self.samples, int(segments.max()) + 1, self.seed))


def superpixels(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) int labels 0..S-1. Raises OptionError if scikit-image is not installed."""
    try:
        from skimage.segmentation import quickshift  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise OptionError("method lime needs scikit-image for its superpixels: pip install 'sane-engine[lime]'") from error
    labels: np.ndarray = quickshift(pixels, kernel_size=4, max_dist=200, ratio=0.2, rng=0)  # type: ignore[no-untyped-call]
    return labels


def draw_samples(samples: int, segments: int, seed: int) -> np.ndarray:
    """Draw samples: (samples, segments) bool, each true with probability 1/2; the first row is all true.

    They are the bits of raw 64-bit Philox words (key = seed), low bit first; each row begins with a new word.
    """
    words = -(-segments // 64)
    raw = random_words(seed, samples, words).view(np.uint8)
    bits = np.unpackbits(raw, axis=1, bitorder="little")[:, :segments].astype(bool)
    bits[0] = True
    return bits
