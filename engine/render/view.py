"""What a page draws of an explanation, as data: pictures, colours of maps, regions and words, each apart from the others."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from engine.attributes.table import Attribute
from engine.findings import ATTRIBUTE_LISTS, Findings
from engine.render.attribute_groups import AttributeGroup, attribute_groups, numbers
from engine.render.colours import BAR_HEIGHT, PANEL, Scale, bar, bar_text, bar_ticks, own_ticks
from engine.render.drawn_links import NUMBERS, links_on
from engine.render.panels import QUERY, REFERENCE, RIVAL, Panel, panel_of, panels, whole_box
from engine.render.texts import byline, headline, links_text, plain_trust
from engine.saliency.links import Region

View = dict[str, Any]
"""Ready for JSON. Boxes are (left, top, right, bottom) as shares of the picture that they lie on."""
ORIGINALS = ("query_size", "reference_size", "rather_than_size")
"""Numbers that are listed only if the panels are of the original pictures."""
LARGEST_TILED = 256
"""Most tiles per picture that can be pointed at: a view holds tiles * tiles numbers."""
MOSTLY_NOISE = 0.5
"""A correspondence with less split-half reliability is called mostly noise."""
HOW_TO = "Point at, tap, or move with the arrow keys over either picture: the other lights up where it matches"


def view(
    explanation: Findings, shown: Sequence[Panel] | None = None, contours: bool = False, *, pictures: bool = True
) -> View:
    """Return what a page draws. engine/render/component.js does.

    shown: panels to draw instead of the pictures as the network saw them, such as `engine.render.original` makes
    contours: lines around the strongest parts of the maps, for print; of panels made here
    pictures: whether the pictures are in it; False where the page has them already
    """
    e, scale = explanation, Scale.of(explanation)
    drawn = panels(e, contours) if shown is None else shown
    left_out = (*ATTRIBUTE_LISTS, "notes", *(ORIGINALS if shown is None else ()))
    listed = {name: value for name, value in e.to_dict().items() if name not in left_out and value is not None}
    return {
        "title": headline(e),
        "made": byline(e),
        "passes": e.passes,
        "sides": [_side(e, name, drawn, pictures) for name in (QUERY, REFERENCE, RIVAL) if _has(drawn, name)],
        "scale": {
            "bar": _data_uri(bar(scale, PANEL, BAR_HEIGHT)),
            "text": bar_text(e),
            "ticks": bar_ticks(scale),
            "own_ticks": own_ticks(scale),
        },
        "links": _links(e, drawn),
        "tiles": _tiles(e),
        "groups": [_group(group) for group in attribute_groups(e)],
        "notes": list(e.notes),
        "numbers": [[name, str(value)] for name, value in listed.items()],
    }


def _has(drawn: Sequence[Panel], caption: str) -> bool:
    return any(panel.caption == caption for panel in drawn)


def _side(explanation: Findings, name: str, drawn: Sequence[Panel], pictures: bool) -> View:
    """Return one picture with its map.

    seen: the part that the network saw; original: the same of the original picture, None where its size is not known
    """
    panel = panel_of(drawn, name)
    field = name.replace(" ", "_")
    box, size = (getattr(explanation, f"{field}_{what}") for what in ("box", "size"))
    return {
        "name": name,
        "picture": _data_uri(panel.picture) if pictures else None,
        "seen": _shares(panel.seen or whole_box(panel.picture), panel.picture.size),
        "original": None if box is None or size is None else _shares(box, size),
        "map": None if name == RIVAL else _map(drawn, panel),
    }


def _map(drawn: Sequence[Panel], panel: Panel) -> View | None:
    """Return the map over a panel; None if it has none. Its panel stands beside, with the same picture."""
    of_reference = panel.caption == REFERENCE
    for one in drawn:
        if one.layer is not None and one.of_reference == of_reference:
            layer = _data_uri(Image.fromarray(one.layer))
            alone = _alone(one, layer) if sum(other.layer is not None for other in drawn) > 1 else None
            return {"of": one.caption, "layer": layer, "alone": alone, "trust": one.trust, "plain": plain_trust(one.trust)}
    return None


def _alone(panel: Panel, shared: str) -> View | None:
    """Return a map on a scale of its own, where another shares its scale otherwise: without a layer if that is `shared`."""
    if panel.alone is None:
        return None
    own = _data_uri(Image.fromarray(panel.alone()))
    return {"layer": None if own == shared else own, "most": f"{panel.most:.2g}"}


def _links(explanation: Findings, drawn: Sequence[Panel]) -> View | None:
    """Return the links over both pictures; None where regions were not matched."""
    text = links_text(explanation)
    if text is None:
        return None
    query, reference = panel_of(drawn, QUERY), panel_of(drawn, REFERENCE)
    found = [
        {
            "number": link.number,
            "colour": link.colour,
            "ink": NUMBERS[link.number - 1],
            "width": link.width,
            "boxes": [_shares(link.query, query.picture.size), _shares(link.reference, reference.picture.size)],
        }
        for link in links_on(explanation, query, reference)
    ]
    return {"text": text, "drawn": found}


def _tiles(explanation: Findings) -> View | None:
    """Return how well tiles match, query by reference; None where they cannot be pointed at."""
    matrix = explanation.correspondence
    if matrix is None or max(matrix.shape) > LARGEST_TILED:
        return None
    return {"matrix": _rounded(matrix, 4), "text": tiles_text(explanation)}


def tiles_text(explanation: Findings) -> str:
    """Return what a reader can do with the tiles, and how far they can be trusted."""
    value = explanation.correspondence_reliability
    trust = "too few masks to say how reliable" if value is None else f"split-half reliability {value:.2f}"
    return f"{HOW_TO} ({trust}{', mostly noise' if value is not None and value < MOSTLY_NOISE else ''})."


def _group(group: AttributeGroup) -> View:
    attributes = [_attribute(attribute) for attribute in group.attributes]
    return {"title": group.title, "over": group.over, "main": group.main, "attributes": attributes}


def _attribute(attribute: Attribute) -> View:
    """Return an attribute with its numbers in words. map: rows of numbers, where the attribute is seen; None: not known"""
    seen = attribute.map is not None and attribute.map.size > 1
    return {
        "name": attribute.name,
        "score": attribute.score,
        "parts": numbers(attribute),
        "map": _rounded(attribute.map, 3) if seen and attribute.map is not None else None,
    }


def _rounded(values: np.ndarray, digits: int) -> list[list[float]]:
    return [[float(f"{value:.{digits}g}") for value in row] for row in values.tolist()]


def _shares(box: Region, size: tuple[int, int]) -> list[float]:
    return [round(edge / size[i % 2], 5) for i, edge in enumerate(box)]


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
