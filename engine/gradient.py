"""The graph that gives a similarity and its gradient by every pixel in one run; `export.gradient` makes it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from engine.device import own, shared_device, told
from engine.session import GPU_PROVIDERS, check_nodes, opened, run_finite
from kernels.areas import areas

T = TypeVar("T")

TARGET, WEIGHTS = "sane_target", "sane_weights"
"""Inputs beside the pictures, (B, D) float32: the embeddings to compare with, and what both sides are multiplied by first: a
condition's weights after relu, or ones."""
SIMILARITY, GRADIENT = "sane_similarity", "sane_gradient"
"""Outputs beside the embedding: (B,) float32, and (B, ...) float32 shaped like the pictures."""
CANONICAL_TILES = 4
"""A side, into which a canonical gradient is summed: single pixels hang on how a processor rounds at the kinks of ReLUs."""


class GradientSession:
    """Raises BundleError where the graph is not one of `export.gradient` for these shapes, ProviderError as `Session`."""

    def __init__(
        self,
        path: Path,
        provider: str,
        threads: int | None,
        input_name: str,
        input_shape: tuple[int, ...],
        output_name: str,
        embedding: int,
    ) -> None:
        exact = {"use_tf32": "False"} if provider == "cuda" else None
        self._device = shared_device() if provider in GPU_PROVIDERS else None
        self._path, self._input = path, input_name
        session = self._do(lambda: opened(path, provider, threads, exact))
        self._session = [session]
        if self._device is not None:
            own(self, self._device, self._session.clear)
        vectors = (embedding,)
        inputs: dict[str, tuple[int | None, ...]] = {input_name: input_shape, TARGET: vectors, WEIGHTS: vectors}
        outputs: dict[str, tuple[int | None, ...]] = {output_name: vectors, SIMILARITY: (), GRADIENT: input_shape}
        check_nodes(path, "input", session.get_inputs(), inputs)
        check_nodes(path, "output", session.get_outputs(), outputs)

    def run(self, pictures: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Similarities (B,) and gradients (B, ...) float32.

        pictures (B, ...) as the network takes them; targets, weights (B, D); float32. Raises BundleError where the result is
        not finite.
        """
        feeds = {self._input: pictures, TARGET: targets, WEIGHTS: weights}
        similarities, gradients = self._do(lambda: run_finite(self._session[0], self._path, [SIMILARITY, GRADIENT], feeds))
        return similarities, gradients

    def _do(self, job: Callable[[], T]) -> T:
        """A GPU's work is done by the one thread that owns it."""
        if self._device is None:
            return job()
        with told(f"cannot run {self._path}"):
            return self._device.call(job)

    def canonical(self, picture: np.ndarray, embedding: np.ndarray, channels_last: bool) -> np.ndarray:
        """(1 + 16,) float32: what stands for the graph in a bundle: the similarity of one picture (...) float32 to another
        embedding than its own, and the gradient summed over channels and tiles. embedding: (D,) of that picture
        """
        target = np.roll(embedding, 1)[None]  # to itself a cosine has no gradient
        similarity, gradient = self.run(picture[None], target, np.ones_like(target))
        by_pixel = gradient[0].sum(-1 if channels_last else 0)
        rows, columns = (areas(size, CANONICAL_TILES) for size in by_pixel.shape)
        tiles = (rows @ by_pixel @ columns.T) * (by_pixel.size / CANONICAL_TILES**2)
        return np.concatenate([similarity, tiles.ravel()]).astype(np.float32)
