"""Maps on the original picture: where they lie for every way of fitting, what is drawn, and what older files lack."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import BANDAGE, CAT, error_line, exit_status, noise, views_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine import Explainer, Explanation, ImageError, LearnedMask, OptionError, Rise
from engine.explain import main
from engine.pictures.preprocessing import Preprocessing
from engine.render import original
from engine.render.html import page
from engine.render.png import draw_explanation
from engine.saliency.originals import map_on_original, seen_part

FITS: list[dict[str, object]] = [
    {"fit": "crop"},
    {"fit": "crop", "resize": (40,)},
    {"fit": "crop", "resize": (30, 70)},
    {"fit": "crop", "resize": (24,)},  # smaller than some crops, which get a black border
    {"fit": "crop", "resize": ()},
    {"fit": "crop", "resize": (41,), "crop_rounding": "down"},
    {"fit": "stretch"},
    {"fit": "pad"},
    {"fit": "pad", "pad_position": "top-left"},
]
WIDE, TALL = (451, 300), (90, 160)
FEW = Rise(masks=16)
SMALL = 1e-6


def smooth(width: int, height: int) -> np.ndarray:
    """A picture without edges, (height, width, 3) uint8: red grows to the right, green downwards."""
    red, green = np.meshgrid(np.linspace(10, 240, width), np.linspace(20, 230, height))
    return np.stack([red, green, np.full_like(red, 128)], -1).round().astype(np.uint8)


@pytest.fixture(scope="module")
def both(demo: Explainer) -> Explanation:
    """A wide query and a tall reference, both masked."""
    return demo.explain(smooth(*WIDE), smooth(*TALL), FEW, mode="both")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the same two pictures in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, size in (("wide.png", WIDE), ("tall.png", TALL)):
        Image.fromarray(smooth(*size)).save(name)
    return ["wide.png", "tall.png"]


@given(
    options=st.sampled_from(FITS),
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    target=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    edges=st.tuples(*[st.floats(0, 1)] * 4),
)
@settings(max_examples=200)
def test_a_map_that_is_constant_in_a_region_of_the_original_is_so_after_mapping_back(
    options: dict[str, object], size: tuple[int, int], target: tuple[int, int], edges: tuple[float, ...]
) -> None:
    """A map that is 1 in a region and 0 elsewhere; where it changes, bilinear resampling may blur by one cell."""
    pixels, box = Preprocessing(*target, **options).fitted(Image.new("RGB", size))  # type: ignore[arg-type]
    cells, sure, away, seen = [], [], [], []
    for axis, count in enumerate((pixels.shape[1], pixels.shape[0])):  # x, then y
        start, end = box[axis], box[axis + 2]
        cell = (end - start) / count
        low, high = sorted(size[axis] * edge for edge in edges[2 * axis : 2 * axis + 2])
        centres = start + (np.arange(count) + 0.5) * cell
        cells.append((centres >= low) & (centres <= high))
        points = np.arange(size[axis]) + 0.5
        sure.append((points > low + cell + SMALL) & (points < high - cell - SMALL))
        away.append((points < low - cell - SMALL) | (points > high + cell + SMALL))
        seen.append((points > start + SMALL) & (points < end - SMALL))
    got = map_on_original(np.outer(cells[1], cells[0]).astype(np.float32), box, size)
    assert (got.shape, got.dtype) == (size[::-1], np.float32)
    finite = np.isfinite(got)
    inside = np.outer(seen[1], seen[0])
    assert finite[inside].all()
    left, top, right, bottom = seen_part(box, size)
    assert finite[top:bottom, left:right].all()
    assert finite.sum() == (bottom - top) * (right - left) > 0
    assert (got[inside & np.outer(sure[1], sure[0])] == 1).all()
    assert (got[inside & (away[1][:, None] | away[0][None])] == 0).all()


@pytest.mark.parametrize("options", FITS, ids=str)
@pytest.mark.parametrize("size", [(160, 90), (70, 140), (33, 31)])
def test_what_the_network_sees_comes_back_to_where_it_was(options: dict[str, object], size: tuple[int, int]) -> None:
    """A channel of the fitted picture as the map: it must come back as that channel of the original."""
    picture = smooth(*size)
    pixels, box = Preprocessing(36, 48, interpolation="bicubic", **options).fitted(Image.fromarray(picture))  # type: ignore[arg-type]
    left, top, right, bottom = seen_part(box, size)
    for channel in (0, 1):
        came_back = map_on_original(pixels[..., channel].astype(np.float32), box, size)
        steps = [(box[i + 2] - box[i]) / count for i, count in enumerate((48, 36))]  # the outermost cells are extrapolated
        inner = [
            slice(top + int(steps[1]) + 1, bottom - int(steps[1]) - 1),
            slice(left + int(steps[0]) + 1, right - int(steps[0]) - 1),
        ]
        difference = came_back[tuple(inner)] - picture[tuple(inner)][..., channel]
        assert difference.size
        assert np.abs(difference).max() < 3.5
        assert abs(difference.mean()) < 0.7


def test_a_box_between_two_pixels_shows_one() -> None:
    assert seen_part((0.0, 2.6, 1.0, 3.4), (1, 6)) == (0, 3, 1, 4)
    assert seen_part((0.0, 2.6, 1.0, 2.9), (1, 6)) == (0, 2, 1, 3)


def test_the_map_lies_over_the_whole_original(both: Explanation) -> None:
    assert (both.query_size, both.reference_size) == (WIDE, TALL)
    assert both.query_box == pytest.approx((75.17, 0, 375.83, 300), abs=0.01)
    query, reference = both.on_original(), both.on_original(reference=True)
    assert (query.shape, reference.shape) == (WIDE[::-1], TALL[::-1])
    assert np.isnan(query[:, :75]).all()
    assert np.isnan(query[:, 376:]).all()
    seen = query[:, 75:376]
    assert seen.mean() == pytest.approx(float(both.saliency.mean()), abs=0.01 * float(np.ptp(both.saliency)))
    row, column = np.unravel_index(both.saliency.argmax(), both.saliency.shape)
    far = np.hypot(*(np.array(np.unravel_index(seen.argmax(), seen.shape)) * 64 / 300.67 - (row, column)))
    assert far < 1.5
    assert np.isfinite(reference[34:125]).all()
    assert np.isnan(reference[[0, 33, 125, 159]]).all()


def test_the_overlay_colours_what_was_seen_and_frames_it(both: Explanation, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = smooth(*WIDE)
    drawn = both.on_original(picture)
    assert (drawn.shape, drawn.dtype) == (picture.shape, np.uint8)
    grey = np.rint(255 * 0.35 + 0.65 * np.asarray(Image.fromarray(picture).convert("L")))[..., None].repeat(3, 2)
    np.testing.assert_allclose(drawn[:, :75], grey[:, :75], atol=1)
    np.testing.assert_allclose(drawn[:, 376:], grey[:, 376:], atol=1)
    assert (drawn[:, 75] == 0).all()  # the frame: black, then white
    assert (drawn[5:-5, 78] == 255).all()
    assert np.ptp(drawn[5:-5, 85:365].astype(int), axis=-1).max() > 100
    assert (picture == smooth(*WIDE)).all()
    monkeypatch.setattr(original, "STRIP", 10_000)
    np.testing.assert_array_equal(drawn, both.on_original(picture))  # no matter how many rows are coloured at once


def test_words_stand_below_the_original(both: Explanation) -> None:
    for picture, of_reference in ((smooth(*WIDE), False), (smooth(*TALL), True)):
        drawn = both.on_original(picture, reference=of_reference)
        told = both.on_original(picture, reference=of_reference, words=True)
        np.testing.assert_array_equal(told[: len(drawn)], drawn)
        below = told[len(drawn) :]
        assert len(below) > 20 and (below == 255).mean() > 0.5 and below.min() < 80
    other = dataclasses.replace(both, similarity=0.123).on_original(smooth(*WIDE), words=True)
    assert not np.array_equal(other, both.on_original(smooth(*WIDE), words=True))
    with pytest.raises(OptionError, match="give the original"):
        both.on_original(words=True)


def test_a_picture_that_was_seen_whole_has_no_frame(both: Explanation) -> None:
    flat = dataclasses.replace(
        both,
        saliency=np.zeros((64, 64), np.float32),
        reference_saliency=None,
        saliency_error=None,
        query_box=(0.0, -5.0, 30.0, 25.0),
        links=(),
    )
    drawn = np.asarray(original.overlay(flat, np.full((20, 30, 3), 200, np.uint8)))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 1


def test_an_upright_original_is_meant(demo: Explainer, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(smooth(60, 40)).save(tmp_path / "turned.jpg", exif=exif)
    explanation = demo.explain(tmp_path / "turned.jpg", CAT[1], FEW)
    assert explanation.query_size == (40, 60)
    assert explanation.on_original().shape == (60, 40)
    assert explanation.on_original(tmp_path / "turned.jpg").shape == (60, 40, 3)


def test_equal_crops_of_different_originals_keep_their_own_size() -> None:
    kept = Explainer(precision="fp32", cache_bytes=2**26)
    pictures = [noise(64, 64), np.pad(noise(64, 64), ((0, 0), (0, 1), (0, 0)))]
    first, second = (kept.explain(p, CAT[1], FEW) for p in pictures)
    assert first.query_box == second.query_box
    assert [e.query_size for e in (first, second)] == [(64, 64), (65, 64)]


def test_learned_masks_and_prepared_files_know_the_size(demo: Explainer, tmp_path: Path) -> None:
    learned = demo.explain(smooth(*WIDE), CAT[1], LearnedMask(iterations=1), mode="both")
    assert (learned.query_size, learned.reference_size) == (WIDE, (64, 64))
    prepared = demo.prepare(smooth(*WIDE), FEW)
    prepared.save(tmp_path / "q.npz")
    assert demo.load_prepared(tmp_path / "q.npz").explain(CAT[1]).query_size == WIDE
    with np.load(tmp_path / "q.npz") as data:
        arrays = dict(data)
    fields = json.loads(str(arrays.pop("fields")))
    del fields["original_size"]
    np.savez(tmp_path / "old.npz", fields=np.array(json.dumps(fields)), **arrays)
    old = demo.load_prepared(tmp_path / "old.npz").explain(CAT[1])
    assert (old.query_size, old.reference_size) == (None, (64, 64))


def test_files_of_older_versions_are_read_and_say_what_they_lack(both: Explanation, tmp_path: Path) -> None:
    both.save(tmp_path / "new.npz")
    assert Explanation.load(tmp_path / "new.npz").query_size == WIDE
    np.testing.assert_array_equal(Explanation.load(tmp_path / "new.npz").on_original(), both.on_original())
    with np.load(tmp_path / "new.npz") as data:
        arrays = dict(data)
    fields = json.loads(str(arrays.pop("fields")))
    assert (fields.pop("query_size"), fields.pop("reference_size")) == (list(WIDE), list(TALL))
    np.savez(tmp_path / "old.npz", fields=np.array(json.dumps(fields)), **arrays)
    old = Explanation.load(tmp_path / "old.npz")
    assert (old.query_size, old.reference_size) == (None, None)
    with pytest.raises(OptionError, match=r"size is not known.*explain the pair again, or give the original"):
        old.on_original()
    np.testing.assert_array_equal(old.on_original(smooth(*WIDE)), both.on_original(smooth(*WIDE)))


def test_wrong_originals_are_refused(both: Explanation, demo: Explainer, tmp_path: Path) -> None:
    fixed = demo.explain(CAT[0], CAT[1], FEW)
    with pytest.raises(OptionError, match='no map in mode "fixed"'):
        fixed.on_original(reference=True)
    with pytest.raises(ImageError, match="query that was explained is 451 x 300 pixels, the picture given is 90 x 160"):
        both.on_original(smooth(*TALL))
    for suffix in ("json", "npz"):
        with pytest.raises(OptionError, match=r"\.png and \.html"):
            both.save(tmp_path / f"e.{suffix}", (smooth(*WIDE), smooth(*TALL)))
    with pytest.raises(OptionError, match="both pictures"):
        both.save(tmp_path / "e.png", (smooth(*WIDE), None))
    embedded = demo.explain(smooth(*WIDE), demo.embed([CAT[1]])[0], FEW)
    with pytest.raises(OptionError, match=r"\(query, None\)"):
        embedded.save(tmp_path / "e.png", (smooth(*WIDE), CAT[1]))
    assert not list(tmp_path.iterdir())
    embedded.save(tmp_path / "e.png", (smooth(*WIDE), None))


def test_png_and_page_are_drawn_on_the_originals(both: Explanation, tmp_path: Path) -> None:
    pair = smooth(*WIDE), smooth(*TALL)
    shown = both.original_panels(*pair)
    assert [p.caption for p in shown][1:3] == ["query", "reference"]
    assert [p.picture.size for p in shown] == [(300, 200)] * 2 + [(169, 300)] * 2
    both.save(tmp_path / "plain.png")
    both.save(tmp_path / "original.png", pair)
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "original.png") as drawn:
        assert plain.size == drawn.size
        assert plain.tobytes() != drawn.tobytes()
    both.save(tmp_path / "e.html", pair)
    text = (tmp_path / "e.html").read_text()
    (drawn,), (seen,) = views_of(text), views_of(page([both]))
    assert drawn["sides"][0]["seen"] == pytest.approx([1 / 6, 0, 5 / 6, 1], abs=0.003)  # the tiles lie over the crop
    assert drawn["sides"][0]["original"] == pytest.approx([1 / 6, 0, 5 / 6, 1], abs=0.003)
    assert ["query_size", "[451, 300]"] in drawn["numbers"]
    assert "query_size" not in dict(seen["numbers"])
    assert seen["sides"][0]["seen"] == [0, 0, 1, 1]
    wide = dataclasses.replace(both, correspondence=np.eye(4, dtype=np.float32))
    numbered = draw_explanation(wide, wide.original_panels(*pair))
    assert np.asarray(numbered)[:, :74].std() > 0
    assert numbered.size == draw_explanation(wide).size


def test_the_command_draws_on_the_originals_if_asked(photos: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--masks", "16", "--quiet"]
    assert main([*photos, *few, "--out", "plain.png"]) == 0
    assert main([*photos, *few, "--out", "original.png", "--original"]) == 0
    assert Path("plain.png").read_bytes() != Path("original.png").read_bytes()
    assert main([*photos, str(BANDAGE[1]), *few, "--out", "e.html", "--original"]) == 0
    text = Path("e.html").read_text()
    assert [dict(view["numbers"])["query_size"] for view in views_of(text)] == ["[451, 300]"] * 2
    np.save("v.npy", Explainer().embed([CAT[1]]))
    assert main([photos[0], "--reference-embedding", "v.npy", *few, "--out", "v.png", "--original"]) == 0
    capsys.readouterr()
    for arguments in (["--json"], ["--out", "e.npz"]):
        assert exit_status(main, [*photos, *few, "--original", *arguments]) == 2
        assert "--original is about what is drawn: give --out a name that ends in .png or .html" in error_line(capsys)
    assert main([*photos, *few, "--json"]) == 0
    (fields,) = json.loads(capsys.readouterr().out)
    assert (fields["query_size"], fields["reference_size"]) == (list(WIDE), list(TALL))
