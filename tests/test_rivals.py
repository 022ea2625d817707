"""What maps are compared by in `python -m benchmarks.rivals`, on maps made by hand, and what the page says of the rows."""

from typing import Any

import numpy as np
import pytest

from benchmarks.planted_pairs import CELL, SIDE, PlantedPair
from benchmarks.rival_measures import correlation, mass_over_area, points_at, rather_at, with_two_objects
from tools.rivals import MEASURES, verdict

PLACE, OTHER = (10, 20, 66, 76), (150, 140, 206, 196)


def planted(place: tuple[int, int, int, int], value: float = 1) -> np.ndarray:
    left, top, right, bottom = place
    saliency = np.zeros((SIDE, SIDE))
    saliency[top:bottom, left:right] = value
    return saliency


def test_a_map_of_the_object_has_all_its_mass_there() -> None:
    area = 56 * 56 / SIDE**2
    assert mass_over_area(planted(PLACE) - planted(OTHER), PLACE, has_zero=True) == pytest.approx(1 / area)
    assert mass_over_area(planted(PLACE) + 5, PLACE, has_zero=False) == pytest.approx(1 / area)
    assert mass_over_area(np.ones((SIDE, SIDE)), PLACE, has_zero=True) == pytest.approx(1)
    assert np.isnan(mass_over_area(np.zeros((SIDE, SIDE)), PLACE, has_zero=True))


def test_a_map_points_at_the_object_of_its_peak() -> None:
    saliency = planted(PLACE, 2) + planted(OTHER, 1)
    assert points_at(saliency, PLACE)
    assert not points_at(saliency, OTHER)
    assert rather_at(saliency, PLACE, OTHER)
    assert not rather_at(saliency, OTHER, PLACE)
    assert correlation(saliency, 3 - saliency) == pytest.approx(-1)


@pytest.mark.parametrize("first", [(3, 5, 60, 50), (120, 4, 200, 80), (2, 130, 90, 200), (114, 113, 224, 224)])
@pytest.mark.parametrize("second", [(7, 9, 80, 100), (140, 120, 210, 222)])
def test_a_query_with_two_objects_shows_both(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> None:
    def pair(place: tuple[int, int, int, int], value: int) -> PlantedPair:
        picture = np.repeat(planted(place, value).astype(np.uint8)[..., None], 3, 2)
        return PlantedPair("clip art", (picture, picture), (place, place), mirrored=False)

    one, two = pair(first, 100), pair(second, 200)
    query, place, other = with_two_objects(one, two)
    for where, value in ((place, 100), (other, 200)):
        assert (query[..., 0] == value).sum() == (where[2] - where[0]) * (where[3] - where[1])
        assert (query[where[1] : where[3], where[0] : where[2]] == value).all()
    assert all((a // CELL) != (b // CELL) for a, b in zip(place[:2], other[:2], strict=True))


def test_the_page_says_where_the_default_loses() -> None:
    differences: dict[str, Any] = {measure: {"low": -1.0, "high": 1.0} for measure in MEASURES}
    differences |= {
        "insertion": {"low": -2.0, "high": -1.0},
        "deletion": {"low": 0.1, "high": 0.2},
        "cpu_s": {"low": -3.0, "high": -2.0},
        "pointing": {"low": 0.1, "high": 0.3},
    }
    said = verdict({"method": "distance-explainer", "ours_less": differences})
    assert "better: pointing, CPU seconds; worse: insertion, deletion; no difference shown: mass over area" in said
