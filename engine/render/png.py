"""Draw an explanation as a PNG: query and reference, maps with their scale, links, and a bar per attribute."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw

from engine.findings import Findings
from engine.render.attribute_groups import AttributeGroup, attribute_groups, numbers
from engine.render.colours import BAR_HEIGHT, PANEL, Scale, bar, bar_text, bar_ticks
from engine.render.drawn_links import draw_links, links_on
from engine.render.panels import QUERY, REFERENCE, Panel, panel_of, panels
from engine.render.texts import INK, byline, drawable, fitted, font, font_of, headline, links_text

GAP = 28
"""Space between panels, in pixels."""
LINE = 34
"""Height of a line of text, in pixels."""
BARS = 5
"""At most this many attributes of a kind are drawn."""
PALE, BAR = "#5f5f64", "#44546a"


def png(explanation: Findings, shown: Sequence[Panel] | None = None, contours: bool = False) -> bytes:
    """Return the bytes of the PNG file. shown: see `draw_explanation`"""
    buffer = io.BytesIO()
    draw_explanation(explanation, shown, contours).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def draw_explanation(explanation: Findings, shown: Sequence[Panel] | None = None, contours: bool = False) -> Image.Image:
    """Draw the panels side by side, what their colours mean, and the attributes as bars below.

    shown: panels to draw instead of the pictures as the network saw them, such as `engine.render.original` makes
    contours: lines around the strongest parts of the maps, for print; of panels made here
    """
    shown = panels(explanation, contours) if shown is None else shown
    links, groups = links_text(explanation), attribute_groups(explanation, BARS)
    columns = max(len(shown), 3)  # a bar with its name and numbers needs three
    width = columns * PANEL + (columns + 1) * GAP
    top = 2 * LINE + GAP
    bottom = top + LINE + max(panel.picture.height for panel in shown) + LINE
    below = bottom + 2 * LINE + (LINE if links else 0)
    lines = max(sum(len(group.attributes) if group.main else 1 for group in groups), 1)
    canvas = Image.new("RGB", (width, below + lines * LINE + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    _text(draw, (GAP, GAP - 6), headline(explanation), 24)
    _text(draw, (GAP, GAP + LINE - 6), fitted(byline(explanation), 14, width - 2 * GAP), 14, PALE)
    places = []
    for i, panel in enumerate(shown):
        left, pictured = GAP + i * (PANEL + GAP), panel.drawn()
        _text(draw, (left, top), panel.caption, 16, PALE)
        canvas.paste(pictured, (left, top + LINE - 6))
        _text(draw, (left, top + LINE + pictured.height), fitted(panel.trust, 14, PANEL), 14, PALE)
        places.append((left, top + LINE - 6))
    if explanation.links:
        query, reference = (panel_of(shown, caption) for caption in (QUERY, REFERENCE))
        where = [places[shown.index(panel)] for panel in (query, reference)]
        draw_links(draw, links_on(explanation, query, reference), where[0], where[1])
    _draw_scale(canvas, draw, bottom, explanation)
    if links:
        _text(draw, (GAP, bottom + 2 * LINE - 6), links, 16, PALE)
    _draw_groups(draw, below, groups)
    if not groups and explanation.notes:
        _text(draw, (GAP, below), fitted(explanation.notes[0], 16, width - 2 * GAP), 16, PALE)
    return canvas


def _draw_scale(canvas: Image.Image, draw: ImageDraw.ImageDraw, y: int, explanation: Findings) -> None:
    """Draw the bar of colours at the line y, its values and what they are."""
    scale = Scale.of(explanation)
    canvas.paste(bar(scale, PANEL, BAR_HEIGHT), (GAP, y))
    draw.rectangle((GAP, y, GAP + PANEL - 1, y + BAR_HEIGHT), outline="#c8c8cc")
    ticks = bar_ticks(scale)
    for i, tick in enumerate(ticks):
        x = GAP + i * (PANEL - 1) / (len(ticks) - 1)
        anchor = "lt" if i == 0 else "rt" if i == len(ticks) - 1 else "mt"
        draw.text((x, y + BAR_HEIGHT + 5), tick, fill=PALE, font=font(13), anchor=anchor)
    _text(draw, (2 * GAP + PANEL, y - 4), fitted(bar_text(explanation), 15, canvas.width - 3 * GAP - PANEL), 15, PALE)


def _draw_groups(draw: ImageDraw.ImageDraw, y: int, groups: Sequence[AttributeGroup]) -> None:
    """Draw a bar for each attribute of the match, and a line for each kind of difference, from the line at y on."""
    number = 0
    for group in groups:
        if not group.main:
            names = ", ".join(drawable(attribute.name, i + 1) for i, attribute in enumerate(group.attributes))
            _text(draw, (GAP, y), fitted(f"{group.title}: {names}", 16, 3 * PANEL), 16, PALE)
            y += LINE
            continue
        for attribute in group.attributes:
            number += 1
            length = round(min(max(attribute.score, 0), 1) * PANEL)
            _text(draw, (GAP, y), fitted(drawable(attribute.name, number), 18, PANEL), 18)
            draw.rectangle((2 * GAP + PANEL, y + 2, 2 * GAP + 2 * PANEL, y + 20), fill="#f0eeec")
            draw.rectangle((2 * GAP + PANEL, y + 2, 2 * GAP + PANEL + length, y + 20), fill=BAR)
            _text(draw, (3 * GAP + 2 * PANEL, y + 2), numbers(attribute), 15, PALE)
            y += LINE


def _text(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: str = INK) -> None:
    draw.text(at, text, fill=colour, font=font_of(text, size))
