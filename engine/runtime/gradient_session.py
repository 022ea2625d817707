"""The graph that gives a similarity and its gradient with respect to every pixel; `export.gradient` makes it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from engine.protocol import GraphSignature
from engine.runtime.forks import Threaded
from engine.runtime.gpu_device import as_provider_error, close_with, shared_device
from engine.runtime.providers import GPU_PROVIDERS
from engine.runtime.session import check_nodes, open_session, run_finite
from kernels.areas import areas

T = TypeVar("T")

TARGET_INPUT, WEIGHTS_INPUT = "sane_target", "sane_weights"
"""Inputs besides the pictures, (B, D) float32: the embeddings to compare with, and weights by which both embeddings are
multiplied first: a condition's weights after relu, or ones."""
SIMILARITY_OUTPUT, GRADIENT_OUTPUT = "sane_similarity", "sane_gradient"
"""Outputs besides the embedding: (B,) float32, and (B, ...) float32 shaped like the pictures."""
CANONICAL_TILES = 4
"""A canonical gradient is summed over 4 x 4 tiles: single pixels depend on how a processor rounds at the kinks of ReLUs."""


class GradientSession:
    """See `engine.protocol.Gradients`.

    signature: the pictures' input, and the embedding's output with shape (D,)
    Raises BundleError if `export.gradient` does not make such a graph for these shapes, ProviderError if the provider is
    missing or cannot run it.
    """

    def __init__(self, path: Path, provider: str, threads: int | None, signature: GraphSignature) -> None:
        full_fp32 = {"use_tf32": "False"} if provider == "cuda" else None
        self._device = shared_device() if provider in GPU_PROVIDERS else None
        self._path, self._input = path, signature.input
        session = self._on_worker(lambda: open_session(path, provider, threads, full_fp32))
        self._session = [Threaded(session)]
        if self._device is not None:
            close_with(self, self._device, self._session.clear)
        vectors, pictures = signature.output_shape, signature.input_shape
        inputs: dict[str, tuple[int | None, ...]] = {
            signature.input: pictures,
            TARGET_INPUT: vectors,
            WEIGHTS_INPUT: vectors,
        }
        outputs: dict[str, tuple[int | None, ...]] = {
            signature.output: vectors,
            SIMILARITY_OUTPUT: (),
            GRADIENT_OUTPUT: pictures,
        }
        check_nodes(path, "input", session.get_inputs(), inputs)
        check_nodes(path, "output", session.get_outputs(), outputs)

    def run(self, pictures: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return similarities (B,) and gradients (B, ...), float32.

        pictures: (B, ...) as the network takes them; targets, weights: (B, D); all float32
        Raises BundleError if the result is not finite.
        """
        feeds = {self._input: pictures, TARGET_INPUT: targets, WEIGHTS_INPUT: weights}
        similarities, gradients = self._on_worker(
            lambda: run_finite(self._session[0].get(), self._path, [SIMILARITY_OUTPUT, GRADIENT_OUTPUT], feeds)
        )
        return similarities, gradients

    def _on_worker(self, job: Callable[[], T]) -> T:
        """Run `job`: on a GPU, in the one thread that owns it."""
        if self._device is None:
            return job()
        with as_provider_error(f"cannot run {self._path}"):
            return self._device.call(job)

    def canonical(self, picture: np.ndarray, embedding: np.ndarray, channels_last: bool) -> np.ndarray:
        """Return the canonical result (1 + 16,) float32: a similarity, and its gradient summed over channels and tiles.

        picture: one picture as the network takes it, float32; embedding: (D,), the picture's own
        """
        target = np.roll(embedding, 1)[None]  # not the embedding itself: there the cosine's gradient is 0
        similarity, gradient = self.run(picture[None], target, np.ones_like(target))
        by_pixel = gradient[0].sum(-1 if channels_last else 0)
        rows, columns = (areas(size, CANONICAL_TILES) for size in by_pixel.shape)
        tiles = (rows @ by_pixel @ columns.T) * (by_pixel.size / CANONICAL_TILES**2)
        return np.concatenate([similarity, tiles.ravel()]).astype(np.float32)
