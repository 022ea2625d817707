"""Sliding window: the picture matters where hiding a window lowers the similarity (docs/method.md, Sliding window)."""

import dataclasses
from typing import ClassVar

import numpy as np

from engine.errors import OptionError
from engine.protocol import require_whole
from engine.saliency.stopping import AUTO
from kernels.window import WindowRenderer

PAPER_SIZE, PAPER_STRIDE, PAPER_PAD = 2 / 7, 1 / 28, 1 / 14
"""Shares of the picture's side: 32, 4 and 8 of the paper's 112 pixels."""
LARGEST_WINDOW = 8192
"""Largest size, stride and pad, in pixels."""


@dataclasses.dataclass(frozen=True)
class WindowPlan:
    """A lattice of windows, one hidden in each pass.

    size, stride, pad: in pixels, as (height, width); lattice: number of windows, as (rows, columns), row-major
    Window (i, j) covers `size` rows from row `stride * i - pad`; columns likewise. Raises OptionError for other numbers.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    lattice: tuple[int, int]

    def __post_init__(self) -> None:
        for name, low in (("size", 1), ("stride", 1), ("pad", 0), ("lattice", 1)):
            for value in getattr(self, name):
                require_whole(f"a plan's {name}", value, low, 2 * LARGEST_WINDOW + 1)

    def __len__(self) -> int:
        return self.lattice[0] * self.lattice[1]

    def first(self, count: int) -> "WindowPlan":
        """Raise OptionError: the map needs every window."""
        raise OptionError(f"{count} windows of a lattice of {len(self)} make no map: all are needed")

    def renderer(self, height: int, width: int) -> WindowRenderer:
        """Return what draws the plan's masks over height x width pixels."""
        tops, lefts = (s * np.arange(n) - p for s, n, p in zip(self.stride, self.lattice, self.pad, strict=True))
        return WindowRenderer(tops, lefts, self.size, height, width)

    def lattice_maps(self, scores: np.ndarray) -> np.ndarray:
        """(N, R) scores y -> (R, rows, columns) float64: `1 - y` on the lattice."""
        return (1 - scores).T.reshape(-1, *self.lattice)

    def maps(self, scores: np.ndarray, height: int, width: int) -> np.ndarray:
        """(N, R) scores -> (R, H, W) float32: the lattice upsampled bilinearly with corners aligned."""
        down, across = corners_aligned(height, self.lattice[0]), corners_aligned(width, self.lattice[1])
        return (down @ self.lattice_maps(scores) @ across.T).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Window:
    """The sliding window (docs/method.md, Sliding window).

    size: the window's side; stride: distance between windows; pad: how far outside the picture the first one starts
    All are in pixels; None means the paper's share of each side, rounded (32, 4 and 8 at 112 x 112).
    Raises OptionError for values out of range.
    """

    size: int | None = None
    stride: int | None = None
    pad: int | None = None

    name: ClassVar[str] = "window"
    baseline: ClassVar[str] = "mean"
    estimator: ClassVar[str] = "sane"
    ends_early: ClassVar[bool] = False
    automatic: ClassVar[bool] = False
    enough: ClassVar[float | None] = None
    first_look: ClassVar[int] = AUTO[0]
    step: ClassVar[int | None] = None
    seed: ClassVar[None] = None

    def __post_init__(self) -> None:
        for name, low in (("size", 1), ("stride", 1), ("pad", 0)):
            if getattr(self, name) is not None:
                require_whole(name, getattr(self, name), low, LARGEST_WINDOW)

    def plan(self, pixels: np.ndarray) -> WindowPlan:
        """Return the plan for a picture (H, W, 3) uint8. Raises OptionError if the window does not fit into it."""
        sides = pixels.shape[0], pixels.shape[1]
        size = self._per_axis(self.size, PAPER_SIZE, 1, sides)
        stride = self._per_axis(self.stride, PAPER_STRIDE, 1, sides)
        pad = self._per_axis(self.pad, PAPER_PAD, 0, sides)
        counts = [(n + 2 * p - s) // t + 1 for n, p, s, t in zip(sides, pad, size, stride, strict=True)]
        if min(counts) < 1:
            raise OptionError(f"a window of {size} does not fit into {sides} pixels with a pad of {pad}")
        return WindowPlan(size, stride, pad, (counts[0], counts[1]))

    @staticmethod
    def _per_axis(chosen: int | None, share: float, least: int, sides: tuple[int, int]) -> tuple[int, int]:
        height, width = (max(round(share * side), least) if chosen is None else chosen for side in sides)
        return height, width


def corners_aligned(length: int, count: int) -> np.ndarray:
    """Return the weights of `count` samples at each of `length` pixels: (length, count) float64.

    They interpolate linearly; the first and last sample lie on the first and last pixel.
    """
    position = np.linspace(0, count - 1, length)
    return np.maximum(1 - np.abs(position[:, None] - np.arange(count)), 0)
