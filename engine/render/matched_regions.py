"""Draw regions that match: the strongest links of a correspondence, as numbered tiles on both pictures."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.findings import Findings

Link = tuple[int, int, float]
"""(query tile, reference tile, how well they match)."""
Region = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of a panel; may reach outside it."""

COLOURS = ("#0a5fd6", "#c2187a", "#0b7a43", "#5b3a1e")
"""One per drawn link, strongest first; none is a colour of the heat maps."""
SMALLEST_TILE = 4
"""A tile with a shorter side, in pixels of the panel, is not drawn."""
MOSTLY_NOISE = 0.5
"""A correspondence with less split-half reliability is called mostly noise."""


def strongest_links(correspondence: np.ndarray, count: int) -> list[Link]:
    """Return up to `count` pairs of tiles that are each other's best match, with a positive value, strongest first.

    correspondence: (Tq, Tr) float
    """
    best = correspondence.argmax(1)
    mutual = np.flatnonzero(correspondence.argmax(0)[best] == np.arange(len(best)))
    links = [(int(tile), int(best[tile]), float(correspondence[tile, best[tile]])) for tile in mutual]
    return sorted((link for link in links if link[2] > 0), key=lambda link: -link[2])[:count]


def grid_side(tiles: int) -> int:
    """Return s for s * s tiles."""
    return math.isqrt(tiles)


def reliability_text(explanation: Findings) -> str:
    """Say in a few words how far the regions can be trusted."""
    value = explanation.correspondence_reliability
    if value is None:
        return "too few masks to say how reliable"
    noise = ", mostly noise" if value < MOSTLY_NOISE else ""
    return f"split-half reliability {value:.2f}{noise}"


def links_text(explanation: Findings) -> str | None:
    """Return the caption of the drawn links; None without a correspondence."""
    if explanation.correspondence is None:
        return None
    found = strongest_links(explanation.correspondence, len(COLOURS))
    words = "equal numbers: regions that match" if found else "no two regions match each other best"
    return f"{words} ({reliability_text(explanation)})"


def mark_links(
    correspondence: np.ndarray,
    query: Image.Image,
    reference: Image.Image,
    seen: tuple[Region | None, Region | None] = (None, None),
) -> None:
    """Draw the strongest links onto both panels.

    correspondence: (Tq, Tr), tiles row-major; seen: what the network saw of query and reference, None: all of the panel
    """
    for i, (query_tile, reference_tile, _) in enumerate(strongest_links(correspondence, len(COLOURS))):
        _mark(query, seen[0], query_tile, grid_side(correspondence.shape[0]), i)
        _mark(reference, seen[1], reference_tile, grid_side(correspondence.shape[1]), i)


def _mark(panel: Image.Image, seen: Region | None, tile: int, side: int, number: int) -> None:
    """Outline one tile and number it; the colour has a white edge, so that it shows on any picture."""
    row, column = divmod(tile, side)
    x, y, end_x, end_y = seen or (0, 0, panel.width, panel.height)
    left, right = (min(max(round(x + (end_x - x) * c / side), 0), panel.width) for c in (column, column + 1))
    top, bottom = (min(max(round(y + (end_y - y) * r / side), 0), panel.height) for r in (row, row + 1))
    if right - left < SMALLEST_TILE or bottom - top < SMALLEST_TILE:  # in the border around a padded picture
        return
    draw = ImageDraw.Draw(panel)
    draw.rectangle((left, top, right - 1, bottom - 1), outline="white", width=5)
    draw.rectangle((left + 1, top + 1, right - 2, bottom - 2), outline=COLOURS[number], width=3)
    draw.rectangle((left + 1, top + 1, left + 15, top + 17), fill=COLOURS[number])
    draw.text((left + 8, top + 9), str(number + 1), fill="white", font=ImageFont.load_default(14), anchor="mm")
