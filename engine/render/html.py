"""Explanations as one self-contained HTML page: it fetches nothing, and its scripts only light up what is pointed at."""

import base64
import html
import io
import json
from collections.abc import Sequence

import numpy as np
from PIL import Image

from engine.findings import ATTRIBUTE_LISTS, Findings
from engine.render.attribute_table import ATTRIBUTE_SCRIPT, ATTRIBUTE_STYLE, attribute_tables, where_canvas
from engine.render.matched_regions import grid_side, links_text, reliability_text
from engine.render.png import PANEL, Panel, byline, headline, linked_panels, panels

LARGEST_TILED = 256
"""Most tiles per picture for which the page has a script: it holds tiles * tiles numbers."""

ORIGINALS = ("query_size", "reference_size", "rather_than_size")
"""Numbers that a page lists only if its panels are of the original pictures."""

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1e; max-width: 1020px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.15rem; margin: 0; } h3 { font-size: 1rem; margin: 1rem 0 0; }
section { border-top: 1px solid #ddd; padding: 1.5rem 0; }
.panels { margin: 1rem 0; }
figure { margin: 0; } figcaption, .by, th { color: #6e6e73; font-size: .9rem; font-weight: normal; }
img { display: block; max-width: 100%; border-radius: 4px; }
details { margin-top: 1rem; } dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dt { color: #6e6e73; } dd { margin: 0; overflow-wrap: anywhere; }
.match { position: relative; width: fit-content; }
.tiles { position: absolute; inset: 0; display: grid; grid: repeat(var(--side), 1fr) / repeat(var(--side), 1fr); }
.tiles button { appearance: none; border: 0; padding: 0; margin: 0; min-width: 0; border-radius: 0; cursor: crosshair;
  background: rgb(20 90 255 / calc(.8 * var(--match, 0))); outline: none; touch-action: manipulation; }
.tiles .here { box-shadow: inset 0 0 0 3px #145aff, inset 0 0 0 5px #fff, 0 0 0 2px #fff; z-index: 1; }
"""

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


def page(explanations: Sequence[Findings], shown: Sequence[Sequence[Panel]] | None = None) -> str:
    """Return the text of a page with a section per explanation.

    shown: each one's panels, to draw instead of the pictures as the network saw them
    """
    each = [None] * len(explanations) if shown is None else shown
    sections = "\n".join(
        section(e, i + 1, len(explanations), own) for i, (e, own) in enumerate(zip(explanations, each, strict=True))
    )
    scripts = [SCRIPT] if any(has_tiles(e) for e in explanations) else []
    scripts += [ATTRIBUTE_SCRIPT] if any(getattr(e, kind) for e in explanations for kind in ATTRIBUTE_LISTS) else []
    script = "".join(f"<script>{text}</script>\n" for text in scripts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Why do these images match?</title><style>{STYLE}{ATTRIBUTE_STYLE}</style></head>\n"
        f"<body><h1>Why do these images match?</h1>\n{sections}\n{script}</body></html>\n"
    )


def section(explanation: Findings, number: int, count: int, shown: Sequence[Panel] | None = None) -> str:
    """Return the section of one explanation: its pictures, attributes and numbers. number: 1 to count; shown: see `page`"""
    which = f"Reference {number} of {count}: " if count > 1 else ""
    left_out = (*ATTRIBUTE_LISTS, "notes", *(ORIGINALS if shown is None else ()))
    numbers = {k: v for k, v in explanation.to_dict().items() if k not in left_out and v is not None}
    rows = "".join(f"<dt>{escaped(k)}</dt><dd>{escaped(v)}</dd>" for k, v in numbers.items())
    notes = "".join(f"<p class=by>{escaped(note)}</p>" for note in explanation.notes)
    return (
        f"<section><h2>{which}{escaped(headline(explanation))}</h2><p class=by>{escaped(byline(explanation))}</p>"
        f"{figure(explanation, has_tiles(explanation), shown, in_page=True)}{attribute_tables(explanation)}{notes}"
        f"<details><summary>All numbers</summary><dl>{rows}</dl></details></section>"
    )


def has_tiles(explanation: Findings) -> bool:
    """Whether the page has tiles to point at for this explanation."""
    return explanation.correspondence is not None and max(explanation.correspondence.shape) <= LARGEST_TILED


def figure(explanation: Findings, tiles: bool = False, shown: Sequence[Panel] | None = None, in_page: bool = False) -> str:
    """Return the panels, with inline styles because notebooks show them without the page.

    tiles: add tiles for the page's script; otherwise the strongest links are drawn; shown: see `page`
    in_page: add layers for the page's other script, which shows where an attribute is seen
    """
    if not tiles:
        shown = linked_panels(explanation, shown)
    elif shown is None:
        shown = panels(explanation)
    matrix = explanation.correspondence if tiles else None
    text = links_text(explanation)
    layers: dict[str, str] = {}
    data = ""
    if matrix is not None:
        query, reference = (next(p for p in shown if p.caption == name) for name in ("query", "reference"))
        layers = {
            "query": tile_grid("query", "reference", matrix, inset(query)),
            "reference": tile_grid("reference", "query", matrix.T, inset(reference)),
        }
        data = f" data-correspondence='{matrix_json(matrix)}'"
        text = (
            "Point at, tap, or move with the arrow keys over either picture: the other lights up where it matches, "
            f"most at the best match ({reliability_text(explanation)})."
        )
    for panel in shown if in_page else ():
        if panel.caption in ("query", "reference"):
            layers[panel.caption] = layers.get(panel.caption, "") + where_canvas(panel.caption, inset(panel).lstrip(";"))
    drawn = "".join(
        f"<figure><div class=match><img alt='{escaped(p.caption)}' src='{_data_uri(p.picture)}'>{layers.get(p.caption, '')}"
        f"</div><figcaption>{escaped(p.caption)}</figcaption></figure>"
        for p in shown
    )
    below = f"<p class=by>{escaped(text)}</p>" if text else ""
    return f"<div class=panels style='{_layout(explanation)}'{data}>{drawn}</div>{below}"


def _layout(explanation: Findings) -> str:
    """Return the style of the panels: one row, or with two maps each map below its picture."""
    if explanation.reference_saliency is None:
        return "display:flex;flex-wrap:wrap;gap:1rem"
    return f"display:grid;grid:auto auto/repeat(2,minmax(0,{PANEL}px));grid-auto-flow:column;gap:1rem"


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
    side, other_side = (grid_side(count) for count in matrix.shape)
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


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def escaped(value: object) -> str:
    """Return a value's text, with the characters that mean something in HTML escaped."""
    return html.escape(str(value))
