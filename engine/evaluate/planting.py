"""Planted regions: a piece of the reference pasted into another picture must stand out (docs/method.md, Sanity checks)."""

import dataclasses

import numpy as np

from engine.evaluate.map_maker import average_ranks

PIECE = 0.45
"""Side of the piece, as a share of the picture's."""


@dataclasses.dataclass(frozen=True, eq=False)
class Planted:
    """A picture (H, W, 3) uint8 with a piece of another. region: (H, W) bool, where it is"""

    pixels: np.ndarray
    region: np.ndarray


@dataclasses.dataclass(frozen=True)
class Localisation:
    """How well a map finds a region.

    mass: the share of what raises the similarity that lies in the region, over its share of the picture; 1 by chance
    pointing: the share of the map's highest pixels, mostly one, that lie in it; its share of the picture by chance
    auroc: the probability that a pixel of the region is above one outside; 0.5 by chance
    """

    mass: float
    pointing: float
    auroc: float


def plant(ground: np.ndarray, reference: np.ndarray, random: np.random.Generator) -> Planted:
    """Paste the middle of the reference into another picture at a random place. ground, reference: (H, W, 3) uint8"""
    height, width = ground.shape[:2]
    down, across = round(PIECE * height), round(PIECE * width)
    y, x = (height - down) // 2, (width - across) // 2
    top, left = int(random.integers(height - down + 1)), int(random.integers(width - across + 1))
    pixels, region = ground.copy(), np.zeros((height, width), bool)
    region[top : top + down, left : left + across] = True
    pixels[region] = reference[y : y + down, x : x + across].reshape(-1, 3)
    return Planted(pixels, region)


def localisation(map_: np.ndarray, region: np.ndarray, signed: bool) -> Localisation:
    """Judge a map (H, W) float by a region (H, W) bool that has pixels in it and outside.

    signed: whether 0 means "does not matter", as in similarity units; else the map's own least value does
    """
    raising = np.maximum(map_, 0) if signed else map_ - map_.min()
    whole, area = raising.sum(), region.mean()
    mass = float(raising[region].sum() / whole / area) if whole > 0 else 0.0
    inside = int(region.sum())
    ranks = float(average_ranks(map_)[region.ravel()].sum())
    auroc = (ranks - inside * (inside + 1) / 2) / (inside * (region.size - inside))
    return Localisation(mass, float(region[map_ == map_.max()].mean()), float(auroc))
