"""Explanations as one self-contained HTML page: it fetches nothing, and its policy lets nothing else run."""

import base64
import functools
import hashlib
import html
import json
from collections.abc import Sequence
from importlib import resources
from string import Template

from engine.findings import Findings
from engine.render.panels import Panel
from engine.render.view import view

# the page gets data and its script draws them: what is left of a template is four places, too few for Jinja2


@functools.cache
def part(name: str) -> str:
    """Return a file of the component: component.html, component.css, component.js, or report.html around them."""
    return (resources.files("engine.render") / name).read_text()


STYLE = part("component.css")
"""The stylesheet of every page."""


def page(explanations: Sequence[Findings], shown: Sequence[Sequence[Panel]] | None = None, contours: bool = False) -> str:
    """Return the text of a page about explanations.

    shown: each one's panels, to draw instead of the pictures as the network saw them
    contours: lines around the strongest parts of the maps, for print; of panels made here
    """
    each = [None] * len(explanations) if shown is None else shown
    views = [view(e, own, contours) for e, own in zip(explanations, each, strict=True)]
    return Template(part("report.html")).substitute(
        policy=policy(),
        style=STYLE,
        component=part("component.html"),
        data=json.dumps(views, separators=(",", ":")).replace("<", "\\u003c"),  # no name ends the block that it stands in
        script=part("component.js"),
    )


@functools.cache
def policy() -> str:
    """Return the Content-Security-Policy of such a page: its own style and script by their sums, pictures within it."""
    style, script = (
        "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for text in (STYLE, part("component.js"))
    )
    return f"default-src 'none'; img-src data:; style-src {style}; script-src {script}; base-uri 'none'; form-action 'none'"


def embedded(explanation: Findings) -> str:
    """Return a frame with such a page, for notebooks: it cannot touch the notebook, nor the notebook's styles it."""
    return (
        f'<iframe title="Why do these pictures match?" sandbox="allow-scripts" srcdoc="{escaped(page([explanation]))}" '
        f'style="width: 100%; height: 820px; border: 0; resize: vertical"></iframe>'
    )


def escaped(value: object) -> str:
    """Return a value's text, with the characters that mean something in HTML escaped."""
    return html.escape(str(value))
