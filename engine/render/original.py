"""Draw an explanation on the original pictures: what the network did not see stays grey, with a frame around the rest."""

import numpy as np
from PIL import Image, ImageDraw

from engine.findings import Findings
from engine.render.attribute_groups import attribute_groups
from engine.render.colours import PANEL, Scale, coloured, over_grey, spread
from engine.render.drawn_links import COLOURS, draw_box
from engine.render.panels import Panel, enlarged, in_order, query_side, reference_side, rival_panel
from engine.render.texts import INK, drawable, fitted, font_of, headline
from engine.saliency.links import Region
from engine.saliency.originals import seen_part

TEXT, ROW = 13, 20
"""Size of words, and height of a row of them, in pixels of a picture that is PANEL wide."""
LEAST_TEXT = 10
STRIP = 256
"""Rows that are coloured at once: together, those of a photo of 50 megapixels would take gigabytes."""


def original_panels(
    explanation: Findings, query: np.ndarray, reference: np.ndarray | None, contours: bool = False
) -> list[Panel]:
    """Return the same panels as `engine.render.panels`, drawn on the originals.

    query, reference: the upright originals, (H0, W0, 3) uint8; the reference is not needed if its embedding was given
    """
    scale, own, other = Scale.of(explanation), query_side(explanation), reference_side(explanation)
    shown = own.panels(*_framed(query, own.box), scale, contours)
    partner: list[Panel] = []
    if reference is not None and other is not None:
        partner = other.panels(*_framed(reference, other.box), scale, contours)
    return in_order(shown, partner, rival_panel(explanation))


def _framed(pixels: np.ndarray, box: Region) -> tuple[Image.Image, Region]:
    """Return a picture as a panel with a frame around what the network saw, and where that is."""
    picture = enlarged(pixels)
    across, down = picture.width / pixels.shape[1], picture.height / pixels.shape[0]
    seen = box[0] * across, box[1] * down, box[2] * across, box[3] * down
    return framed(picture, seen), seen


def overlay(explanation: Findings, pixels: np.ndarray, *, of_reference: bool = False) -> Image.Image:
    """Return the original picture in grey below its map, with a frame around what the network saw, and its links.

    pixels: (H0, W0, 3) uint8
    """
    side = reference_side(explanation) if of_reference else query_side(explanation)
    assert side is not None and side.saliency is not None, "`Explanation.on_original` refuses what has no map"
    scale, size, box = Scale.of(explanation), (pixels.shape[1], pixels.shape[0]), side.box
    least, zoom = float(side.saliency.min()), max(size) / PANEL
    map_, errors = spread(side.saliency, side.error, box, size, scale)
    drawn = np.empty_like(pixels)
    for first in range(0, len(pixels), STRIP):
        part = slice(first, first + STRIP)
        rows = None if errors is None else errors[part]
        layer = coloured(map_[part], rows, scale, least, zoom, first_row=first)
        drawn[part] = np.asarray(over_grey(Image.fromarray(pixels[part]), layer))
    picture = framed(Image.fromarray(drawn), box)
    across, down = (box[2] - box[0]) / side.pixels.shape[1], (box[3] - box[1]) / side.pixels.shape[0]
    draw = ImageDraw.Draw(picture)
    for i, (left, top, right, bottom) in reversed(list(enumerate(side.boxes))):
        place = box[0] + across * left, box[1] + down * top, box[0] + across * right, box[1] + down * bottom
        draw_box(draw, place, COLOURS[i], i + 1, max(round(zoom), 1))
    return picture


def with_words(explanation: Findings, picture: Image.Image, *, of_reference: bool = False) -> Image.Image:
    """Return the picture with words below: the similarity, what the map shows and how steady it is, the attributes."""
    side = reference_side(explanation) if of_reference else query_side(explanation)
    lines = [headline(explanation)] + ([] if side is None else [": ".join(filter(None, (side.of_map, side.trust)))])
    for group in attribute_groups(explanation):
        names = ", ".join(drawable(attribute.name, i + 1) for i, attribute in enumerate(group.attributes))
        lines.append(f"{group.title}: {names}")
    zoom = max(picture.width / PANEL, LEAST_TEXT / TEXT)
    size, height, margin = round(TEXT * zoom), round(ROW * zoom), round(TEXT * zoom / 2)
    drawn = Image.new("RGB", (picture.width, picture.height + len(lines) * height + margin), "white")
    drawn.paste(picture, (0, 0))
    draw = ImageDraw.Draw(drawn)
    for i, line in enumerate(lines):
        text, place = fitted(line, size, picture.width - 2 * margin), (margin, picture.height + margin // 2 + i * height)
        draw.text(place, text, fill=INK, font=font_of(text, size))
    return drawn


def framed(picture: Image.Image, box: Region) -> Image.Image:
    """Draw a thin frame around what the network saw, unless it saw the whole picture; returns the picture."""
    left, top, right, bottom = seen_part(box, picture.size)
    if (left, top, right, bottom) != (0, 0, *picture.size):
        thick = max(round(max(picture.size) / PANEL), 1)
        draw = ImageDraw.Draw(picture)
        draw.rectangle((left, top, right - 1, bottom - 1), outline="white", width=2 * thick)
        draw.rectangle((left, top, right - 1, bottom - 1), outline="black", width=thick)
    return picture
