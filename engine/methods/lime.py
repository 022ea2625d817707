"""LIME: a linear model of the similarity over superpixels shown or hidden (Ribeiro et al. 2016; docs/method.md, LIME)."""

import dataclasses
from typing import ClassVar

import numpy as np

from engine.errors import OptionError
from engine.protocol import LARGEST_PLAN, random_words, require_arrays, require_seed, require_whole
from kernels.segments import SegmentRenderer

KERNEL_WIDTH = 0.25
LIME_RIDGE = 1.0
"""Alpha of the regression."""


@dataclasses.dataclass(frozen=True, eq=False)
class LimePlan:
    """segments: (H, W) int, a label in [0, S) per pixel of the picture as the network sees it; samples: (N, S) bool or 0/1
    integers, on where a superpixel shows.

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
        """The plan's first samples."""
        return LimePlan(self.segments, self.samples[:count])

    def renderer(self, height: int, width: int) -> SegmentRenderer:
        if self.segments.shape != (height, width):
            raise OptionError(f"the plan's segments are {self.segments.shape}, the network sees {(height, width)}")
        return SegmentRenderer(self.segments, self.samples.astype(bool))

    def coefficients(self, scores: np.ndarray) -> np.ndarray:
        """Ridge regression, alpha 1, with intercept, of the scores on the samples: (N, R) -> (S, R) float64.

        Samples weigh `sqrt(exp(-d^2 / 0.25^2))`, d their cosine distance to all-on. Linear in the scores.
        """
        x = self.samples.astype(np.float64)
        distance = 1 - np.sqrt(x.mean(1))
        weights = np.sqrt(np.exp(-((distance / KERNEL_WIDTH) ** 2)))[:, None]
        centred = x - (weights * x).sum(0) / weights.sum()
        weighted = weights * centred
        normal = centred.T @ weighted + LIME_RIDGE * np.eye(x.shape[1])
        return np.linalg.solve(normal, weighted.T @ scores)  # the weighted mean of the scores drops out

    def maps(self, scores: np.ndarray, height: int, width: int) -> np.ndarray:
        """Each superpixel painted with its coefficient: (N, R) -> (R, H, W) float32."""
        return self.coefficients(scores).astype(np.float32)[self.segments].transpose(2, 0, 1)


@dataclasses.dataclass(frozen=True)
class Lime:
    """samples: passes over the picture, the first with everything on; seed: 0..2^64-1.

    Superpixels are scikit-image's quickshift (kernel 4, maximal distance 200, ratio 0.2), as in the `lime` package; off ones
    are black. Raises OptionError for values out of range and where scikit-image is not installed.
    """

    samples: int = 1000
    seed: int = 0

    name: ClassVar[str] = "lime"
    baseline: ClassVar[str] = "black"
    estimator: ClassVar[str] = "sane"
    ends_early: ClassVar[bool] = True
    automatic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_whole("samples", self.samples, 1, LARGEST_PLAN)
        require_seed(self.seed)

    def plan(self, pixels: np.ndarray) -> LimePlan:
        segments = superpixels(pixels)
        return LimePlan(segments, draw_samples(self.samples, int(segments.max()) + 1, self.seed))


def superpixels(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) int labels 0..S-1. Raises OptionError where scikit-image is not installed."""
    try:
        from skimage.segmentation import quickshift  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise OptionError("method lime needs scikit-image for its superpixels: pip install 'sane-engine[lime]'") from error
    labels: np.ndarray = quickshift(pixels, kernel_size=4, max_dist=200, ratio=0.2, rng=0)  # type: ignore[no-untyped-call]
    return labels


def draw_samples(samples: int, segments: int, seed: int) -> np.ndarray:
    """(samples, segments) bool, each on with probability 1/2, the first row all on.

    Bits of raw 64-bit Philox words (key = seed), low bit first, each row beginning with a new word.
    """
    words = -(-segments // 64)
    raw = random_words(seed, samples, words).view(np.uint8)
    bits = np.unpackbits(raw, axis=1, bitorder="little")[:, :segments].astype(bool)
    bits[0] = True
    return bits
