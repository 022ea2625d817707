"""Draw links: a numbered box on each picture, and a line between the two that is wider where the link is stronger."""

import dataclasses
from collections.abc import Sequence

from PIL import ImageDraw

from engine.findings import Findings
from engine.render.panels import Panel, whole_box
from engine.render.texts import font
from engine.saliency.links import Region

COLOURS = ("#0a5fd6", "#d55e00", "#1c1c1e", "#5ab4e5")
"""One for each link, strongest first: blue, orange, black and light blue are told apart without red and green."""
NUMBERS = ("#ffffff", "#ffffff", "#ffffff", "#1c1c1e")
"""The colour of the number on each."""
WIDEST, NARROWEST = 6, 2
"""Width of the line of the strongest link, and least width, in pixels of a panel."""
SMALLEST = 4
"""A link to a region with a shorter side, in pixels of its panel, is not drawn."""
LABEL = 17
"""Side of the square around a number."""


@dataclasses.dataclass(frozen=True)
class DrawnLink:
    """A link on two panels. query, reference: boxes in pixels of their panels; width: of its line"""

    number: int
    colour: str
    width: int
    query: Region
    reference: Region


def links_on(explanation: Findings, query: Panel, reference: Panel) -> list[DrawnLink]:
    """Return the links of an explanation in pixels of its panels, the strongest first; what lies outside is cut off."""
    links = explanation.links or ()
    strongest = links[0].strength if links else 1.0
    size = explanation.query_image.shape[:2]  # the network sees both pictures in one size
    found = []
    for i, (link, colour) in enumerate(zip(links, COLOURS, strict=False)):
        width = max(round(WIDEST * link.strength / strongest), NARROWEST)
        boxes = (
            _on_panel(link.query_box, size, query),
            _on_panel(link.reference_box, size, reference),
        )
        if all(min(box[2] - box[0], box[3] - box[1]) >= SMALLEST for box in boxes):  # else in the border of a padded picture
            found.append(DrawnLink(i + 1, colour, width, *boxes))
    return found


def draw_links(
    draw: ImageDraw.ImageDraw, links: Sequence[DrawnLink], query_at: tuple[int, int], reference_at: tuple[int, int]
) -> None:
    """Draw links, the weakest first, over panels whose left upper corners are at these places."""
    for link in reversed(links):
        left, right = _moved(link.query, query_at), _moved(link.reference, reference_at)
        line = (left[2], (left[1] + left[3]) / 2, right[0], (right[1] + right[3]) / 2)
        draw.line(line, fill="white", width=link.width + 3)
        draw.line(line, fill=link.colour, width=link.width)
    for link in reversed(links):
        for box in (_moved(link.query, query_at), _moved(link.reference, reference_at)):
            draw_box(draw, box, link.colour, link.number)


def draw_box(draw: ImageDraw.ImageDraw, box: Region, colour: str, number: int, zoom: int = 1) -> None:
    """Outline a region and number it; the colour has a white edge, so that it shows on any picture."""
    left, top, right, bottom = (round(edge) for edge in box)
    right, bottom = max(right, left + 6 * zoom), max(bottom, top + 6 * zoom)
    draw.rectangle((left - zoom, top - zoom, right + zoom, bottom + zoom), outline="white", width=4 * zoom)
    draw.rectangle((left, top, right, bottom), outline=colour, width=2 * zoom)
    label = LABEL * zoom
    above = top - label if top >= label else bottom
    draw.rectangle((left - zoom, above - zoom, left + label, above + label), fill="white")
    draw.rectangle((left, above, left + label - zoom, above + label - zoom), fill=colour)
    draw.text(
        (left + label / 2, above + label / 2), str(number), fill=NUMBERS[number - 1], font=font(14 * zoom), anchor="mm"
    )


def _on_panel(box: Region, size: tuple[int, int], panel: Panel) -> Region:
    """Return a box in pixels of a panel. size: (height, width) of the picture as the network saw it"""
    left, top, right, bottom = panel.seen or whole_box(panel.picture)
    across, down = (right - left) / size[1], (bottom - top) / size[0]
    x = [min(max(left + across * edge, 0), panel.picture.width - 1) for edge in (box[0], box[2])]
    y = [min(max(top + down * edge, 0), panel.picture.height - 1) for edge in (box[1], box[3])]
    return x[0], y[0], x[1], y[1]


def _moved(box: Region, by: tuple[int, int]) -> Region:
    return box[0] + by[0], box[1] + by[1], box[2] + by[0], box[3] + by[1]
