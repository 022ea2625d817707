"""Pictures and pages with two maps: the second map, links, and tiles to point at. test_page.py points at them."""

import base64
import dataclasses
import io

import numpy as np
import pytest
from helpers import CAT, views_of
from PIL import Image, ImageDraw

from engine import Explainer, Explanation, Rise
from engine.render.colours import PANEL, Scale
from engine.render.drawn_links import COLOURS, NARROWEST, WIDEST, draw_links, links_on
from engine.render.html import page
from engine.render.panels import Panel, enlarged, panels
from engine.render.png import draw_explanation
from engine.render.texts import links_text
from engine.render.view import LARGEST_TILED, tiles_text, view
from engine.saliency.links import Link

GRID = 5


@pytest.fixture(scope="module")
def explanation() -> Explanation:
    return Explainer().explain(*CAT, Rise(masks=60, grid=GRID), mode="both")


LINKS = (
    Link((0, 0, 10, 10), (20, 0, 30, 10), 4.0, 0.9),
    Link((30, 30, 40, 40), (0, 20, 10, 30), 1.0, 0.8),
)


def linked(explanation: Explanation, links: tuple[Link, ...] = LINKS) -> Explanation:
    return dataclasses.replace(explanation, links=links)


def test_links_are_drawn_on_their_regions_and_joined_by_lines(explanation: Explanation) -> None:
    query, reference = (Panel(name, enlarged(np.full((64, 64, 3), 128, np.uint8))) for name in ("query", "reference"))
    first, second = links_on(linked(explanation), query, reference)
    assert first.query == pytest.approx((0, 0, 46.9, 46.9), abs=0.1)
    assert second.reference == pytest.approx((0, 93.75, 46.9, 140.6), abs=0.1)
    assert (first.number, first.width, second.width) == (1, WIDEST, NARROWEST)
    assert len(set(COLOURS)) == 4
    canvas = Image.new("RGB", (640, 300), "grey")
    draw_links(ImageDraw.Draw(canvas), [first], (0, 0), (340, 0))
    drawn = np.asarray(canvas)
    colour = (drawn == tuple(bytes.fromhex(COLOURS[0][1:]))).all(-1)
    assert colour[:70, :50].sum() > 100
    assert colour[:70, 340 + 90 : 340 + 145].sum() > 100
    assert colour[:, 50 : 340 + 90].any(0).all()  # the line crosses the gap
    assert not colour[100:].any()


def test_links_in_the_border_of_a_padded_picture_are_not_drawn(explanation: Explanation) -> None:
    panel = Panel("query", Image.new("RGB", (PANEL, 100)), seen=(0.0, -100.0, 300.0, 200.0))
    reference = Panel("reference", enlarged(np.zeros((64, 64, 3), np.uint8)))
    for top, drawn in ((0, 0), (24, 1)):
        link = Link((24, top, 40, top + 16), (0, 0, 16, 16), 1.0, 1.0)
        assert len(links_on(linked(explanation, (link,)), panel, reference)) == drawn


def test_png_has_a_map_of_the_reference_and_says_how_reliable_the_links_are(explanation: Explanation) -> None:
    assert [panel.caption for panel in panels(explanation)] == [
        "what matters in the query",
        "query",
        "reference",
        "what matters in the reference",
    ]
    fixed = dataclasses.replace(explanation, reference_saliency=None, correspondence=None, correspondence_reliability=None)
    assert draw_explanation(explanation).width - draw_explanation(fixed).width > PANEL
    assert links_text(fixed) is None
    assert "(reliability 0.80 to 0.90)" in str(links_text(linked(explanation)))
    none = linked(explanation, ())
    assert links_text(none) == "no region matches reliably"
    few = dataclasses.replace(none, correspondence_reliability=None)
    assert links_text(few) == "no region matches reliably: too few masks to tell"
    texts = [tiles_text(dataclasses.replace(explanation, correspondence_reliability=r)) for r in (0.83, 0.3, None)]
    assert "(split-half reliability 0.83)" in texts[0]
    assert "(split-half reliability 0.30, mostly noise)" in texts[1]
    assert "too few masks" in texts[2]


def test_a_page_draws_the_same_links(explanation: Explanation) -> None:
    (found,) = views_of(page([linked(explanation)]))
    first, second = found["links"]["drawn"]
    assert [link["colour"] for link in (first, second)] == list(COLOURS[:2])  # the strongest first
    assert (first["number"], first["width"], second["width"]) == (1, WIDEST, NARROWEST)
    assert first["boxes"][0] == pytest.approx([0, 0, 10 / 64, 10 / 64], abs=1e-4)
    assert second["boxes"][1] == pytest.approx([0, 20 / 64, 10 / 64, 30 / 64], abs=1e-4)
    (none,) = views_of(page([linked(explanation, ())]))
    assert none["links"] == {"text": "no region matches reliably", "drawn": []}
    (fixed,) = views_of(page([dataclasses.replace(explanation, correspondence=None)]))
    assert fixed["links"] is None


def test_a_picture_and_the_colours_of_its_map_lie_apart(explanation: Explanation) -> None:
    shown = {panel.caption: panel for panel in panels(explanation)}
    found = view(explanation)
    for side, caption in zip(found["sides"], ("what matters in the query", "what matters in the reference"), strict=True):
        np.testing.assert_array_equal(pixels_of(side["picture"]), np.asarray(shown[side["name"]].picture))
        np.testing.assert_array_equal(pixels_of(side["map"]["layer"]), shown[caption].layer)
        assert (side["map"]["of"], side["map"]["trust"]) == (caption, shown[caption].trust)
    scale = Scale.of(explanation)
    for side, of_map in zip(found["sides"], (explanation.saliency, explanation.reference_saliency), strict=True):
        alone = side["map"]["alone"]  # the strongest map of all looks the same on a scale of its own, the other does not
        same = alone["layer"] is None
        assert same or (pixels_of(alone["layer"]) != pixels_of(side["map"]["layer"])).any()
        assert same == (Scale.around([of_map], scale.signed) == scale) == (alone["most"] == f"{scale.most:.2g}")
    (single,) = view(dataclasses.replace(explanation, reference_saliency=None))["sides"][:1]
    assert single["map"]["alone"] is None
    without = view(explanation, pictures=False)
    assert [side["picture"] for side in without["sides"]] == [None, None]
    assert without["sides"][0]["map"] == found["sides"][0]["map"]


def pixels_of(data_uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(data_uri.removeprefix("data:image/png;base64,")))) as picture:
        return np.asarray(picture)


def test_a_page_holds_the_matrix_once_with_4_digits(explanation: Explanation) -> None:
    (found,) = views_of(page([explanation]))
    assert explanation.correspondence is not None
    np.testing.assert_allclose(found["tiles"]["matrix"], explanation.correspondence, rtol=5e-4)
    small = dataclasses.replace(explanation, correspondence=np.array([[0.123456, -2e-7]]))
    assert view(small)["tiles"]["matrix"] == [[0.1235, -2e-07]]


def test_grids_too_fine_to_point_at_are_drawn_only(explanation: Explanation) -> None:
    tiles = LARGEST_TILED + 33  # 17 x 17
    found = view(dataclasses.replace(explanation, correspondence=np.eye(tiles)))
    assert found["tiles"] is None
    assert found["links"]["text"]
