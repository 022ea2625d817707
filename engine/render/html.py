"""Explanations as one self-contained HTML page: it fetches nothing, and its scripts only light up what is pointed at."""

import html
from collections.abc import Sequence

from engine.findings import ATTRIBUTE_LISTS, Findings
from engine.render.attribute_table import ATTRIBUTE_SCRIPT, ATTRIBUTE_STYLE, attribute_tables
from engine.render.figure import FIGURE_STYLE, figure
from engine.render.panels import Panel
from engine.render.texts import byline, headline
from engine.render.tiles import SCRIPT, TILE_STYLE, has_tiles

ORIGINALS = ("query_size", "reference_size", "rather_than_size")
"""Numbers that a page lists only if its panels are of the original pictures."""

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1e; max-width: 1020px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.15rem; margin: 0; } h3 { font-size: 1rem; margin: 1rem 0 0; }
section { border-top: 1px solid #ddd; padding: 1.5rem 0; }
figcaption, .by, th { color: #5f5f64; font-size: .9rem; font-weight: normal; }
details { margin-top: 1rem; } dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dt { color: #5f5f64; } dd { margin: 0; overflow-wrap: anywhere; }
"""


def page(explanations: Sequence[Findings], shown: Sequence[Sequence[Panel]] | None = None, contours: bool = False) -> str:
    """Return the text of a page with a section per explanation.

    shown: each one's panels, to draw instead of the pictures as the network saw them
    contours: lines around the strongest parts of the maps, for print; of panels made here
    """
    each = [None] * len(explanations) if shown is None else shown
    numbered = enumerate(zip(explanations, each, strict=True))
    sections = "\n".join(_section(e, i + 1, len(explanations), own, contours) for i, (e, own) in numbered)
    scripts = [SCRIPT] if any(has_tiles(e) for e in explanations) else []
    scripts += [ATTRIBUTE_SCRIPT] if any(getattr(e, kind) for e in explanations for kind in ATTRIBUTE_LISTS) else []
    script = "".join(f"<script>{text}</script>\n" for text in scripts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Why do these images match?</title>"
        f"<style>{STYLE}{FIGURE_STYLE}{TILE_STYLE}{ATTRIBUTE_STYLE}</style></head>\n"
        f"<body><h1>Why do these images match?</h1>\n{sections}\n{script}</body></html>\n"
    )


def _section(explanation: Findings, number: int, count: int, shown: Sequence[Panel] | None, contours: bool) -> str:
    """Return the section of one explanation: its pictures, attributes and numbers. number: 1 to count; shown: see `page`"""
    which = f"Reference {number} of {count}: " if count > 1 else ""
    left_out = (*ATTRIBUTE_LISTS, "notes", *(ORIGINALS if shown is None else ()))
    numbers = {k: v for k, v in explanation.to_dict().items() if k not in left_out and v is not None}
    rows = "".join(f"<dt>{escaped(k)}</dt><dd>{escaped(v)}</dd>" for k, v in numbers.items())
    notes = "".join(f"<p class=by>{escaped(note)}</p>" for note in explanation.notes)
    return (
        f"<section><h2>{which}{escaped(headline(explanation))}</h2><p class=by>{escaped(byline(explanation))}</p>"
        f"{figure(explanation, shown, contours, in_page=True)}{attribute_tables(explanation)}{notes}"
        f"<details><summary>All numbers</summary><dl>{rows}</dl></details></section>"
    )


def escaped(value: object) -> str:
    """Return a value's text, with the characters that mean something in HTML escaped."""
    return html.escape(str(value))
