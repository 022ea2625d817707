"""Explanations as pictures: query and reference, heat maps over them, regions that match, and a bar per attribute."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.findings import Findings
from engine.render.matched_regions import links_text, mark_links

PANEL = 300
GAP = 24
LINE = 34
BARS = 5
INK, PALE, BAR = "#1c1c1e", "#6e6e73", "#c8401e"
HEAT = np.array([[255, 255, 255], [255, 221, 120], [250, 150, 50], [205, 40, 25], [90, 0, 40]], np.float64)
"""Colours from least to most salient, evenly spaced."""


def png(explanation: Findings) -> bytes:
    """The whole picture, as a PNG file."""
    buffer = io.BytesIO()
    draw_explanation(explanation).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def panels(explanation: Findings) -> list[tuple[str, Image.Image]]:
    """Captioned panels, the longer side of each 300 pixels: the query, its map, the reference, its map, as far as there."""
    shown = [
        ("query", enlarged(explanation.query_image)),
        ("what matters in it", heat_map(explanation.query_image, explanation.saliency)),
    ]
    if explanation.reference_image is not None:
        shown.append(("reference", enlarged(explanation.reference_image)))
        if explanation.reference_saliency is not None:
            shown.append(("what matters in it", heat_map(explanation.reference_image, explanation.reference_saliency)))
    return shown


def linked_panels(explanation: Findings) -> list[tuple[str, Image.Image]]:
    """`panels`, with the regions that match numbered on query and reference."""
    shown = panels(explanation)
    if explanation.correspondence is not None:
        (query,), (reference,) = ([p for caption, p in shown if caption == name] for name in ("query", "reference"))
        mark_links(explanation.correspondence, query, reference)
    return shown


def enlarged(pixels: np.ndarray) -> Image.Image:
    """(H, W, 3) uint8 -> a panel."""
    height, width = pixels.shape[:2]
    scale = PANEL / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def heat_map(pixels: np.ndarray, saliency: np.ndarray) -> Image.Image:
    """(H, W, 3) uint8 and (H, W) float -> a panel: the picture in grey, coloured where it is salient.

    Colours run from the least to the most salient pixel of this map.
    """
    low, high = float(saliency.min()), float(saliency.max())
    level = (saliency - low) / (high - low) if high > low else np.zeros_like(saliency)
    positions = np.linspace(0, 1, len(HEAT))
    colour = np.stack([np.interp(level, positions, HEAT[:, c]) for c in range(3)], axis=-1)
    grey = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float64)[..., None]
    shade = 0.35 + 0.65 * grey / 255  # keeps the drawing visible under the strongest colour
    return enlarged(np.clip(colour * shade, 0, 255).astype(np.uint8))


def draw_explanation(explanation: Findings) -> Image.Image:
    """Panels side by side, what links them, the attributes as bars below."""
    shown = linked_panels(explanation)
    links = links_text(explanation)
    attributes = explanation.attributes[:BARS]
    columns = max(len(shown), 3)  # the bars need three
    width = columns * PANEL + (columns + 1) * GAP
    top = 2 * LINE + GAP
    bottom = top + LINE + max(panel.height for _, panel in shown)
    below = bottom + GAP + (LINE if links else 0)
    lines = max(len(attributes), 1)
    canvas = Image.new("RGB", (width, below + lines * LINE + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    _text(draw, (GAP, GAP - 6), headline(explanation), 24)
    _text(draw, (GAP, GAP + LINE - 6), byline(explanation), 14, PALE)
    left = GAP
    for caption, panel in shown:
        _text(draw, (left, top), caption, 16, PALE)
        canvas.paste(panel, (left, top + LINE - 6))
        left += PANEL + GAP
    if links:
        _text(draw, (GAP, bottom + 6), links, 16, PALE)
    for i, attribute in enumerate(attributes):
        y = below + i * LINE
        length = round(attribute.confidence * PANEL)
        _text(draw, (GAP, y), attribute.name, 18)
        draw.rectangle((2 * GAP + PANEL, y + 2, 2 * GAP + 2 * PANEL, y + 20), fill="#f0eeec")
        draw.rectangle((2 * GAP + PANEL, y + 2, 2 * GAP + PANEL + length, y + 20), fill=BAR)
        numbers = f"confidence {attribute.confidence:.2f}   match {attribute.match:+.2f}"
        _text(draw, (3 * GAP + 2 * PANEL, y + 2), numbers, 15, PALE)
    if not attributes:
        _text(draw, (GAP, below), explanation.notes[0] if explanation.notes else "", 16, PALE)
    return canvas


def headline(explanation: Findings) -> str:
    return f"Similarity {explanation.similarity:.3f}"


def byline(explanation: Findings) -> str:
    condition = f", condition {explanation.condition}" if explanation.condition is not None else ""
    return (
        f"{explanation.method}, {explanation.passes} passes, {explanation.model.name} "
        f"({explanation.precision}, {explanation.provider}){condition}"
    )


def _text(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: str = INK) -> None:
    draw.text(at, text, fill=colour, font=ImageFont.load_default(size))
