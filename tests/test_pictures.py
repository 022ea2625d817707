"""Pictures and pages with two maps: the second map, links, and tiles to point at."""

import dataclasses
import html.parser
import json
import re

import numpy as np
import pytest
from helpers import CAT
from PIL import Image, ImageDraw

from engine import Explainer, Explanation, Rise
from engine.render.attribute_table import ATTRIBUTE_SCRIPT
from engine.render.colours import PANEL
from engine.render.drawn_links import COLOURS, NARROWEST, WIDEST, draw_links, links_on
from engine.render.html import page
from engine.render.panels import Panel, enlarged, panels
from engine.render.png import draw_explanation
from engine.render.texts import links_text
from engine.render.tiles import LARGEST_TILED, SCRIPT, how_to, inset, matrix_json, tile_grid
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
    assert inset(panel) == ";inset:-100% 0% -100% 0%;clip-path:inset(33.33% 0% 33.33% 0%)"
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
    texts = [how_to(dataclasses.replace(explanation, correspondence_reliability=r)) for r in (0.83, 0.3, None)]
    assert "(split-half reliability 0.83)" in texts[0]
    assert "(split-half reliability 0.30, mostly noise)" in texts[1]
    assert "too few masks" in texts[2]


def test_the_page_draws_the_same_links(explanation: Explanation) -> None:
    tags = Tags(page([linked(explanation)]))
    (view,) = [a["viewbox"] for a in tags.named("svg")]
    assert view == "0 0 624 300"
    lines = tags.named("line")
    assert [a["stroke"] for a in lines] == ["#fff", COLOURS[1], "#fff", COLOURS[0]]  # the strongest on top
    assert (lines[-1]["x1"], lines[-1]["x2"]) == ("47", str(round(300 + 24 + 20 * 300 / 64)))
    assert not Tags(page([linked(explanation, ())])).named("svg")


class Tags(html.parser.HTMLParser):
    """Collects tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


def test_page_has_a_grid_of_focusable_tiles_on_both_pictures(explanation: Explanation) -> None:
    tags = Tags(page([explanation, explanation]))
    buttons = tags.named("button")
    grids = [a for a in tags.named("div") if a.get("class") == "tiles"]
    assert [str(a["aria-label"]).split()[0] for a in grids] == ["query", "reference"] * 2
    tiles = [a for a in buttons if "aria-label" in a]
    assert len(tiles) == len(grids) * GRID**2
    assert [a["tabindex"] for a in tiles].count("0") == len(grids)
    for name in ("query", "reference"):
        labels = [str(a["aria-label"]) for a in tiles if str(a["aria-label"]).startswith(f"{name} row")]
        assert len(labels) == 2 * len(set(labels)) == 2 * GRID**2


def test_page_is_self_contained_and_its_script_holds_no_text_of_ours(explanation: Explanation) -> None:
    text = page([dataclasses.replace(explanation, condition="</script><b>"), explanation])
    tags = Tags(text)
    assert not tags.named("b") + tags.named("link") + tags.named("iframe")
    assert all(str(a[k]).startswith("data:image/png;base64,") for _, a in tags.found for k in ("src", "href") if k in a)
    assert re.findall(r"<script>(.*?)</script>", text, re.DOTALL) == [SCRIPT, ATTRIBUTE_SCRIPT]
    assert "http" not in SCRIPT + ATTRIBUTE_SCRIPT + explanation._repr_html_()


def test_page_holds_the_matrix_once_with_4_digits(explanation: Explanation) -> None:
    text = page([explanation])
    assert text.count("data-correspondence='") == 1
    (data,) = [a["data-correspondence"] for a in Tags(text).named("div") if "data-correspondence" in a]
    assert explanation.correspondence is not None
    np.testing.assert_allclose(json.loads(str(data)), explanation.correspondence, rtol=5e-4)
    assert matrix_json(np.array([[0.123456, -2e-7]])) == "[[0.1235,-2e-07]]"


def test_labels_say_the_best_match() -> None:
    labels = [a["aria-label"] for a in Tags(tile_grid("query", "reference", np.array([[0, 0, 2, 1]]))).named("button")]
    assert labels == ["query row 1 column 1: best match in reference row 2 column 1"]
    assert "no match" in tile_grid("query", "reference", -np.ones((1, 4)))


def test_grids_too_fine_to_point_at_are_drawn_only(explanation: Explanation) -> None:
    tiles = LARGEST_TILED + 33  # 17 x 17
    text = page([dataclasses.replace(explanation, correspondence=np.eye(tiles))])
    assert SCRIPT not in text
    assert "class=tiles" not in text
    assert "equal numbers: regions that match" in text or "no region matches" in text
