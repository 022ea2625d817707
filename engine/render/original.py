"""Draw an explanation on the original pictures: what the network did not see stays grey, with a frame around the rest."""

import numpy as np
from PIL import Image, ImageDraw

from engine.findings import Findings
from engine.render.colours import PANEL, Scale, coloured, map_layer, over_grey
from engine.render.drawn_links import COLOURS, draw_box
from engine.render.panels import QUERY, REFERENCE, REFERENCE_MAP, Panel, enlarged, in_order, rival_panel
from engine.render.texts import map_trust, query_map_text
from engine.saliency.links import Region
from engine.saliency.originals import map_on_original, seen_part

STRIP = 256
"""Rows that are coloured at once: together, those of a photo of 50 megapixels would take gigabytes."""


def original_panels(
    explanation: Findings, query: np.ndarray, reference: np.ndarray | None, contours: bool = False
) -> list[Panel]:
    """Return the same panels as `engine.render.panels`, drawn on the originals.

    query, reference: the upright originals, (H0, W0, 3) uint8; the reference is not needed if its embedding was given
    """
    e, scale = explanation, Scale.of(explanation)
    shown, seen = _framed(query, e.query_box)
    layer = map_layer(e.saliency, e.saliency_error, seen, shown.size, scale, contours)
    own = [Panel(QUERY, shown, seen=seen), Panel(query_map_text(e), shown, layer, map_trust(e), seen)]
    other: list[Panel] = []
    if reference is not None and e.reference_box is not None:
        shown, seen = _framed(reference, e.reference_box)
        other.append(Panel(REFERENCE, shown, seen=seen))
        if e.reference_saliency is not None:
            layer = map_layer(e.reference_saliency, e.reference_saliency_error, seen, shown.size, scale, contours)
            other.append(Panel(REFERENCE_MAP, shown, layer, map_trust(e, of_reference=True), seen))
    return in_order(own, other, rival_panel(e))


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
    e = explanation
    saliency, error, box, network = (
        (e.reference_saliency, e.reference_saliency_error, e.reference_box, e.reference_image)
        if of_reference
        else (e.saliency, e.saliency_error, e.query_box, e.query_image)
    )
    assert saliency is not None
    assert box is not None
    assert network is not None
    scale, size = Scale.of(e), (pixels.shape[1], pixels.shape[0])
    least, zoom = float(saliency.min()), max(size) / PANEL
    map_ = map_on_original(saliency, box, size)
    errors = None if error is None or not scale.signed else map_on_original(error, box, size)
    drawn = np.empty_like(pixels)
    for first in range(0, len(pixels), STRIP):
        part = slice(first, first + STRIP)
        rows = None if errors is None else errors[part]
        layer = coloured(map_[part], rows, scale, least, zoom, first_row=first)
        drawn[part] = np.asarray(over_grey(Image.fromarray(pixels[part]), layer))
    picture = framed(Image.fromarray(drawn), box)
    across, down = (box[2] - box[0]) / network.shape[1], (box[3] - box[1]) / network.shape[0]
    draw = ImageDraw.Draw(picture)
    for i, link in enumerate(e.links):
        left, top, right, bottom = link.reference_box if of_reference else link.query_box
        place = box[0] + across * left, box[1] + down * top, box[0] + across * right, box[1] + down * bottom
        draw_box(draw, place, COLOURS[i], i + 1, max(round(zoom), 1))
    return picture


def framed(picture: Image.Image, box: Region) -> Image.Image:
    """Draw a thin frame around what the network saw, unless it saw the whole picture; returns the picture."""
    left, top, right, bottom = seen_part(box, picture.size)
    if (left, top, right, bottom) != (0, 0, *picture.size):
        thick = max(round(max(picture.size) / PANEL), 1)
        draw = ImageDraw.Draw(picture)
        draw.rectangle((left, top, right - 1, bottom - 1), outline="white", width=2 * thick)
        draw.rectangle((left, top, right - 1, bottom - 1), outline="black", width=thick)
    return picture
