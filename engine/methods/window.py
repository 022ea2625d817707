"""Sliding window: hide one window at a time; where that lowers the similarity, the picture matters (docs/method.md)."""

import dataclasses
from typing import ClassVar

import numpy as np

from engine.errors import OptionError
from engine.protocol import require_whole
from kernels.window import WindowRenderer

PAPER_SIZE, PAPER_STRIDE, PAPER_PAD = 2 / 7, 1 / 28, 1 / 14
"""Shares of a side: 32, 4 and 8 of the paper's 112 pixels."""
LARGEST_WINDOW = 8192
"""Pixels that a size, stride or pad may have."""


@dataclasses.dataclass(frozen=True)
class WindowPlan:
    """size, stride, pad: pixels as (height, width); lattice: windows as (rows, columns), row-major.

    Window (i, j) covers rows `stride * i - pad .. + size`, columns likewise.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    lattice: tuple[int, int]

    def __len__(self) -> int:
        return self.lattice[0] * self.lattice[1]

    def first(self, count: int) -> "WindowPlan":
        """Raises OptionError."""
        raise OptionError(f"{count} windows of a lattice of {len(self)} make no map")

    def renderer(self, height: int, width: int) -> WindowRenderer:
        tops, lefts = (s * np.arange(n) - p for s, n, p in zip(self.stride, self.lattice, self.pad, strict=True))
        return WindowRenderer(tops, lefts, self.size, height, width)

    def lattice_maps(self, scores: np.ndarray) -> np.ndarray:
        """`1 - y` on the lattice: (N, R) -> (R, rows, columns) float64."""
        return (1 - scores).T.reshape(-1, *self.lattice)

    def maps(self, scores: np.ndarray, height: int, width: int) -> np.ndarray:
        """The lattice upsampled bilinearly, corners aligned: (N, R) -> (R, H, W) float32."""
        down, across = corners_aligned(height, self.lattice[0]), corners_aligned(width, self.lattice[1])
        return (down @ self.lattice_maps(scores) @ across.T).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Window:
    """size: the window's side; stride: between windows; pad: how far outside the picture the first starts; in pixels.

    None: the paper's shares of each side, rounded (32, 4 and 8 at 112 x 112). Raises OptionError for values out of range.
    """

    size: int | None = None
    stride: int | None = None
    pad: int | None = None

    name: ClassVar[str] = "window"
    baseline: ClassVar[str] = "mean"
    estimator: ClassVar[str] = "sane"
    ends_early: ClassVar[bool] = False
    automatic: ClassVar[bool] = False
    seed: ClassVar[None] = None

    def __post_init__(self) -> None:
        for name, low in (("size", 1), ("stride", 1), ("pad", 0)):
            if getattr(self, name) is not None:
                require_whole(name, getattr(self, name), low, LARGEST_WINDOW)

    def plan(self, pixels: np.ndarray) -> WindowPlan:
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
    """(length, count) float64: weights of `count` samples at each of `length` pixels, first and last on the corners."""
    position = np.linspace(0, count - 1, length)
    return np.maximum(1 - np.abs(position[:, None] - np.arange(count)), 0)
