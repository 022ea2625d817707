"""Pictures of every kind become upright 8-bit RGB, or one clear error."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import write_broken
from PIL import Image

from engine.errors import ImageError
from engine.pictures.loading import TURNS, load_picture

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


TIFF_MODES = ["L", "P", "RGB", "RGBA", "CMYK", "I;16", "1"]


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("mode", TIFF_MODES)
def test_a_tiff_of_any_mode_compression_and_orientation_is_upright(mode: str, compression: str, tmp_path: Path) -> None:
    grey = np.arange(35 * 20).reshape(20, 35) * 90
    plain = Image.fromarray(grey.astype(np.uint16)) if mode == "I;16" else Image.fromarray((grey // 256).astype(np.uint8))
    plain = plain if mode in ("I;16", "L") else plain.convert(mode)
    plain.save(tmp_path / "plain.tif", compression=compression)
    upright = pixels(tmp_path / "plain.tif")
    for orientation in range(1, 9):
        stored = _as_stored(plain, orientation)
        stored.save(tmp_path / "turned.tif", compression=compression, tiffinfo={0x0112: orientation})
        np.testing.assert_array_equal(pixels(tmp_path / "turned.tif"), upright)
        with Image.open(tmp_path / "turned.tif") as opened:
            np.testing.assert_array_equal(pixels(opened), upright)


def _as_stored(picture: Image.Image, orientation: int) -> Image.Image:
    """How a camera that was held so stores a picture: what makes it upright, undone."""
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    how = back.get(orientation, TURNS.get(orientation))
    return picture if how is None else picture.transpose(how)


@pytest.mark.parametrize("broken", [b"Exif\0\0XX*\0\x08\0\0\0", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"junk"])
def test_a_broken_exif_block_does_not_lose_the_picture(broken: bytes, tmp_path: Path) -> None:
    Image.fromarray(RED_GREEN).save(tmp_path / "a.jpg", exif=broken, quality=95)
    Image.fromarray(RED_GREEN).save(tmp_path / "a.png", exif=broken)
    assert pixels(tmp_path / "a.jpg").shape == (4, 6, 3)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), RED_GREEN)


def test_a_readable_orientation_beside_broken_tags_is_used(tmp_path: Path) -> None:
    ascii_in_a_number = b"\x0f\x01\x03\0\x02\0\0\0\xff\xff\xff\xff"  # a tag that points outside the block
    orientation = b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    block = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + ascii_in_a_number + orientation + b"\0\0\0\0"
    Image.fromarray(RED_GREEN).save(tmp_path / "a.png", exif=block)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), np.rot90(RED_GREEN, -1))


def test_no_file_starts_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", None)
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n{} loop\n")
    with pytest.raises(ImageError, match=r"a\.png is not a readable picture"):
        load_picture(tmp_path / "a.png")


def test_transparent_grey_of_sixteen_bits_is_put_over_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1000, 65535]], np.uint16)).save(tmp_path / "a.png", transparency=1000)
    assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == [0, 255, 255]


def packed_png(depth: int, colour: int, transparent: bytes, row: bytes, width: int) -> bytes:
    """Return a PNG of one row, which Pillow cannot write so."""
    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    chunks = {b"IHDR": header, b"tRNS": transparent, b"IDAT": zlib.compress(b"\0" + row), b"IEND": b""}
    written = [struct.pack(">I", len(v)) + k + v + struct.pack(">I", zlib.crc32(k + v)) for k, v in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


@pytest.mark.parametrize(("depth", "row"), [(1, 0b01010101), (2, 0b00011011), (4, 0b00010010)])
def test_transparent_grey_of_few_bits_is_put_over_white(depth: int, row: int, tmp_path: Path) -> None:
    width, most = 8 // depth, 2**depth - 1
    levels = [row >> (8 - depth * (i + 1)) & most for i in range(width)]
    (tmp_path / "a.png").write_bytes(packed_png(depth, 0, b"\0\1", bytes([row]), width))
    assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == [255 if v == 1 else v * 255 // most for v in levels]


def test_a_transparent_colour_of_sixteen_bits_is_refused(tmp_path: Path) -> None:
    row = struct.pack(">6H", 1000, 1000, 1000, 232 * 256, 232 * 256, 232 * 256)
    (tmp_path / "a.png").write_bytes(packed_png(16, 2, struct.pack(">3H", 1000, 1000, 1000), row, 2))
    with pytest.raises(ImageError, match="16 bits a channel: convert it"):
        load_picture(tmp_path / "a.png")


def test_of_an_animation_a_file_gives_the_first_frame_and_a_pil_image_the_one_that_it_is_at(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixels(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]
    with Image.open(tmp_path / "a.gif") as opened:
        opened.seek(1)
        assert pixels(opened)[0, 0].tolist() == [0, 0, 255]


def test_sixteen_bits_whose_zero_is_white_are_not_inverted(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "a.tif", tiffinfo={262: 0})
    assert pixels(tmp_path / "a.tif")[0, :, 0].tolist() == [255, 0]


def test_integers_of_thirty_two_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255]], np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"32-bit integer pixels.*convert it"):
        load_picture(tmp_path / "a.tif")
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535\n\0\0\xff\xff")
    assert pixels(tmp_path / "a.pgm")[0, :, 0].tolist() == [0, 255]


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
