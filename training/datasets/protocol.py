"""The protocol of a data set to train on: pictures, attributes that are true of them, and pairs that match."""

import dataclasses
from typing import Protocol

import numpy as np
from torch import Tensor

from engine.pictures.reading import Reading
from training.loop import Randomness

SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of pictures that match. left, right: (P,) int64, indices of pictures

    groups: (P,) int64; pairs of one group (one class, one outfit, one drawing) are not negatives of each other
    conditions: (P,) int64, index of each pair's type; all 0 if the data set has no types
    """

    left: np.ndarray
    right: np.ndarray
    groups: np.ndarray
    conditions: np.ndarray

    def __len__(self) -> int:
        return len(self.left)

    def __getitem__(self, chosen: np.ndarray) -> "Pairs":
        """Return some of the pairs. chosen: (B,) int64"""
        return Pairs(self.left[chosen], self.right[chosen], self.groups[chosen], self.conditions[chosen])


class DataSet(Protocol):
    """n pictures by index, 0 to n - 1; every picture is in one split at most.

    attributes: (A,) names; truth: (n, A) bool; conditions: names of the types of pairs, () if there are none
    size: side in pixels of the networks' pictures; reading: how files are read
    """

    attributes: tuple[str, ...]
    truth: np.ndarray
    conditions: tuple[str, ...]
    size: int
    reading: Reading

    def split(self, name: str) -> np.ndarray:
        """Return the pictures (m,) int64, sorted, of "train", "valid" or "test"."""

    def pairs(self, name: str) -> Pairs:
        """Return the pairs of that split; always the same ones in the same order."""

    def picture(self, index: int) -> np.ndarray:
        """Return a picture (H, W, 3) uint8 RGB, for the engine."""

    def plain(self, indices: np.ndarray) -> Tensor:
        """Return (n, 3, size, size) float32, normalised by `training.augment.normalise`, equal to what the engine feeds."""

    def augmented(self, indices: np.ndarray, randomness: Randomness) -> Tensor:
        """Return the same, jittered for training."""

    def views(self, pairs: Pairs, randomness: Randomness) -> Tensor:
        """Return (2P, 3, size, size) float32: the left pictures of the pairs, then the right ones, jittered for training."""
