"""Explanations are kept whole in every format."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import CAT, COUPLE, views_of
from PIL import Image

from engine import Explainer, Explanation, LearnedMask, OutputError, Rise
from engine.attributes.ranking import area_means
from engine.findings import ARRAYS, ATTRIBUTE_LISTS
from engine.render.colours import PANEL
from engine.render.html import page, policy
from engine.render.png import GAP, draw_explanation


@pytest.fixture(scope="module")
def explanation() -> Explanation:
    return Explainer().explain(*CAT, Rise(masks=200))


@pytest.fixture(scope="module")
def opposed() -> Explanation:
    """One that has words against the match, too."""
    return Explainer().explain(*COUPLE, Rise(masks=200))


def test_npz_brings_everything_back(explanation: Explanation, opposed: Explanation, tmp_path: Path) -> None:
    embedded = dataclasses.replace(explanation, reference_image=None, reference_box=None, attributes=(), phi=None)
    assert opposed.opposing_attributes
    for number, saved in enumerate((explanation, embedded, opposed)):
        saved.save(tmp_path / f"{number}.npz")
        loaded = Explanation.load(tmp_path / f"{number}.npz")
        assert loaded.to_dict() == saved.to_dict()
        assert (loaded.query_box, loaded.phi, loaded.model) == (saved.query_box, saved.phi, saved.model)
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
        for words in ATTRIBUTE_LISTS:
            for a, b in zip(getattr(loaded, words), getattr(saved, words), strict=True):
                np.testing.assert_array_equal(a.map, b.map)


def test_opposing_words_agree_with_the_map_below_its_mean(opposed: Explanation) -> None:
    expected = np.maximum(opposed.saliency.mean(dtype=np.float64) - opposed.saliency, 0)
    assert opposed.opposing.dtype == np.float32
    np.testing.assert_allclose(opposed.opposing, expected, atol=1e-6)
    assert opposed.phi is not None
    scores = [a.score for a in opposed.opposing_attributes]
    assert scores == sorted(scores, reverse=True)
    for attribute in opposed.opposing_attributes:
        assert attribute.match > 0
        terms = attribute.confidence, attribute.match, attribute.prior
        assert attribute.score == pytest.approx(np.dot(opposed.phi, terms))
    sane = Explainer().explain(*COUPLE, Rise(masks=200), ranking="sane")
    assert [a.name for a in sane.opposing_attributes] == [a.name for a in opposed.opposing_attributes]
    assert {a.name for a in opposed.opposing_attributes} & {a.name for a in sane.attributes if a.match < 0}


@pytest.mark.parametrize("method", [Rise(masks=64), Rise(masks=400, estimator="sane"), LearnedMask(iterations=3)], ids=str)
@pytest.mark.parametrize("mode", ["fixed", "both"])
def test_words_match_the_map_of_their_own_reference(method: Rise | LearnedMask, mode: str) -> None:
    found = Explainer(precision="fp32").explain_many(COUPLE[0], [COUPLE[1], CAT[1]], method, mode, ranking="sane")
    assert not np.allclose(*(e.saliency for e in found))
    assert any(e.opposing_attributes for e in found)
    for explanation in found:
        for words, map_ in (("attributes", explanation.saliency), ("opposing_attributes", explanation.opposing)):
            for attribute in getattr(explanation, words):
                cells = area_means(map_[None].astype(np.float64), *attribute.map.shape)[0]
                assert attribute.match == pytest.approx(np.corrcoef(cells.ravel(), attribute.map.ravel())[0, 1], abs=1e-4)


def test_top_holds_for_words_of_both_kinds(opposed: Explanation) -> None:
    best = Explainer().explain(*COUPLE, Rise(masks=200), top=1)
    for words in ATTRIBUTE_LISTS:
        assert [a.name for a in getattr(best, words)] == [a.name for a in getattr(opposed, words)[:1]]


def test_files_from_before_opposing_words_are_read(explanation: Explanation, tmp_path: Path) -> None:
    explanation.save(tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as data:
        arrays = dict(data)
    fields = json.loads(str(arrays.pop("fields")))
    del fields["opposing_attributes"]
    np.savez(tmp_path / "old.npz", fields=np.array(json.dumps(fields)), **arrays)
    old = Explanation.load(tmp_path / "old.npz")
    assert old.opposing_attributes == ()
    assert len(old.attributes) == len(explanation.attributes)


def test_json_holds_the_fields_without_arrays(explanation: Explanation, tmp_path: Path) -> None:
    explanation.save(tmp_path / "e.json")
    fields = json.loads((tmp_path / "e.json").read_text())
    names = {f.name for f in dataclasses.fields(Explanation)}
    assert set(fields) == names - set(ARRAYS)
    assert fields["passes"] == 202
    assert set(fields["attributes"][0]) == {"name", "score", "confidence", "match", "prior", "reference_confidence"}
    assert isinstance(fields["opposing_attributes"], list)
    assert fields["model"] == {"name": "emoji demo", "identity": explanation.model.identity}


def test_png_shows_query_map_reference_and_bars(explanation: Explanation, tmp_path: Path) -> None:
    explanation.save(tmp_path / "e.png")
    with Image.open(tmp_path / "e.png") as picture:
        assert picture.width == 3 * PANEL + 4 * GAP
        assert picture.height > PANEL + 100
    fewer = draw_explanation(dataclasses.replace(explanation, attributes=(), notes=("nothing to say",)))
    assert fewer.height < draw_explanation(explanation).height


def test_a_page_has_every_group_with_maps_to_point_at(demo: Explainer) -> None:
    apart = demo.explain(COUPLE[0], CAT[0], Rise(masks=64))
    (view,) = views_of(page([apart]))
    groups = {group["title"]: group for group in view["groups"]}
    for title, attributes, over in (
        ("only in the query", apart.only_query, "query"),
        ("only in the reference", apart.only_reference, "reference"),
    ):
        assert [a["name"] for a in groups[title]["attributes"]] == [a.name for a in attributes]
        assert (groups[title]["over"], groups[title]["main"]) == (over, False)
        for shown, attribute in zip(groups[title]["attributes"], attributes, strict=True):
            np.testing.assert_allclose(shown["map"], attribute.map, rtol=5e-3)
    for opposing in apart.opposing_attributes:  # a fact in JSON: nothing is shown as a reason both for and against
        assert opposing.name not in {a.name for a in apart.attributes}
    unseen = dataclasses.replace(apart.only_query[0], map=None)
    (without,) = views_of(page([dataclasses.replace(apart, only_query=(unseen,))]))
    assert next(g for g in without["groups"] if g["title"] == "only in the query")["attributes"][0]["map"] is None


class Links(html.parser.HTMLParser):
    """Collects what a page would fetch or run, and what it has inline."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [f"{k}={v}" for k, v in attrs if k in ("src", "href", "style") or k.startswith("on")]


def test_html_is_self_contained_and_escaped(explanation: Explanation) -> None:
    attribute = dataclasses.replace(explanation.attributes[0], name="</script><script>alert(1)</script>")
    text = page([dataclasses.replace(explanation, attributes=(attribute,), condition="<b>"), explanation])
    links = Links(text)
    assert not links.found
    assert links.tags.count("script") == 2  # the data, and what draws it
    assert not {"link", "iframe", "object"} & set(links.tags)
    assert "<script>alert" not in text
    assert "http:" not in text
    assert "https:" not in text
    first, second = views_of(text)
    assert first["groups"][0]["attributes"][0]["name"] == attribute.name
    assert ["condition", "<b>"] in first["numbers"]
    assert second["title"] == f"Similarity {explanation.similarity:.3f}"


def test_the_policy_of_a_page_names_its_own_style_and_script(explanation: Explanation) -> None:
    text = page([explanation])
    (policy_text,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy_text == policy()
    assert "unsafe" not in policy_text
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy_text


def test_a_notebook_shows_the_page_in_a_frame_that_reaches_nothing(explanation: Explanation) -> None:
    class Frame(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag == "iframe"
            self.attributes = dict(attrs)

    frame = Frame()
    frame.feed(explanation._repr_html_())
    assert frame.attributes["sandbox"] == "allow-scripts"
    assert frame.attributes["srcdoc"] == page([explanation])


def test_other_suffixes_and_places_are_refused(explanation: Explanation, tmp_path: Path) -> None:
    for name in ("e.gif", "e", "nowhere/e.png"):
        with pytest.raises(OutputError, match="cannot write"):
            explanation.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    explanation: Explanation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "e.json"
    target.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.files.os.replace", fail)
    with pytest.raises(OutputError, match="No space"):
        explanation.save(target)
    assert [p.name for p in tmp_path.iterdir()] == ["e.json"]
    assert target.read_text() == "old"


def test_other_files_are_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"not a zip")
    np.savez(tmp_path / "b.npz", fields=np.zeros(3))
    np.savez(tmp_path / "c.npz", fields=np.array([{}], dtype=object))
    for name in ("a.npz", "b.npz", "c.npz", "missing.npz"):
        with pytest.raises(OutputError, match=r"not a saved explanation|cannot read"):
            Explanation.load(tmp_path / name)
