"""Draw an explanation as a PNG: query and reference, heat maps, regions that match, and a bar per attribute."""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.findings import Findings
from engine.render.attribute_groups import AttributeGroup, attribute_groups, numbers
from engine.render.matched_regions import Region, links_text, mark_links

PANEL = 300
"""Longer side of a panel, in pixels."""
GAP = 24
"""Space between panels, in pixels."""
LINE = 34
"""Height of a line of text, in pixels."""
BARS = 5
"""At most this many attributes of a kind are drawn."""
INK, PALE, BAR = "#1c1c1e", "#6e6e73", "#c8401e"
HEAT = np.array([[255, 255, 255], [255, 221, 120], [250, 150, 50], [205, 40, 25], [90, 0, 40]], np.float64)
"""(5, 3) colours from least to most salient, evenly spaced."""


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """A picture, its longer side PANEL pixels, and its caption. seen: what the network saw of it; None: all"""

    caption: str
    picture: Image.Image
    seen: Region | None = None


def png(explanation: Findings, shown: Sequence[Panel] | None = None) -> bytes:
    """Return the bytes of the PNG file. shown: see `draw_explanation`"""
    buffer = io.BytesIO()
    draw_explanation(explanation, shown).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def panels(explanation: Findings) -> list[Panel]:
    """Return the query, its map, the reference and its map as the network saw them; the last two only if there are any."""
    shown = [
        Panel("query", enlarged(explanation.query_image)),
        Panel(map_caption(explanation), heat_map(explanation.query_image, explanation.saliency)),
    ]
    if explanation.reference_image is not None:
        shown.append(Panel("reference", enlarged(explanation.reference_image)))
        if explanation.reference_saliency is not None:
            map_ = heat_map(explanation.reference_image, explanation.reference_saliency)
            shown.append(Panel("what matters in it", map_))
    return shown + rival_panel(explanation)


def rival_panel(explanation: Findings) -> list[Panel]:
    """Return the panel of the reference that this one is told from, as the network saw it; [] if there is none."""
    pixels = explanation.rather_than_image
    return [] if pixels is None else [Panel("rather than", enlarged(pixels))]


def map_caption(explanation: Findings) -> str:
    """Return what the query's map shows."""
    return "what matters in it" if explanation.rather_than_similarity is None else "what speaks for the reference"


def linked_panels(explanation: Findings, shown: Sequence[Panel] | None = None) -> Sequence[Panel]:
    """Return the panels, with the regions that match numbered on query and reference. shown: None: `panels`"""
    shown = panels(explanation) if shown is None else shown
    if explanation.correspondence is not None:
        (query,), (reference,) = ([p for p in shown if p.caption == name] for name in ("query", "reference"))
        mark_links(explanation.correspondence, query.picture, reference.picture, (query.seen, reference.seen))
    return shown


def enlarged(pixels: np.ndarray) -> Image.Image:
    """Return pixels (H, W, 3) uint8 as a panel: enlarged or reduced until the longer side has 300 pixels."""
    height, width = pixels.shape[:2]
    scale = PANEL / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def heat_map(pixels: np.ndarray, saliency: np.ndarray) -> Image.Image:
    """Return a panel: the picture in grey, coloured by its saliency, from this map's least to its most salient pixel.

    pixels: (H, W, 3) uint8; saliency: (H, W) float
    """
    return enlarged(coloured(pixels, saliency, float(saliency.min()), float(saliency.max())))


def coloured(pixels: np.ndarray, saliency: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return pixels in grey, coloured by their saliency, (H, W, 3) uint8.

    pixels: (H, W, 3) uint8; saliency: (H, W) float; low, high: what gets the first and the last colour
    """
    level = (saliency - low) / (high - low) if high > low else np.zeros_like(saliency)
    positions = np.linspace(0, 1, len(HEAT))
    colour = np.stack([np.interp(level, positions, HEAT[:, c]) for c in range(3)], axis=-1)
    grey = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float64)[..., None]
    shade = 0.35 + 0.65 * grey / 255  # keeps the picture visible under the strongest colour
    return np.clip(colour * shade, 0, 255).astype(np.uint8)


def draw_explanation(explanation: Findings, shown: Sequence[Panel] | None = None) -> Image.Image:
    """Draw the panels side by side, the caption of their links, and the attributes as bars below.

    shown: panels to draw instead of the pictures as the network saw them, such as `engine.render.original` makes
    """
    shown = linked_panels(explanation, shown)
    links = links_text(explanation)
    groups = attribute_groups(explanation, BARS)
    columns = max(len(shown), 3)  # a bar with its name and numbers needs three
    width = columns * PANEL + (columns + 1) * GAP
    top = 2 * LINE + GAP
    bottom = top + LINE + max(panel.picture.height for panel in shown)
    below = bottom + GAP + (LINE if links else 0)
    lines = max(sum(len(group.attributes) if group.main else 1 for group in groups), 1)
    canvas = Image.new("RGB", (width, below + lines * LINE + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    _text(draw, (GAP, GAP - 6), headline(explanation), 24)
    _text(draw, (GAP, GAP + LINE - 6), byline(explanation), 14, PALE)
    left = GAP
    for panel in shown:
        _text(draw, (left, top), panel.caption, 16, PALE)
        canvas.paste(panel.picture, (left, top + LINE - 6))
        left += PANEL + GAP
    if links:
        _text(draw, (GAP, bottom + 6), links, 16, PALE)
    _draw_groups(draw, below, groups)
    if not groups:
        _text(draw, (GAP, below), explanation.notes[0] if explanation.notes else "", 16, PALE)
    return canvas


def _draw_groups(draw: ImageDraw.ImageDraw, y: int, groups: Sequence[AttributeGroup]) -> None:
    """Draw a bar for each attribute of the match, and a line for each kind of difference, from the line at y on."""
    for group in groups:
        if not group.main:
            names = ", ".join(attribute.name for attribute in group.attributes)
            _text(draw, (GAP, y), f"{group.title}: {names}", 16, PALE)
            y += LINE
            continue
        for attribute in group.attributes:
            length = round(min(max(attribute.score, 0), 1) * PANEL)
            _text(draw, (GAP, y), attribute.name, 18)
            draw.rectangle((2 * GAP + PANEL, y + 2, 2 * GAP + 2 * PANEL, y + 20), fill="#f0eeec")
            draw.rectangle((2 * GAP + PANEL, y + 2, 2 * GAP + PANEL + length, y + 20), fill=BAR)
            _text(draw, (3 * GAP + 2 * PANEL, y + 2), numbers(attribute), 15, PALE)
            y += LINE


def headline(explanation: Findings) -> str:
    """Return the title of an explanation: its similarity, and that to the reference it is told from."""
    other = explanation.rather_than_similarity
    return f"Similarity {explanation.similarity:.3f}" + ("" if other is None else f" rather than {other:.3f}")


def byline(explanation: Findings) -> str:
    """Return the line below the title: how the explanation was made."""
    condition = f", condition {explanation.condition}" if explanation.condition is not None else ""
    return (
        f"{explanation.method}, {explanation.passes} passes, {explanation.model.name} "
        f"({explanation.precision}, {explanation.provider}){condition}"
    )


def _text(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: str = INK) -> None:
    draw.text(at, text, fill=colour, font=ImageFont.load_default(size))
