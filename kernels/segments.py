"""Masks of superpixels: each segment of a picture is shown or hidden."""

import numpy as np

from kernels.plan import KernelPlan, packed, whole


class SegmentRenderer:
    """The masks of one plan.

    segments: (H, W) int, the segment of each pixel, in [0, S); samples: (N, S) bool, True if the segment is shown
    """

    def __init__(self, segments: np.ndarray, samples: np.ndarray) -> None:
        self._segments = segments
        self._samples = samples

    def masks(self, start: int, stop: int, out: np.ndarray) -> None:
        """Write masks start..stop into `out` (stop - start, H, W) float32: 1 where the segment is shown, else 0."""
        np.take(self._samples[start:stop].astype(np.float32), self._segments, axis=1, out=out)

    def kernel_plan(self) -> KernelPlan:
        """Return the same masks for the CUDA kernel."""
        words = packed(self._samples)
        return KernelPlan("segments", len(words), (whole(self._segments), words, words.shape[1]))
