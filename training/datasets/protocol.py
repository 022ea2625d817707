"""What training asks of a data set: pictures, attributes that are true of them, and pairs that match."""

import dataclasses
from typing import Protocol

import numpy as np
from torch import Tensor

from training.loop import Randomness

SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Pictures that match. left, right: (P,) int64, indices of pictures

    groups: (P,) int64; pictures of pairs of one group are not held against each other (one class, one outfit, one drawing)
    conditions: (P,) int64, index of each pair's type; all 0 where the data set has no types
    """

    left: np.ndarray
    right: np.ndarray
    groups: np.ndarray
    conditions: np.ndarray

    def __len__(self) -> int:
        return len(self.left)

    def __getitem__(self, chosen: np.ndarray) -> "Pairs":
        """chosen: (B,) int64"""
        return Pairs(self.left[chosen], self.right[chosen], self.groups[chosen], self.conditions[chosen])


class DataSet(Protocol):
    """Pictures by index, 0 .. n - 1; a split's pictures are in no other split.

    attributes: (A,) names; truth: (n, A) bool; conditions: names of the types of pairs, () where there are none
    size: side in pixels of what the networks see
    """

    attributes: tuple[str, ...]
    truth: np.ndarray
    conditions: tuple[str, ...]
    size: int

    def split(self, name: str) -> np.ndarray:
        """(m,) int64, sorted: the pictures of "train", "valid" or "test"."""

    def pairs(self, name: str) -> Pairs:
        """Of pictures of that split; always the same ones in the same order."""

    def picture(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB, for the engine."""

    def plain(self, indices: np.ndarray) -> Tensor:
        """(n, 3, size, size) float32, normalised by `training.augment.normalise`: as the engine would feed them."""

    def augmented(self, indices: np.ndarray, randomness: Randomness) -> Tensor:
        """The same, jittered for training."""

    def views(self, pairs: Pairs, randomness: Randomness) -> Tensor:
        """(2P, 3, size, size): the left pictures of the pairs, then the right ones, jittered for training."""
