"""An explanation as the service answers it: its numbers, its maps on 16 x 16 tiles, and where the rest of it is."""

from typing import Any

import numpy as np

from engine.explanation import SUFFIXES, Explanation
from engine.findings import ARRAYS, ATTRIBUTE_LISTS
from engine.saliency.tile_means import tile_means

DIGITS = 6
"""Significant digits of a tile's value."""


def answer(explanation: Explanation, key: str | None = None) -> dict[str, Any]:
    """Return it ready for JSON.

    key: the id under which it is kept; None: it is not
    saliency, saliency_error, reference_saliency, reference_saliency_error: 16 rows of 16 numbers, means over equal tiles and
        their standard errors; None where there are none
    """
    tiles = {
        name: None if (own := getattr(explanation, name)) is None else _rows(tile_means(own))
        for name in ("saliency", "reference_saliency")
    }
    errors = {
        name: None if (own := getattr(explanation, name)) is None else _rows(own)
        for name in ("saliency_error", "reference_saliency_error")
    }
    kept = {} if key is None else {"id": key, "files": {s[1:]: f"/v1/explanations/{key}{s}" for s in SUFFIXES}}
    return {**kept, **explanation.to_dict(), **tiles, **errors}


def size_of_explanation(explanation: Explanation) -> int:
    """Return the memory that its arrays take, attributes' maps included, and pictures that an index reads when they are
    looked at.
    """
    own = [vars(explanation)[name] for name in ARRAYS]
    unread = 3 * explanation.saliency.size * sum(map(callable, own))
    maps = [attribute.map for kind in ATTRIBUTE_LISTS for attribute in getattr(explanation, kind)]
    return unread + sum(array.nbytes for array in (*own, *maps) if isinstance(array, np.ndarray))


def _rows(values: np.ndarray) -> list[list[float]]:
    return [[float(f"{v:.{DIGITS}g}") for v in row] for row in values.tolist()]
