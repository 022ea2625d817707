"""What the parts agree on: what the hot loop needs of a graph and of a plan, how plans are drawn, what options may be."""

from pathlib import Path
from typing import Protocol

import numpy as np

from engine.errors import OptionError
from kernels.plan import KernelPlan


class Runner(Protocol):
    """An open graph with one input and one output, on some provider; threads may share it."""

    path: Path

    def run(self, batch: np.ndarray) -> np.ndarray:
        """(B, ...) float32 as the network takes it -> (B, ...) float32; raises BundleError where that is not finite."""


class Renderer(Protocol):
    """Draws the masks of one plan at one size."""

    def masks(self, start: int, stop: int, out: np.ndarray) -> None:
        """Write masks start..stop into `out` (stop - start, H, W) float32: 1 where the picture shows, 0 where not."""

    def kernel_plan(self) -> KernelPlan:
        """What the CUDA kernel that draws the same masks needs."""


class Stage(Protocol):
    """Where masked pictures and their embeddings are while the hot loop runs: in numpy arrays, or on a GPU."""

    def __enter__(self) -> "Stage":
        """A run begins, without embeddings."""

    def __exit__(self, *_: object) -> None:
        """It ends."""

    def embed(self, first: int, count: int) -> None:
        """Show the picture through masks first..first + count in the rows of a buffer, and run the network over them.

        A GPU may have it done later, before `wait` or `embeddings` is.
        """

    def wait(self) -> None:
        """Until what was asked is done."""

    def embeddings(self) -> list[np.ndarray]:
        """Of all rows that were run, (n, D) float32 in parts; raises BundleError where one is not finite."""


class Plan(Protocol):
    """Which parts of a picture are shown in which of N passes; a few kilobytes."""

    def __len__(self) -> int:
        """N."""

    def first(self, count: int) -> "Plan":
        """The plan of its first masks alone; raises OptionError where a part says nothing."""

    def renderer(self, height: int, width: int) -> Renderer:
        """Raises OptionError where the plan does not fit the size."""

    def maps(self, scores: np.ndarray, height: int, width: int) -> np.ndarray:
        """Scores (N, R) of the masked query against R references -> maps (R, H, W) float32."""


LARGEST_PLAN = 1_000_000
"""Passes a plan may ask for."""


def require_seed(seed: object) -> None:
    """Raise OptionError unless `seed` is a key for `random_words`."""
    require_whole("seed", seed, 0, 2**64 - 1)


def random_words(seed: int, rows: int, words: int) -> np.ndarray:
    """(rows, words) little-endian uint64: raw Philox output, key = seed, the same in every version of numpy."""
    return np.random.Philox(key=seed).random_raw(rows * words).astype("<u8").reshape(rows, words)


def require_whole(name: str, value: object, low: int, high: int) -> None:
    """Raise OptionError unless `value` is a whole number in low..high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise OptionError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
