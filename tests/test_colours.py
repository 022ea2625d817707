"""Colours of maps: nothing where nothing matters, one scale for all maps, and what shows in grey and to the colour-blind."""

import dataclasses
import itertools

import numpy as np
import pytest
from helpers import CAT, views_of
from PIL import Image

from engine import Explainer, Explanation, Rise
from engine.render import texts
from engine.render.colours import LOWERS, RAISES, Scale, bar, bar_text, bar_ticks, coloured, map_layer, over_grey
from engine.render.drawn_links import COLOURS
from engine.render.html import page
from engine.render.panels import panels
from engine.render.png import draw_explanation
from engine.render.texts import drawable, fitted, font, map_trust, plain_trust
from engine.saliency.steadiness import FAINT, NOTHING_STANDS_OUT, steadiness

SIZE = (60, 40)
WHOLE = (0.0, 0.0, 60.0, 40.0)
DEUTERANOPIA = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
"""Machado, Oliveira and Fernandes 2009, severity 1: linear RGB as such a reader sees it."""


@pytest.fixture(scope="module")
def pair() -> Explanation:
    return Explainer().explain(*CAT, Rise(masks=256), mode="pair")


def spot(value: float) -> np.ndarray:
    map_ = np.zeros((40, 60), np.float32)
    map_[10:20, 30:45] = value
    return map_


def test_nothing_is_coloured_where_a_map_is_within_its_error(pair: Explanation) -> None:
    saliency = spot(1.0) + 0.05 * np.random.default_rng(0).standard_normal((40, 60)).astype(np.float32)
    error = np.full((16, 16), 0.15, np.float32)
    white = Image.new("RGB", SIZE, "white")
    layer = map_layer(saliency, error, WHOLE, SIZE, Scale(1.0, True))
    drawn = np.asarray(over_grey(white, layer)).astype(int)
    outside = spot(1.0) == 0
    assert (np.ptp(drawn, axis=-1)[outside] == 0).all()  # white, with grey dots
    dots = (drawn != 255).any(-1) & outside
    assert 0 < dots.sum() < 0.2 * outside.sum()
    assert (np.ptp(drawn, axis=-1)[~outside] > 50).all()
    unknown = map_layer(saliency, None, WHOLE, SIZE, Scale(1.0, True))
    assert (unknown[..., 3] > 0).mean() > 0.9  # where nothing tells the error, every value has its colour


def test_the_maps_of_an_explanation_share_their_scale(pair: Explanation) -> None:
    strong = dataclasses.replace(pair, reference_saliency=3 * pair.saliency, reference_saliency_error=pair.saliency_error)
    scale = Scale.of(strong)
    assert scale.most == pytest.approx(3 * np.abs(pair.saliency).max())
    weak = next(p.layer for p in panels(strong) if p.caption == "what matters in the query")
    own = next(p.layer for p in panels(pair) if p.caption == "what matters in the query")
    assert weak is not None
    assert own is not None
    assert weak[..., 3].max() < own[..., 3].max()
    assert bar_ticks(scale) == [f"-{scale.most:.2g}", "0", f"+{scale.most:.2g}"]


def test_every_picture_and_page_has_a_bar_with_its_unit(pair: Explanation) -> None:
    assert "similarity added where a pixel is shown" in bar_text(pair)
    published = dataclasses.replace(pair, estimator="sane", method="rise")
    assert not Scale.of(published).signed
    assert bar_ticks(Scale.of(published))[0] == "0"
    for explanation in (pair, published):
        (view,) = views_of(page([explanation]))
        assert view["scale"]["own_ticks"][-1].endswith("the map's own most")
        assert (view["scale"]["text"], view["scale"]["ticks"]) == (bar_text(explanation), bar_ticks(Scale.of(explanation)))
        drawn = np.asarray(draw_explanation(explanation)).astype(int)
        strip = np.asarray(bar(Scale.of(explanation), 300, 12)).astype(int)[6, 20:280]
        assert (np.abs(drawn[:, 28 + 20 : 28 + 280] - strip).max((1, 2)) == 0).any()


def test_a_flat_published_map_has_no_colour() -> None:
    assert not map_layer(np.ones((40, 60), np.float32), None, WHOLE, SIZE, Scale(0.0, False))[..., 3].any()


def luminance(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(rgb @ (0.2126, 0.7152, 0.0722))


def test_what_raises_and_what_lowers_are_told_apart_by_the_colour_blind_and_in_grey() -> None:
    for plus, minus in zip(RAISES[1:] / 255, LOWERS[1:] / 255, strict=True):
        seen = [DEUTERANOPIA @ colour**2.2 for colour in (plus, minus)]
        blue_over_red = [colour[2] - colour[0] for colour in seen]
        assert blue_over_red[1] - blue_over_red[0] > 0.2
    assert (np.diff(luminance(RAISES)) < 0).all()  # stronger is darker, also in grey
    values = np.full((60, 60), -1.0, np.float32)
    lowered = np.asarray(Image.fromarray(coloured(values, None, Scale(1.0, True), 0)[..., :3]).convert("L"))
    raised = np.asarray(Image.fromarray(coloured(-values, None, Scale(1.0, True), 0)[..., :3]).convert("L"))
    assert np.ptp(raised) == 0
    hatched = over_grey(Image.new("RGB", (60, 60), "white"), coloured(0.3 * values, None, Scale(1.0, True), 0))
    assert np.ptp(np.asarray(hatched.convert("L"))) > 50  # lines
    assert lowered.mean() > raised.mean() + 30


def test_links_are_told_apart_by_the_colour_blind() -> None:
    linear = [np.array([int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)]) ** 2.2 for c in COLOURS]
    seen = [np.clip(DEUTERANOPIA @ colour, 0, 1) ** (1 / 2.2) for colour in linear]
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
    assert min(apart) > 0.25


def test_contours_are_drawn_if_asked_and_dashed_where_the_similarity_is_lowered() -> None:
    for value, share in ((1.0, 1.0), (-1.0, 0.5)):
        plain, lined = (
            map_layer(spot(value), None, WHOLE, SIZE, Scale(1.0, True), contours=asked) for asked in (False, True)
        )
        assert not (plain == (20, 20, 20, 255)).all(-1).any()
        line = (lined == (20, 20, 20, 255)).all(-1)
        edge = np.zeros_like(line)
        edge[10:20, 30:45] = True
        edge[11:19, 31:44] = False
        assert not line[~edge].any()
        assert line.sum() == pytest.approx(share * edge.sum(), abs=0.15 * edge.sum())


def test_steadiness_in_words() -> None:
    error, map_ = np.full((16, 16), 0.05, np.float32), spot(1.0)
    assert steadiness(map_, error, 0.97) == "steady (0.97)"
    assert steadiness(map_, error, 0.9) == "fairly steady (0.90)"
    assert steadiness(map_, error, 0.6) == "rough (0.60): more passes would change it"
    assert steadiness(map_, error, 0.97, partner=4 * map_) == f"{FAINT} (0.97)"
    assert steadiness(map_, error, 0.97, partner=2 * map_) == "steady (0.97)"
    assert steadiness(0.1 * map_, error, 0.97) == NOTHING_STANDS_OUT
    assert steadiness(map_, None, None) is None


def test_a_picture_says_how_it_was_made(pair: Explanation) -> None:
    assert map_trust(pair).startswith(("steady (0.9", "fairly steady (0."))
    assert map_trust(dataclasses.replace(pair, saliency_error=None)) == ""
    (view,) = views_of(page([pair]))
    assert "hidden parts in the mean colour" in view["made"]
    trusts = [map_trust(pair), map_trust(pair, of_reference=True)]
    assert [side["map"]["trust"] for side in view["sides"]] == trusts
    for side, trust in zip(view["sides"], trusts, strict=True):
        word = trust.split(" (")[0]
        assert side["map"]["plain"].lower().startswith(f"{word}: ")


def test_every_word_of_trust_has_a_sentence() -> None:
    error, map_ = np.full((16, 16), 0.05, np.float32), spot(1.0)
    cases = ((None, 1, 0.97), (None, 1, 0.9), (None, 1, 0.6), (4 * map_, 1, 0.97), (None, 0.1, 0.9), (None, 0, 0.9))
    for partner, scaled, reliability in cases:
        assert plain_trust(steadiness(scaled * map_, error, reliability, partner) or "")
    assert plain_trust("") == ""


def test_long_and_foreign_names_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "a name that goes on and on " * 5
    assert font(18).getlength(fitted(long, 18, 300)) <= 300
    assert fitted(long, 18, 300).endswith("...")
    assert fitted("short", 18, 300) == "short"
    assert drawable("plain", 1) == "plain"
    assert drawable("\U000f0000", 2) == "attribute 2 (its name is in the page)"
    monkeypatch.setattr("engine.render.texts.FONTS", ())
    texts._fonts_of_the_machine.cache_clear()
    assert drawable("d\u00e9j\u00e0 vu", 3) == "attribute 3 (its name is in the page)"
    texts._fonts_of_the_machine.cache_clear()
