"""Colour profiles: named, ignored by default as in other pipelines, converted to sRGB where that is asked for."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers import CAT, views_of
from PIL import Image, ImageCms

from engine import Explainer, Explanation, Rise
from engine.pictures.loading import PROFILE, load_picture
from engine.pictures.profiles import NAME_LENGTH
from engine.pictures.reading import Reading
from engine.render.html import page

APPLY = Reading(apply_profiles=True)
COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 100, 200], [255, 255, 255], [0, 0, 0]]], np.uint8)
WIDE = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
"""Primaries of DCI-P3 in x and y."""
SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))


def xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def profile(primaries: tuple[tuple[float, float], ...] = WIDE, gamma: float = 2.2, name: str = "Display P3") -> bytes:
    """Return an ICC profile of version 2, made here: three primaries under D65, adapted to D50, and one gamma."""
    d65, d50 = xyz(0.3127, 0.3290), np.array([0.9642, 1.0, 0.8249])
    columns = np.stack([xyz(x, y) for x, y in primaries], 1)
    columns = columns * np.linalg.solve(columns, d65)
    cone = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])  # Bradford
    adapted = np.linalg.inv(cone) @ np.diag((cone @ d50) / (cone @ d65)) @ cone @ columns

    def fixed(values: np.ndarray) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(v * 65536) for v in values))

    text = name.encode() + b"\0"
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(8 + 2 + 1 + 67 + 3)
    tags = {b"desc": described, b"wtpt": b"XYZ \0\0\0\0" + fixed(d50), b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    for i, colour in enumerate((b"r", b"g", b"b")):
        tags[colour + b"XYZ"], tags[colour + b"TRC"] = b"XYZ \0\0\0\0" + fixed(adapted[:, i]), curve
    return assembled(tags, b"RGB ", d50, fixed)


def assembled(tags: dict[bytes, bytes], space: bytes, white: np.ndarray, fixed: object) -> bytes:
    start, body, table = 128 + 4 + 12 * len(tags), b"", b""
    for key, content in tags.items():
        table += key + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"test", 0x02400000, b"mntr", space, b"XYZ ") + bytes(12)
    header += b"acsp" + bytes(28) + fixed(white)  # type: ignore[operator]
    return header + bytes(128 - len(header)) + struct.pack(">I", len(tags)) + table + body


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_a_profile_is_ignored_by_default_and_said_to_be(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=profile())
    picture = load_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(picture), COLOURS)
    assert picture.info == {PROFILE: "Display P3, ignored"}


def test_applied_it_gives_the_colours_that_were_meant(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=profile())
    picture = load_picture(tmp_path / "a.png", APPLY)
    assert picture.info == {PROFILE: "Display P3, applied"}
    found = np.asarray(picture)[0].astype(int)
    # linear P3 -> linear sRGB -> sRGB, clipped, with the matrices of the two sets of primaries
    to_xyz = [np.stack([xyz(x, y) for x, y in primaries], 1) for primaries in (WIDE, SRGB_PRIMARIES)]
    to_xyz = [m * np.linalg.solve(m, xyz(0.3127, 0.3290)) for m in to_xyz]
    linear = (COLOURS[0] / 255) ** 2.2 @ (np.linalg.inv(to_xyz[1]) @ to_xyz[0]).T
    linear = np.clip(linear, 0, 1)
    wanted = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    assert np.abs(found - wanted).max() <= 2
    assert np.abs(found - COLOURS[0]).max() > 5


def test_srgb_is_no_profile_to_speak_of(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=srgb())
    picture = load_picture(tmp_path / "a.png", APPLY)
    assert picture.info == {}
    np.testing.assert_array_equal(np.asarray(picture), COLOURS)
    # a gamma of 2.2 is not sRGB's curve: it differs by more than two levels in the dark
    Image.fromarray(COLOURS).save(tmp_path / "b.png", icc_profile=profile(SRGB_PRIMARIES, 2.2, "sRGB, it says"))
    assert load_picture(tmp_path / "b.png", APPLY).info == {PROFILE: "sRGB, it says, applied"}


@pytest.mark.parametrize(
    ("mode", "content"), [("RGB", b"junk"), ("RGB", profile()[:300]), ("RGB", bytes(128)), ("CMYK", profile())]
)
def test_what_cannot_be_read_or_does_not_fit_is_ignored_and_said_to_be(mode: str, content: bytes, tmp_path: Path) -> None:
    Image.fromarray(COLOURS).convert(mode).save(tmp_path / "a.tif", icc_profile=content)
    plain = np.asarray(load_picture(tmp_path / "a.tif"))
    picture = load_picture(tmp_path / "a.tif", APPLY)
    np.testing.assert_array_equal(np.asarray(picture), plain)
    assert picture.info[PROFILE].endswith(", ignored")
    assert len(picture.info[PROFILE]) < 2 * NAME_LENGTH


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "L"])
def test_transparent_and_grey_pictures_are_converted_too(mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(COLOURS).convert("RGBA")
    picture.putalpha(Image.frombytes("L", (6, 1), bytes([255, 255, 0, 255, 255, 255])))
    picture.convert(mode).save(tmp_path / "a.png", icc_profile=profile(gamma=1.0))
    plain, found = (np.asarray(load_picture(tmp_path / "a.png", reading)).astype(int) for reading in (Reading(), APPLY))
    assert (found[0, 4:] == [[255] * 3, [0] * 3]).all()
    assert (found[0, 3] - plain[0, 3]).max() > 30
    if mode in ("RGBA", "LA"):
        assert (found[0, 2] == 255).all()


def test_the_explanation_says_it_in_numbers_notes_and_on_the_page(tmp_path: Path) -> None:
    with Image.open(CAT[0]) as picture:
        picture.convert("RGB").save(tmp_path / "query.png", icc_profile=profile(name="Display <P3>"))
    method = Rise(masks=60)
    kept, applied = (Explainer(apply_profiles=on).explain(tmp_path / "query.png", CAT[1], method) for on in (False, True))
    assert (kept.query_profile, kept.reference_profile) == ("Display <P3>, ignored", None)
    assert applied.query_profile == "Display <P3>, applied"
    assert kept.similarity != applied.similarity
    said = "the colour profile of the query (Display <P3>) was ignored: apply_profiles (--apply-profiles) converts"
    assert [note for note in kept.notes if note.startswith(said)]
    assert not [note for note in applied.notes if "profile" in note]
    assert json.loads(json.dumps(kept.to_dict()))["query_profile"] == "Display <P3>, ignored"
    (view,) = views_of(page([applied]))
    assert "colour profile of the query: Display <P3>, applied" in view["made"]
    assert "Display <P3>" not in page([applied])
    applied.save(tmp_path / "e.npz")
    assert Explanation.load(tmp_path / "e.npz").query_profile == applied.query_profile


def test_a_prepared_picture_keeps_it_and_a_cache_tells_pictures_apart_by_it(tmp_path: Path) -> None:
    with Image.open(CAT[0]) as picture:
        rgb = picture.convert("RGB")
    rgb.save(tmp_path / "plain.png")
    rgb.save(tmp_path / "profile.png", icc_profile=profile())
    explainer = Explainer(cache_bytes=2**26)
    explainer.prepare(tmp_path / "profile.png", Rise(masks=40)).save(tmp_path / "p.npz")
    assert explainer.load_prepared(tmp_path / "p.npz").explain(CAT[1]).query_profile == "Display P3, ignored"
    assert explainer.explain(tmp_path / "plain.png", CAT[1], Rise(masks=40)).query_profile is None
