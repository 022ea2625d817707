"""What the rooms agree on: graphs that run, plans that draw masks, and who is told how far things are."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from engine.errors import OptionError
from kernels.plan import KernelPlan

Progress = Callable[[int, int], None]
"""Called with (network rows done, network rows in all)."""
Notice = Callable[[str], None]
"""Called with one line about something that takes long, or that was tried and did not work."""
FIXED, PAIR, BOTH = MODES = ("fixed", "pair", "both")
LARGEST_PLAN = 1_000_000
"""Passes a plan may ask for."""


def silent(done: int, total: int) -> None:
    """Progress that nobody asked for."""


def ignore_notice(line: str) -> None:
    """Notices that nobody asked for."""


@dataclasses.dataclass(frozen=True)
class GraphSignature:
    """What a graph with one input and one output takes and gives.

    input, output: their names
    input_shape, output_shape: of one picture, without the batch; None for a size that may be anything
    """

    input: str
    input_shape: tuple[int, ...]
    output: str
    output_shape: tuple[int | None, ...]


class Renderer(Protocol):
    """Draws the masks of one plan at one size."""

    def masks(self, start: int, stop: int, out: np.ndarray) -> None:
        """Write masks start..stop into `out` (stop - start, H, W) float32: 1 where the picture shows, 0 where not."""

    def kernel_plan(self) -> KernelPlan:
        """What the CUDA kernel that draws the same masks needs."""


class Stage(Protocol):
    """Where masked pictures and their embeddings are kept while the hot loop runs: in numpy arrays, or on a GPU.

    batch: rows of every network run
    """

    batch: int
    waited: float
    """Seconds that the last `embed` waited for others to leave the network; 0 where nobody else has it."""

    def __enter__(self) -> "Stage":
        """Begin a run, with no embeddings yet."""

    def __exit__(self, *_: object) -> None:
        """End it."""

    def embed(self, first: int, count: int, until: float | None = None) -> bool:
        """Show the picture through masks first..first + count in the rows of a buffer, and run the network over them.

        A GPU may do so later, but no later than `wait` or `embeddings`. Returns False, with nothing embedded, where others
        have the network and a run could not end before `until`, a time.perf_counter(); None: wait as long as it takes.
        """

    def wait(self) -> None:
        """Return when everything asked for so far is done."""

    def embeddings(self) -> list[np.ndarray]:
        """All rows that were run, (n, D) float32 in parts; raises BundleError where a number is not finite."""


class Runner(Protocol):
    """An open graph with one input and one output, on some provider; threads may share it."""

    path: Path

    def run(self, batch: np.ndarray) -> np.ndarray:
        """(B, ...) float32 as the network takes it -> (B, ...) float32; raises BundleError where a number is not finite."""

    def stage(self, renderer: Renderer, image: np.ndarray, baseline: np.ndarray, channels_last: bool, batch: int) -> Stage:
        """Where the hot loop runs one picture through this graph.

        image, baseline: (C, H, W), or (H, W, C) if `channels_last`, float32, as the network takes them
        batch: rows of every network run; a GPU has its own
        """


class Gradients(Protocol):
    """An open graph that gives a similarity and its gradient with respect to every pixel."""

    def run(self, pictures: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Similarities (B,) and gradients (B, ...), float32; raises BundleError where a number is not finite.

        pictures: (B, ...) as the network takes them; targets: (B, D) embeddings to compare with; weights: (B, D), what both
        embeddings are multiplied by first; all float32
        """


class Plan(Protocol):
    """Which parts of a picture are shown in which of N passes; a few kilobytes."""

    def __len__(self) -> int:
        """N."""

    def first(self, count: int) -> "Plan":
        """The first `count` masks alone; raises OptionError where a part of the plan gives no map."""

    def renderer(self, height: int, width: int) -> Renderer:
        """Raises OptionError where the plan does not fit the size."""

    def maps(self, scores: np.ndarray, height: int, width: int) -> np.ndarray:
        """Scores (N, R) of the masked query against R references -> maps (R, H, W) float32."""


def require_mode(mode: str) -> None:
    """Raise OptionError unless `mode` is one of MODES."""
    if mode not in MODES:
        raise OptionError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")


def require_seed(seed: object) -> None:
    """Raise OptionError unless `seed` is a key for `random_words`."""
    require_whole("seed", seed, 0, 2**64 - 1)


def random_words(seed: int, rows: int, words: int) -> np.ndarray:
    """(rows, words) little-endian uint64: raw Philox output with the seed as its key, the same in every version of numpy."""
    return np.random.Philox(key=seed).random_raw(rows * words).astype("<u8").reshape(rows, words)


def require_whole(name: str, value: object, low: int, high: int) -> None:
    """Raise OptionError unless `value` is a whole number in low..high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        advice = f": give int({name})" if isinstance(value, np.integer) and low <= value <= high else ""
        raise OptionError(f"{name} must be a whole number from {low} to {high}, got {value!r}{advice}")


def require_top(top: int | None) -> None:
    """Raise OptionError unless it is None or a whole number."""
    if top is not None:
        require_whole("top", top, 0, LARGEST_PLAN)


def require_arrays(**arrays: object) -> None:
    """Raise OptionError unless all of a plan's parts, given by name, are numpy arrays."""
    for name, value in arrays.items():
        if not isinstance(value, np.ndarray):
            raise OptionError(f"a plan's {name} must be a numpy array, got {type(value).__name__}")
