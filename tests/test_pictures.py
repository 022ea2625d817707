"""Pictures and pages of mode "both": the second map, and the regions that match."""

import dataclasses
import html.parser
import json
import re

import numpy as np
import pytest
from helpers import CAT

from engine import Explainer, Explanation, Rise
from engine.render.attribute_table import ATTRIBUTE_SCRIPT
from engine.render.html import LARGEST_TILED, SCRIPT, matrix_json, page, tile_grid
from engine.render.matched_regions import COLOURS, links_text, mark_links, strongest_links
from engine.render.png import PANEL, draw_explanation, enlarged, panels

GRID = 5


@pytest.fixture(scope="module")
def explanation() -> Explanation:
    return Explainer().explain(*CAT, Rise(masks=60, grid=GRID), mode="both")


def test_strongest_links_are_mutual_positive_and_sorted() -> None:
    correspondence = np.array([[0.1, 3.0, 0.2, 0.0], [0.0, 2.0, 0.0, -1.0], [5.0, 0.0, 1.0, 0.0]])
    assert strongest_links(correspondence, 4) == [(2, 0, 5.0), (0, 1, 3.0)]  # 1 prefers what prefers 0
    assert strongest_links(correspondence, 1) == [(2, 0, 5.0)]
    assert strongest_links(-np.eye(2) - 1, 4) == []
    assert strongest_links(np.zeros((2, 2)), 4) == []


def test_links_are_drawn_on_their_tiles() -> None:
    matrix = np.zeros((4, 9))
    matrix[3, 2] = 1  # bottom right of 2 x 2, top right of 3 x 3
    query, reference = (enlarged(np.full((20, 20, 3), 128, np.uint8)) for _ in range(2))
    before = np.asarray(query).copy()
    mark_links(matrix, query, reference)
    for panel, rows, columns in ((query, slice(150, 300), slice(150, 300)), (reference, slice(0, 100), slice(200, 300))):
        changed = (np.asarray(panel) != before).any(-1)
        assert changed[rows, columns].sum() == changed.sum() > 0
        assert (np.asarray(panel)[rows, columns] == tuple(bytes.fromhex(COLOURS[0][1:]))).all(-1).sum() > 100


def test_png_has_a_map_of_the_reference_and_says_how_reliable_the_links_are(explanation: Explanation) -> None:
    assert [panel.caption for panel in panels(explanation)] == [
        "query",
        "what matters in it",
        "reference",
        "what matters in it",
    ]
    fixed = dataclasses.replace(explanation, reference_saliency=None, correspondence=None, correspondence_reliability=None)
    assert draw_explanation(explanation).width - draw_explanation(fixed).width > PANEL
    assert links_text(fixed) is None
    texts = [links_text(dataclasses.replace(explanation, correspondence_reliability=r)) for r in (0.83, 0.3, None)]
    assert "(split-half reliability 0.83)" in str(texts[0])
    assert "(split-half reliability 0.30, mostly noise)" in str(texts[1])
    assert "too few masks" in str(texts[2])
    assert "no two regions" in str(links_text(dataclasses.replace(explanation, correspondence=np.zeros((4, 4)))))


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
    assert "equal numbers: regions that match" in text
