"""Explanations as one self-contained HTML page: nothing fetched, and one small script only where regions are matched."""

import base64
import html
import io
import json
from collections.abc import Sequence

import numpy as np
from PIL import Image

from engine.attributes.table import Attribute
from engine.findings import ATTRIBUTE_LISTS, Findings
from engine.render.matched_regions import grid_side, links_text, reliability_text
from engine.render.png import PANEL, byline, headline, linked_panels, panels

LARGEST_TILED = 256
"""Tiles a picture may have to be pointed at: the page holds tiles * tiles numbers."""

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1e; max-width: 1020px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.15rem; margin: 0; } h3 { font-size: 1rem; margin: 1rem 0 0; }
section { border-top: 1px solid #ddd; padding: 1.5rem 0; }
.panels { margin: 1rem 0; }
figure { margin: 0; } figcaption, .by, th { color: #6e6e73; font-size: .9rem; font-weight: normal; }
img { display: block; max-width: 100%; border-radius: 4px; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .3rem .8rem .3rem 0; }
th:first-child { width: 12rem; } th:nth-child(2) { width: 18rem; }
td.number { font-variant-numeric: tabular-nums; }
.bar { background: #f0eeec; width: 12rem; height: .8rem; border-radius: 2px; }
.bar i { display: block; height: 100%; background: #c8401e; border-radius: 2px; }
details { margin-top: 1rem; } dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dt { color: #6e6e73; } dd { margin: 0; overflow-wrap: anywhere; }
.match { position: relative; width: fit-content; }
.tiles { position: absolute; inset: 0; display: grid; grid: repeat(var(--side), 1fr) / repeat(var(--side), 1fr); }
.tiles button { appearance: none; border: 0; padding: 0; margin: 0; min-width: 0; border-radius: 0; cursor: crosshair;
  background: rgb(20 90 255 / calc(.8 * var(--match, 0))); outline: none; touch-action: manipulation; }
.tiles .here { box-shadow: inset 0 0 0 3px #145aff, inset 0 0 0 5px #fff, 0 0 0 2px #fff; z-index: 1; }
@media (max-width: 600px) {
  th, td { padding-right: .4rem; font-size: .85rem; }
  th:nth-child(2), td:nth-child(2) { display: none; }
}
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
"""Lights up in one picture what the tile pointed at, tapped or focused in the other matches."""


def page(explanations: Sequence[Findings]) -> str:
    """One page with a section per explanation."""
    sections = "\n".join(section(e, i + 1, len(explanations)) for i, e in enumerate(explanations))
    script = f"<script>{SCRIPT}</script>\n" if any(tiled(e) for e in explanations) else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Why do these images match?</title><style>{STYLE}</style></head>\n"
        f"<body><h1>Why do these images match?</h1>\n{sections}\n{script}</body></html>\n"
    )


def section(explanation: Findings, number: int, count: int) -> str:
    """Pictures, attributes and numbers of one explanation."""
    which = f"Reference {number} of {count}: " if count > 1 else ""
    numbers = {k: v for k, v in explanation.to_dict().items() if k not in (*ATTRIBUTE_LISTS, "notes") and v is not None}
    rows = "".join(f"<dt>{_safe(k)}</dt><dd>{_safe(v)}</dd>" for k, v in numbers.items())
    notes = "".join(f"<p class=by>{_safe(note)}</p>" for note in explanation.notes)
    return (
        f"<section><h2>{which}{_safe(headline(explanation))}</h2><p class=by>{_safe(byline(explanation))}</p>"
        f"{figure(explanation, tiled(explanation))}{_attributes(explanation)}{notes}"
        f"<details><summary>All numbers</summary><dl>{rows}</dl></details></section>"
    )


def tiled(explanation: Findings) -> bool:
    """Whether the page lets its reader point at tiles."""
    return explanation.correspondence is not None and max(explanation.correspondence.shape) <= LARGEST_TILED


def figure(explanation: Findings, tiles: bool = False) -> str:
    """The panels; styled in place, for notebooks show it without the page.

    tiles: with tiles for the page's script, else with the strongest links drawn
    """
    matrix = explanation.correspondence if tiles else None
    text = links_text(explanation)
    layers: dict[str, str] = {}
    data = ""
    if matrix is not None:
        layers = {"query": tile_grid("query", "reference", matrix), "reference": tile_grid("reference", "query", matrix.T)}
        data = f" data-correspondence='{matrix_json(matrix)}'"
        text = (
            "Point at, tap, or move with the arrow keys over either picture: the other lights up where it matches, "
            f"most at the best match ({reliability_text(explanation)})."
        )
    shown = "".join(
        f"<figure><div class=match><img alt='{_safe(caption)}' src='{_data_uri(panel)}'>{layers.get(caption, '')}</div>"
        f"<figcaption>{_safe(caption)}</figcaption></figure>"
        for caption, panel in (panels(explanation) if tiles else linked_panels(explanation))
    )
    below = f"<p class=by>{_safe(text)}</p>" if text else ""
    return f"<div class=panels style='{_layout(explanation)}'{data}>{shown}</div>{below}"


def _layout(explanation: Findings) -> str:
    """One row; with two maps, each below its picture."""
    if explanation.reference_saliency is None:
        return "display:flex;flex-wrap:wrap;gap:1rem"
    return f"display:grid;grid:auto auto/repeat(2,minmax(0,{PANEL}px));grid-auto-flow:column;gap:1rem"


def tile_grid(picture: str, other: str, matrix: np.ndarray) -> str:
    """A button per tile of one picture, in a grid over it; tab reaches the first, the arrow keys the rest.

    matrix: (T, other T), this picture's tiles in rows
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
        f"<div class=tiles role=group style='--side:{side}' aria-label='{picture} in {side} by {side} tiles'>"
        f"{''.join(buttons)}</div>"
    )


def _place(tile: int, side: int) -> str:
    row, column = divmod(tile, side)
    return f"row {row + 1} column {column + 1}"


def matrix_json(matrix: np.ndarray) -> str:
    """Rows of numbers, to 4 significant digits."""
    return json.dumps([[float(f"{value:.4g}") for value in row] for row in matrix], separators=(",", ":"))


def _attributes(explanation: Findings) -> str:
    """One table of what the map shows, one of what the regions show that it is lowest in."""
    against = _table(explanation.opposing_attributes)
    title = "<h3>Regions that lower the similarity agree with</h3>" if against else ""
    return _table(explanation.attributes) + title + against


def _table(attributes: Sequence[Attribute]) -> str:
    if not attributes:
        return ""
    rows = "".join(
        f"<tr><td>{_safe(a.name)}</td><td><div class=bar><i style='width:{100 * a.confidence:.0f}%'></i></div></td>"
        f"<td class=number>{a.confidence:.3f}</td><td class=number>{a.match:+.3f}</td>"
        f"<td class=number>{a.prior:.3f}</td><td class=number>{a.score:.3f}</td></tr>"
        for a in attributes
    )
    heads = "".join(f"<th>{name}</th>" for name in ("attribute", "", "confidence", "match", "prior", "score"))
    return f"<table><tr>{heads}</tr>{rows}</table>"


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _safe(value: object) -> str:
    return html.escape(str(value), quote=True)
