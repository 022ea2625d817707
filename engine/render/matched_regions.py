"""Regions that match, drawn: the strongest links of a correspondence as numbered tiles on both pictures."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.findings import Findings

Link = tuple[int, int, float]
"""Query tile, reference tile, how much they match."""

COLOURS = ("#0a5fd6", "#c2187a", "#0b7a43", "#5b3a1e")
"""One per link drawn, strongest first; none is a colour of the heat maps."""
MOSTLY_NOISE = 0.5


def strongest_links(correspondence: np.ndarray, count: int) -> list[Link]:
    """(Tq, Tr) -> up to `count` pairs of tiles that are each other's best match, with a positive value, strongest first."""
    best = correspondence.argmax(1)
    mutual = np.flatnonzero(correspondence.argmax(0)[best] == np.arange(len(best)))
    links = [(int(tile), int(best[tile]), float(correspondence[tile, best[tile]])) for tile in mutual]
    return sorted((link for link in links if link[2] > 0), key=lambda link: -link[2])[:count]


def grid_side(tiles: int) -> int:
    """s of s * s tiles."""
    return math.isqrt(tiles)


def reliability_text(explanation: Findings) -> str:
    """How far the regions can be trusted, in a few words."""
    value = explanation.correspondence_reliability
    if value is None:
        return "too few masks to say how reliable"
    noise = ", mostly noise" if value < MOSTLY_NOISE else ""
    return f"split-half reliability {value:.2f}{noise}"


def links_text(explanation: Findings) -> str | None:
    """The caption of the links drawn; None without a correspondence."""
    if explanation.correspondence is None:
        return None
    found = strongest_links(explanation.correspondence, len(COLOURS))
    words = "equal numbers: regions that match" if found else "no two regions match each other best"
    return f"{words} ({reliability_text(explanation)})"


def mark_links(correspondence: np.ndarray, query: Image.Image, reference: Image.Image) -> None:
    """Draw the strongest links onto both panels. (Tq, Tr), tiles row-major."""
    for i, (query_tile, reference_tile, _) in enumerate(strongest_links(correspondence, len(COLOURS))):
        _mark(query, query_tile, grid_side(correspondence.shape[0]), i)
        _mark(reference, reference_tile, grid_side(correspondence.shape[1]), i)


def _mark(panel: Image.Image, tile: int, side: int, number: int) -> None:
    """Outline one tile and number it, with white around the colour to show on any picture."""
    row, column = divmod(tile, side)
    left, right = (round(panel.width * c / side) for c in (column, column + 1))
    top, bottom = (round(panel.height * r / side) for r in (row, row + 1))
    draw = ImageDraw.Draw(panel)
    draw.rectangle((left, top, right - 1, bottom - 1), outline="white", width=5)
    draw.rectangle((left + 1, top + 1, right - 2, bottom - 2), outline=COLOURS[number], width=3)
    draw.rectangle((left + 1, top + 1, left + 15, top + 17), fill=COLOURS[number])
    draw.text((left + 8, top + 9), str(number + 1), fill="white", font=ImageFont.load_default(14), anchor="mm")
