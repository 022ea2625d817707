"""A picture as a network sees it."""

import dataclasses
import hashlib
from collections.abc import Hashable

import numpy as np

from engine.pictures.preprocessing import Box


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the network sees it.

    pixels: (H, W, 3) uint8; box: the part of the upright original that it shows
    original_size: (width, height) of the upright original; None: not known, in files of older versions
    profile: its colour profile where that is not sRGB, and what became of it
    """

    pixels: np.ndarray
    box: Box
    original_size: tuple[int, int] | None = None
    profile: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def key(self) -> Hashable:
        """Equal for equal pictures."""
        return hashlib.sha256(self.pixels.tobytes()).digest(), self.box, self.original_size, self.profile
