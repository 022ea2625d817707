"""A vision transformer of which some tokens are left out: one picture's tokens are made once, then only indices move."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from engine.bundle.manifest import TokenLayout
from engine.errors import BundleError
from engine.protocol import Runner


class Tail(Protocol):
    """Gives embeddings of the tokens that are kept. See `engine.runtime.token_tail.TokenTail`."""

    def run(self, tokens: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Tokens (T, D) float32 and indices (N, K) int64 -> (N, E) float32; raises BundleError if it cannot be run."""


class TokenNetwork:
    """stem: gives a picture's tokens; tail: the embeddings of those that are kept; layout: where tokens lie."""

    def __init__(self, stem: Runner, tail: Tail, layout: TokenLayout) -> None:
        self._stem, self._tail, self.layout = stem, tail, layout

    def stage(self, image: np.ndarray, kept: Callable[[int, int], np.ndarray], batch: int) -> "TokenStage":
        """Return where the hot loop runs one picture.

        image: (C, H, W) or (H, W, C) float32 as the network takes it; batch: rows of every network run
        kept: (start, stop) -> for each of these passes which patches it keeps, (n, K) int, from 0, in the layout's order
        """
        return TokenStage(self._tail, self._stem.run(image[None])[0], self.layout.prefix, kept, batch)

    def canonical_stem(self, image: np.ndarray) -> np.ndarray:
        """Return the stem's canonical result (W,) float32: the mean of a picture's tokens. image: as `stage` takes it"""
        return np.asarray(self._stem.run(image[None])[0].mean(0))

    def canonical(self, image: np.ndarray) -> np.ndarray:
        """Return the tail's canonical result (D,) float32: the embedding of every other patch. image: as `stage` takes it"""
        patches = np.arange(0, self.layout.rows * self.layout.columns, 2)[None]
        with self.stage(image, lambda start, stop: patches, 1) as stage:
            stage.embed(0, 1)
            return np.asarray(stage.embeddings()[0][0])


class TokenStage:
    """See `engine.protocol.Stage`: rows of the buffer are the indices of the tokens that a pass keeps.

    tokens: (T, D) float32, all of the picture's; prefix: so many of them have no place, and are always kept
    """

    waited = 0.0

    def __init__(
        self, tail: Tail, tokens: np.ndarray, prefix: int, kept: Callable[[int, int], np.ndarray], batch: int
    ) -> None:
        self._tail, self.tokens, self._prefix, self._kept = tail, tokens, prefix, kept
        self.batch = batch
        self._embeddings: list[np.ndarray] = []

    def __enter__(self) -> "TokenStage":
        self._embeddings = []
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to do."""

    def embed(self, first: int, count: int, until: float | None = None) -> bool:
        """Run passes first..first + count."""
        found = self._tail.run(self.tokens, self.rows(first, count))[:count]
        if not np.isfinite(found).all():
            raise BundleError("the graph of the tokens gives numbers that are not finite for this picture")
        self._embeddings.append(found)
        return True

    def rows(self, first: int, count: int) -> np.ndarray:
        """Return which tokens passes first..first + count keep, (batch, K) int64; the first one's again to fill the batch.

        Every run has as many rows: results may depend on it in the last bit.
        """
        patches = self._kept(first, first + count)
        rows = np.empty((self.batch, self._prefix + patches.shape[1]), np.int64)
        rows[:, : self._prefix] = np.arange(self._prefix)
        rows[:count, self._prefix :] = self._prefix + patches
        rows[count:] = rows[0]
        return rows

    def wait(self) -> None:
        """Return at once: `embed` has finished its work when it returns."""

    def embeddings(self) -> list[np.ndarray]:
        """(n, D) float32 for each batch."""
        return self._embeddings
