"""Pictures of every kind become upright 8-bit RGB, or one clear error."""

from pathlib import Path

import numpy as np
import pytest
from helpers import write_broken
from PIL import Image

from engine.errors import ImageError
from engine.pictures.loading import load_picture

RED_GREEN = np.zeros((4, 6, 3), np.uint8)
RED_GREEN[:, :3, 0] = 255
RED_GREEN[:, 3:, 1] = 255


def pixels(image: object) -> np.ndarray:
    return np.asarray(load_picture(image))  # type: ignore[arg-type]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise to see it upright
    Image.fromarray(RED_GREEN).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), np.rot90(RED_GREEN, -1))


def test_transparency_is_put_over_white() -> None:
    rgba = np.dstack([RED_GREEN, np.full((4, 6), 255, np.uint8)])
    rgba[0, :, 3] = 0
    rgba[1, :, 3] = 128
    got = pixels(Image.fromarray(rgba))
    assert (got[0] == 255).all()
    assert abs(int(got[1, 0, 1]) - 127) <= 1
    np.testing.assert_array_equal(got[2:], RED_GREEN[2:])


def test_transparent_palette_and_grey_are_put_over_white(tmp_path: Path) -> None:
    palette = Image.fromarray(RED_GREEN).convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
    got = pixels(tmp_path / "p.png")
    assert (got[:, :3] == 255).all()
    np.testing.assert_array_equal(got[:, 3:], RED_GREEN[:, 3:])
    Image.new("L", (2, 2), 7).save(tmp_path / "l.png", transparency=7)
    assert (pixels(tmp_path / "l.png") == 255).all()
    assert (pixels(Image.new("LA", (2, 2), (9, 255))) == 9).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_other_modes_become_rgb(mode: str) -> None:
    assert pixels(Image.fromarray(RED_GREEN).convert("RGB").convert(mode)).shape == (4, 6, 3)


def test_cmyk_keeps_its_colours() -> None:
    assert pixels(Image.new("CMYK", (1, 1), (0, 255, 255, 0)))[0, 0].tolist() == [255, 0, 0]


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    wide = np.array([[0, 257, 400, 128 * 257, 65535]], np.uint16)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert pixels(tmp_path / "wide.png")[0, :, 0].tolist() == [0, 1, 2, 128, 255]


def test_arrays_are_taken_as_they_are() -> None:
    np.testing.assert_array_equal(pixels(RED_GREEN[:, ::-1]), RED_GREEN[:, ::-1])


@pytest.mark.parametrize(
    "bad",
    [
        RED_GREEN.astype(np.float32),
        RED_GREEN[..., 0],
        RED_GREEN[:0],
        np.zeros((4, 4, 4), np.uint8),
        42,
        Image.new("F", (2, 2)),
        Image.new("RGB", (0, 5)),
        "a" * 400,
    ],
)
def test_other_arrays_and_objects_are_refused(bad: object) -> None:
    with pytest.raises(ImageError):
        load_picture(bad)  # type: ignore[arg-type]


def test_broken_files_are_refused_by_name(tmp_path: Path) -> None:
    for name, path in write_broken(tmp_path).items():
        with pytest.raises(ImageError) as caught:
            load_picture(path)
        assert str(path) in str(caught.value), name
        assert "\n" not in str(caught.value)
