"""What a map of a planted pair is judged by, beside the curves of `engine.evaluate`."""

import numpy as np

from benchmarks.planted_pairs import CELL, SIDE, Place, PlantedPair


def inside(place: Place) -> np.ndarray:
    """Return the pixels (SIDE, SIDE) bool of a place."""
    left, top, right, bottom = place
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top:bottom, left:right] = True
    return mask


def points_at(saliency: np.ndarray, place: Place) -> bool:
    """Return whether the largest value of a map (SIDE, SIDE) lies in a place."""
    return bool(inside(place).ravel()[saliency.argmax()])


def mass_over_area(saliency: np.ndarray, place: Place, has_zero: bool) -> float:
    """Return the share of a map's mass in a place, divided by the place's share of the picture: 1 for a constant map.

    saliency: (SIDE, SIDE); has_zero: the values above 0 count; else, values count from the smallest one
    Returns nan for a map without mass.
    """
    mass = np.maximum(saliency, 0) if has_zero else saliency - saliency.min()
    mask = inside(place)
    return float(mass[mask].sum() / mass.sum() / mask.mean()) if mass.sum() > 0 else np.nan


def rather_at(saliency: np.ndarray, place: Place, other: Place) -> bool:
    """Return whether the largest value of a map (SIDE, SIDE) in one place is above that in another."""
    return bool(saliency[inside(place)].max() > saliency[inside(other)].max())


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Pearson's correlation of two maps (SIDE, SIDE)."""
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def with_two_objects(first: PlantedPair, second: PlantedPair) -> tuple[np.ndarray, Place, Place]:
    """Return a query with the objects of two pairs, and where each lies: (SIDE, SIDE, 3) uint8 and two places.

    It is the first picture of `first`; the square across from its object is replaced by that around the object of `second`.
    """
    (left, top), (from_left, from_top) = (_corner(pair.places[0]) for pair in (first, second))
    to_left, to_top = CELL - left, CELL - top
    picture = first.pictures[0].copy()
    cut = second.pictures[0][from_top : from_top + CELL, from_left : from_left + CELL]
    picture[to_top : to_top + CELL, to_left : to_left + CELL] = cut
    across, down = to_left - from_left, to_top - from_top
    place = second.places[0]
    return picture, first.places[0], (place[0] + across, place[1] + down, place[2] + across, place[3] + down)


def _corner(place: Place) -> tuple[int, int]:
    """Return left and top of the square that a place lies in."""
    return place[0] // CELL * CELL, place[1] // CELL * CELL
