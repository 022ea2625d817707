"""The attributes in a page: a table for each group, whose rows show where an attribute is seen when pointed at."""

import html
import json

import numpy as np

from engine.attributes.table import Attribute
from engine.findings import Findings
from engine.render.attribute_groups import AttributeGroup, attribute_groups

ATTRIBUTE_STYLE = """
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .3rem .8rem .3rem 0; }
th:first-child { width: 12rem; } th:nth-child(2) { width: 13rem; }
td.number { font-variant-numeric: tabular-nums; }
.bar { background: #f0eeec; width: 12rem; height: .8rem; border-radius: 2px; }
.bar i { display: block; height: 100%; background: #44546a; border-radius: 2px; }
.apart .bar i { background: #a4a4aa; }
td button { font: inherit; color: inherit; background: none; border: 0; padding: 0; text-align: left; cursor: help;
  text-decoration: underline dotted #6e6e73; text-underline-offset: .2em; overflow-wrap: anywhere; }
td button:focus-visible { outline: 2px solid #145aff; outline-offset: 2px; }
canvas.where { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none; }
@media (max-width: 600px) {
  th, td { padding-right: .4rem; font-size: .85rem; }
  th:first-child { width: auto; }
  th:nth-child(2), td:nth-child(2) { display: none; }
}
"""

ATTRIBUTE_SCRIPT = """
for (const section of document.querySelectorAll("section")) {
  const canvases = {};
  for (const canvas of section.querySelectorAll("canvas.where")) canvases[canvas.dataset.over] = canvas;
  const show = button => {
    for (const canvas of Object.values(canvases)) canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    const canvas = button && canvases[button.dataset.over];
    if (!canvas) return;
    const map = JSON.parse(button.dataset.map), most = Math.max(...map.flat());
    canvas.height = map.length; canvas.width = map[0].length;
    const context = canvas.getContext("2d"), pixels = context.createImageData(canvas.width, canvas.height);
    map.flat().forEach((value, i) => pixels.data.set([20, 90, 255, most > 0 ? 190 * value / most : 0], 4 * i));
    context.putImageData(pixels, 0, 0);
  };
  const buttonOf = node => node.closest ? node.closest("button[data-map]") : null;
  const focused = () => section.contains(document.activeElement) ? buttonOf(document.activeElement) : null;
  section.addEventListener("pointerover", e => { if (buttonOf(e.target)) show(buttonOf(e.target)); });
  section.addEventListener("pointerout", e => { if (buttonOf(e.target)) show(focused()); });
  section.addEventListener("click", e => { if (buttonOf(e.target)) { e.target.focus(); show(buttonOf(e.target)); } });
  section.addEventListener("focusin", e => { if (buttonOf(e.target)) show(buttonOf(e.target)); });
  section.addEventListener("focusout", e => { if (buttonOf(e.target)) show(null); });
  section.addEventListener("keydown", e => { if (e.key === "Escape" && buttonOf(e.target)) e.target.blur(); });
}
"""
"""Shows where an attribute is seen, in blue over the picture, while its name is pointed at, focused or tapped."""


def attribute_tables(explanation: Findings) -> str:
    """Return a table for each group of attributes; "" if there is none."""
    groups = attribute_groups(explanation)
    titled = len(groups) > 1 or any(not group.main for group in groups)
    return "".join(_table(group, titled) for group in groups)


def where_canvas(picture: str, style: str = "") -> str:
    """Return the layer that shows where an attribute is seen. picture: "query" or "reference"; style: where it lies"""
    return f"<canvas class=where data-over={picture} style='{style}' aria-hidden=true></canvas>"


def _table(group: AttributeGroup, titled: bool) -> str:
    rows = "".join(_row(attribute, group.over) for attribute in group.attributes)
    heads = "".join(f"<th>{name}</th>" for name in ("attribute", "", "score", "query", "reference", "match", "prior"))
    title = f"<h3>{group.title}</h3>" if titled else ""
    return f"{title}<table{'' if group.main else ' class=apart'}><tr>{heads}</tr>{rows}</table>"


def _row(a: Attribute, over: str) -> str:
    name = html.escape(a.name)
    if a.map is not None and a.map.size > 1:
        name = f"<button type=button data-over={over} data-map='{_map_json(a.map)}'>{name}</button>"
    there = "" if a.reference_confidence is None else f"{a.reference_confidence:.3f}"
    width = 100 * min(max(a.score, 0), 1)
    return (
        f"<tr><td>{name}</td><td><div class=bar><i style='width:{width:.0f}%'></i></div></td>"
        f"<td class=number>{a.score:.3f}</td><td class=number>{a.confidence:.3f}</td><td class=number>{there}</td>"
        f"<td class=number>{a.match:+.3f}</td><td class=number>{a.prior:.3f}</td></tr>"
    )


def _map_json(map_: np.ndarray) -> str:
    """Return an activation map (h, w) as JSON: rows of numbers with 3 significant digits."""
    return json.dumps([[float(f"{value:.3g}") for value in row] for row in map_.tolist()], separators=(",", ":"))
