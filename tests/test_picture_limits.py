"""Too large a picture is refused by its header, and reading one takes at most 8 bytes for each pixel of the limit."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import CAT, noise, python
from PIL import Image

from engine import Explainer
from engine.errors import ImageError, OptionError
from engine.explain import main
from engine.pictures.limits import LONGEST_SIDE
from engine.pictures.loading import load_picture
from engine.pictures.reading import MAX_PIXELS, Reading

WIDTH, HEIGHT = 2000, 1000
"""Of the pictures whose reading is measured."""
ALLOWED = 8 * WIDTH * HEIGHT + 6 * 2**20
"""Bytes that it may take, with some for Pillow's code that is imported and for a band of rows."""


def png(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    """Return a PNG whose header says a size, and which has hardly any pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def ico(content: bytes) -> bytes:
    return b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(content), 22) + content


def icns(content: bytes) -> bytes:
    return b"icns" + struct.pack(">I", 16 + len(content)) + b"ic09" + struct.pack(">I", 8 + len(content)) + content


def jpeg(width: int, height: int) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (8, 8)).save(written, "JPEG")
    data = bytearray(written.getvalue())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def dib(width: int, height: int) -> bytes:
    return struct.pack("<IiiHHIIiiII", 40, width, height, 1, 32, 0, 0, 0, 0, 0, 0)


BOMBS = {
    "grey.png": png(1, 178_000_000),
    "sixteen.png": png(13_300, 13_400, depth=16),
    "icon.ico": ico(png(13_000, 13_000, colour=6)),
    "old.ico": ico(dib(13_000, 26_000)),
    "icon.icns": icns(png(13_000, 13_000, colour=6)),
    "photo.jpg": jpeg(13_000, 13_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_header_that_promises_too_much_is_refused_before_anything_is_decoded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(BOMBS[name])
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    with pytest.raises(ImageError, match=rf"{name} is [0-9,]+ x [0-9,]+ pixels, and at most 50,000,000 .*--max-pixels"):
        load_picture(tmp_path / name)


def test_a_side_that_is_too_long_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1, LONGEST_SIDE + 1))
    with pytest.raises(ImageError, match="a side may have 100,000"):
        load_picture(tmp_path / "a.png")


def test_the_limit_holds_for_files_pil_images_and_arrays_alike(tmp_path: Path) -> None:
    pixels = noise(10, 10)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", Image.fromarray(pixels), pixels):
        assert load_picture(image, Reading(max_pixels=100)).size == (10, 10)
        with pytest.raises(ImageError, match="10 x 10 pixels, and at most 99 in all are read"):
            load_picture(image, Reading(max_pixels=99))
    with pytest.raises(OptionError, match="max_pixels must be a whole number from 1"):
        Reading(max_pixels=0)
    assert MAX_PIXELS == Reading().max_pixels == 50_000_000


def test_the_explainer_and_the_command_take_the_limit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="at most 100 in all are read"):
        Explainer(max_pixels=100).explain(*CAT)
    out = str(tmp_path / "e.png")
    assert main([str(CAT[0]), str(CAT[1]), "--max-pixels", "100", "--out", out, "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "at most 100 in all are read: make it smaller, or raise max_pixels (--max-pixels)" in line


def smooth() -> Image.Image:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return Image.fromarray(np.stack([x % 256, y % 256, (x + y) % 256], -1).astype(np.uint8))


def grey16() -> Image.Image:
    return Image.fromarray(np.asarray(smooth().convert("L")).astype(np.uint16) * 257)


KINDS: dict[str, tuple[Callable[[], Image.Image], dict[str, object]]] = {
    "rgb.png": (smooth, {}),
    "rgba.png": (lambda: smooth().convert("RGBA"), {}),
    "palette.png": (lambda: smooth().convert("P"), {"transparency": 3}),
    "grey.png": (lambda: smooth().convert("L"), {}),
    "sixteen.png": (grey16, {}),
    "tall.png": (lambda: Image.new("L", (20, LONGEST_SIDE)), {}),
    "turned.jpg": (smooth, {"exif": b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"}),
    "cmyk.jpg": (lambda: smooth().convert("CMYK"), {}),
    "progressive.jpg": (smooth, {"progressive": True, "subsampling": 2}),
    "cmyk.tif": (lambda: smooth().convert("CMYK"), {"compression": "tiff_lzw"}),
    "turned.tif": (lambda: smooth().convert("RGBA"), {"tiffinfo": {0x0112: 6}}),
    "colours.gif": (lambda: smooth().convert("P"), {}),
    "rle.tga": (smooth, {"compression": "tga_rle"}),
}
MEASURE = """
import json, sys
from engine.pictures.loading import load_picture
from engine.pictures.reading import Reading
status = lambda key: int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1]) * 1024
before = status("VmRSS")
picture = load_picture(sys.argv[1], Reading(max_pixels=int(sys.argv[2])))
print(json.dumps([picture.size, status("VmHWM") - before]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("name", KINDS)
def test_reading_takes_at_most_eight_bytes_a_pixel(name: str, tmp_path: Path) -> None:
    make, options = KINDS[name]
    make().save(tmp_path / name, **options)  # type: ignore[arg-type]
    done = python("-c", MEASURE, tmp_path / name, str(WIDTH * HEIGHT))
    assert done.returncode == 0, done.stderr
    (width, height), peak = json.loads(done.stdout)
    assert width * height == WIDTH * HEIGHT
    assert peak <= ALLOWED


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.webp", {"lossless": True}),
        ("a.jp2", {}),
        ("a.qoi", {}),
        ("a.jpg", {"progressive": True, "subsampling": 0}),
        ("a.tif", {"compression": "tiff_lzw", "tiffinfo": {278: HEIGHT}}),
    ],
)
def test_what_decoders_need_beyond_counts_too(name: str, options: dict[str, object], tmp_path: Path) -> None:
    smooth().resize((200, 100)).save(tmp_path / name, **options)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"whose decoding costs .* times what a picture of 20,000 may: .*--max-pixels"):
        load_picture(tmp_path / name, Reading(max_pixels=20_000))
    assert load_picture(tmp_path / name, Reading(max_pixels=20_000 * 20)).size == (200, 100)


def test_a_jpeg_of_one_channel_after_another_counts_like_a_progressive_one(tmp_path: Path) -> None:
    Image.fromarray(noise(100, 200)).save(tmp_path / "a.jpg", subsampling=0)
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    assert load_picture(tmp_path / "a.jpg", Reading(max_pixels=20_000)).size == (200, 100)
    data[data.index(b"\xff\xda") + 4] = 1  # its first scan has one channel
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ImageError, match=r"whose decoding costs 1\.2 times"):
        load_picture(tmp_path / "a.jpg", Reading(max_pixels=20_000))


def test_a_broken_exif_block_prints_nothing(tmp_path: Path) -> None:
    Image.fromarray(noise(4, 6)).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    done = python("-c", "import sys; from engine.pictures.loading import load_picture; load_picture(sys.argv[1])",
                  tmp_path / "a.png")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    done = python("-W", "error", "-c", "import sys; from engine.pictures.loading import load_picture; "
                  "load_picture(sys.argv[1])", tmp_path / "a.png")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
