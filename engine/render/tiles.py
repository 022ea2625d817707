"""Tiles over query and reference in a page: pointing at one lights up the tiles of the other picture that match it."""

import json
import math
from collections.abc import Sequence

import numpy as np

from engine.findings import Findings
from engine.render.panels import Panel

MOSTLY_NOISE = 0.5
"""A correspondence with less split-half reliability is called mostly noise."""
LARGEST_TILED = 256
"""Most tiles per picture for which the page has a script: it holds tiles * tiles numbers."""
TILE_STYLE = """
.tiles { position: absolute; inset: 0; display: grid; grid: repeat(var(--side), 1fr) / repeat(var(--side), 1fr); }
.tiles button { appearance: none; border: 0; padding: 0; margin: 0; min-width: 0; border-radius: 0; cursor: crosshair;
  background: rgb(20 90 255 / calc(.8 * var(--match, 0))); outline: none; touch-action: manipulation; }
.tiles .here { box-shadow: inset 0 0 0 3px #145aff, inset 0 0 0 5px #fff, 0 0 0 2px #fff; z-index: 1; }
"""
HOW_TO = (
    "Point at, tap, or move with the arrow keys over either picture: the other lights up where it matches, most at the best "
    "match"
)

SCRIPT = """
for (const pair of document.querySelectorAll("[data-correspondence]")) {
  const matrix = JSON.parse(pair.dataset.correspondence);
  const grids = [...pair.querySelectorAll(".tiles")].map(grid => [...grid.children]);
  const tiles = grids.flat();
  const tileOf = node => node && tiles.includes(node) ? node : null;
  const sideOf = tile => grids[0].includes(tile) ? 0 : 1;

  function light(tile) {
    for (const t of tiles) { t.classList.toggle("here", t === tile); t.style.setProperty("--match", 0); }
    if (!tile) return;
    const side = sideOf(tile), i = grids[side].indexOf(tile);
    const values = side ? matrix.map(row => row[i]) : matrix[i];
    const most = Math.max(...values);
    if (most > 0) grids[1 - side].forEach((t, j) => t.style.setProperty("--match", Math.max(values[j], 0) / most));
  }

  pair.addEventListener("pointerover", e => { if (e.pointerType === "mouse" && tileOf(e.target)) light(e.target); });
  pair.addEventListener("pointerout", e => { if (e.pointerType === "mouse") light(tileOf(document.activeElement)); });
  pair.addEventListener("click", e => { if (tileOf(e.target)) { e.target.focus(); light(e.target); } });
  pair.addEventListener("focusout", () => light(null));
  pair.addEventListener("focusin", e => {
    if (!tileOf(e.target)) return;
    for (const t of grids[sideOf(e.target)]) t.tabIndex = t === e.target ? 0 : -1;  // tab comes back to this tile
    light(e.target);
  });
  pair.addEventListener("keydown", e => {
    const tile = tileOf(e.target);
    if (tile && e.key === "Escape") tile.blur();
    const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[e.key];
    if (!tile || !step) return;
    e.preventDefault();
    const grid = grids[sideOf(tile)], side = Math.sqrt(grid.length), i = grid.indexOf(tile);
    const row = Math.floor(i / side) + step[0], column = i % side + step[1];
    if (Math.min(row, column) >= 0 && Math.max(row, column) < side) grid[row * side + column].focus();
  });
}
"""
"""Lights up in one picture the tiles that match a tile of the other, which the reader points at, taps or focuses."""


def has_tiles(explanation: Findings) -> bool:
    """Whether the page has tiles to point at for this explanation."""
    return explanation.correspondence is not None and max(explanation.correspondence.shape) <= LARGEST_TILED


def how_to(explanation: Findings) -> str:
    """Return what a reader can do with the tiles, and how far they can be trusted."""
    value = explanation.correspondence_reliability
    trust = "too few masks to say how reliable" if value is None else f"split-half reliability {value:.2f}"
    return f"{HOW_TO} ({trust}{', mostly noise' if value is not None and value < MOSTLY_NOISE else ''})."


def inset(panel: Panel) -> str:
    """Return the style that lays tiles over what the network saw of a panel, and cuts off what lies outside the panel."""
    if panel.seen is None:
        return ""
    (left, top, right, bottom), (width, height) = panel.seen, panel.picture.size
    sides = (top / height, 1 - right / width, 1 - bottom / height, left / width)
    cuts = (
        -top / (bottom - top),
        (right - width) / (right - left),
        (bottom - height) / (bottom - top),
        -left / (right - left),
    )
    clipped = f";clip-path:inset({_percentages([max(0.0, cut) for cut in cuts])})" if max(cuts) > 0 else ""
    return f";inset:{_percentages(sides)}{clipped}"


def _percentages(sides: Sequence[float]) -> str:
    return " ".join(f"{100 * side:.4g}%" for side in sides)


def tile_grid(picture: str, other: str, matrix: np.ndarray, style: str = "") -> str:
    """Return a grid of buttons over a picture, one per tile; the tab key reaches the first, arrow keys the others.

    picture, other: "query" and "reference" or the other way round; matrix: (T, other T), this picture's tiles in rows
    style: where the grid lies, if not over the whole picture
    """
    side, other_side = (math.isqrt(count) for count in matrix.shape)
    buttons = []
    for tile, row in enumerate(matrix):
        best = int(row.argmax())
        match = f"best match in {other} {_place(best, other_side)}" if row[best] > 0 else f"no match in {other}"
        focus = 0 if tile == 0 else -1
        buttons.append(
            f"<button type=button tabindex={focus} aria-label='{picture} {_place(tile, side)}: {match}'></button>"
        )
    return (
        f"<div class=tiles role=group style='--side:{side}{style}' aria-label='{picture} in {side} by {side} tiles'>"
        f"{''.join(buttons)}</div>"
    )


def _place(tile: int, side: int) -> str:
    row, column = divmod(tile, side)
    return f"row {row + 1} column {column + 1}"


def matrix_json(matrix: np.ndarray) -> str:
    """Return a matrix as JSON: rows of numbers with 4 significant digits."""
    return json.dumps([[float(f"{value:.4g}") for value in row] for row in matrix], separators=(",", ":"))
