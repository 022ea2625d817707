"""Draw an explanation on the original pictures: what the network did not see stays grey, with a frame around the rest."""

import numpy as np
from PIL import Image, ImageDraw

from engine.findings import Findings
from engine.render.matched_regions import Region
from engine.render.png import PANEL, Panel, coloured, enlarged, map_caption, rival_panel
from engine.saliency.originals import map_on_original, seen_part

STRIP = 256
"""Rows that are coloured at once: together, those of a photo of 50 megapixels would take gigabytes."""


def original_panels(explanation: Findings, query: np.ndarray, reference: np.ndarray | None) -> list[Panel]:
    """Return the same panels as `engine.render.png.panels`, drawn on the originals.

    query, reference: the upright originals, (H0, W0, 3) uint8; the reference is not needed if its embedding was given
    """
    shown = _side("query", query, explanation.query_box, explanation.saliency, map_caption(explanation))
    if reference is not None and explanation.reference_box is not None:
        shown += _side("reference", reference, explanation.reference_box, explanation.reference_saliency)
    return shown + rival_panel(explanation)


def _side(
    caption: str, pixels: np.ndarray, box: Region, saliency: np.ndarray | None, of_map: str = "what matters in it"
) -> list[Panel]:
    """Return the panel of a picture, and of its map if there is one."""
    picture = enlarged(pixels)
    across, down = picture.width / pixels.shape[1], picture.height / pixels.shape[0]
    seen = box[0] * across, box[1] * down, box[2] * across, box[3] * down
    small = np.asarray(picture)
    found = [Panel(caption, framed(picture, seen), seen)]
    if saliency is not None:
        found.append(Panel(of_map, overlay(small, saliency, seen), seen))
    return found


def overlay(pixels: np.ndarray, saliency: np.ndarray, box: Region) -> Image.Image:
    """Return a picture in grey, coloured by its map where the network saw it, with a frame around that part.

    pixels: (H0, W0, 3) uint8; saliency: (H, W) float32, over what the network saw; box: that part of the picture
    """
    size = pixels.shape[1], pixels.shape[0]
    map_ = map_on_original(saliency, box, size)
    left, top, right, bottom = seen_part(box, size)
    low, high = float(np.nanmin(map_)), float(np.nanmax(map_))
    drawn = np.array(Image.fromarray(pixels).convert("L").convert("RGB"))
    for first in range(top, bottom, STRIP):
        part = slice(first, min(first + STRIP, bottom)), slice(left, right)
        drawn[part] = coloured(pixels[part], map_[part], low, high)
    return framed(Image.fromarray(drawn), box)


def framed(picture: Image.Image, box: Region) -> Image.Image:
    """Draw a thin frame around what the network saw, unless it saw the whole picture; returns the picture."""
    left, top, right, bottom = seen_part(box, picture.size)
    if (left, top, right, bottom) != (0, 0, *picture.size):
        thick = max(round(max(picture.size) / PANEL), 1)
        draw = ImageDraw.Draw(picture)
        draw.rectangle((left, top, right - 1, bottom - 1), outline="white", width=2 * thick)
        draw.rectangle((left, top, right - 1, bottom - 1), outline="black", width=thick)
    return picture
