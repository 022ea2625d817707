"""Odd files of pictures, made here: what Pillow writes in every format and mode, with odd tags, damaged, or no pictures."""

import functools
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from tests.picture_headers import NamedFile, large, picture, promising

MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "RGBa",
    "La",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "I;16",
    "I;16B",
    "F",
)
SIZES = ((37, 23), (1, 1), (1, 300), (300, 1), (64, 64))
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
EXIF = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0%c\0\0\0\0\0\0\0"
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "AVIF": ({"speed": 10}, {"speed": 10, "subsampling": "4:4:4", "icc_profile": PROFILE}, {"speed": 10, "exif": EXIF % 5}),
    "BMP": ({},),
    "DDS": ({}, {"pixel_format": "DXT1"}, {"pixel_format": "DXT5"}, {"pixel_format": "BC5"}),
    "DIB": ({},),
    "GIF": ({}, {"interlace": 0}, {"transparency": 1}, {"comment": b"\xff" * 300}),
    "ICNS": ({},),
    "ICO": ({}, {"bitmap_format": "bmp"}, {"sizes": [(16, 16), (24, 24)]}),
    "JPEG": (
        *({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}, {"keep_rgb": True}),
        *({"exif": EXIF % n} for n in (6, 9, 255)),
        *({"exif": b"Exif\0\0XX"}, {"icc_profile": PROFILE}, {"icc_profile": b"?"}, {"comment": b"\0" * 70}),
    ),
    "JPEG2000": ({}, {"irreversible": True}, {"tile_size": (16, 16)}, {"no_jp2": True}, {"num_resolutions": 1}),
    "MPO": ({},),
    "PCX": ({},),
    "PNG": (
        *({}, {"transparency": 0}, {"transparency": b"\0\1"}, {"transparency": (1, 2, 3)}, {"bits": 1}, {"bits": 4}),
        *({"exif": EXIF % 8}, {"exif": b""}, {"icc_profile": PROFILE}, {"icc_profile": b"?" * 200}, {"dpi": (0, 0)}),
    ),
    "PPM": ({},),
    "QOI": ({}, {"colorspace": "linear"}),
    "SGI": ({}, {"bpc": 2}),
    "TGA": ({}, {"compression": "tga_rle"}, {"orientation": -1}),
    "TIFF": (
        *(
            {"compression": c}
            for c in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group3", "group4", "webp")
        ),
        *({"compression": c} for c in ("tiff_ccitt", "lzma", "zstd", "tiff_deflate")),
        *({"tiffinfo": {0x0112: n}} for n in (0, 5, 6, 300)),
        *({"big_tiff": True}, {"icc_profile": PROFILE}, {"tiffinfo": {262: 0}}, {"tiffinfo": {278: 1}}),
        *({"compression": "tiff_lzw", "tiffinfo": {317: 2}}, {"compression": "jpeg", "quality": 1}),
    ),
    "WEBP": ({}, {"lossless": True}, {"exif": EXIF % 6}, {"icc_profile": PROFILE}, {"xmp": b"<x"}),
    "XBM": ({}, {"hotspot": (1, 1)}),
}
"""Ways of writing each format."""
ANIMATED = ("GIF", "PNG", "WEBP", "TIFF", "MPO", "AVIF")
BEGINNINGS = (
    *(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n", b"%PDF-1.4\n", b"<svg xmlns='http://x'/>", b"PK\3\4"),
    *(
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"BM",
        b"II*\0",
        b"MM\0*",
        b"II+\0",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"P6\n",
    ),
    *(
        b"P1\n",
        b"P5 9 9 65535\n",
        b"qoif",
        b"DDS ",
        b"\1\xda\1\1",
        b"\x0a\5\1\1",
        b"\0\0\1\0\1\0",
        b"icns",
        b"\x59\xa6\x6a\x95",
    ),
    *(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51", b"\0\0\0\x1cftypavif", b"#define a_width 9\n", b"8BPS\0\1", b""),
)
"""How files of many kinds begin."""


def corpus(count: int, seed: int) -> Iterator[NamedFile]:
    """Yield `count` files: at least a third is damaged; the rest is all else, or evenly chosen of it."""
    whole = list(written())
    fixed = [*whole, *other_files(seed), *promising(), *large()]
    kept = min(len(fixed), count - count // 3)
    yield from (fixed[i * len(fixed) // kept] for i in range(kept))
    random = np.random.default_rng(seed)
    for index in range(count - kept):
        name, make = whole[int(random.integers(len(whole)))]
        kind = ("truncated", "flipped", "header", "cut", "doubled")[index % 5]
        yield f"{kind}-{index}-{name}", functools.partial(damaged, kind, make(), int(random.integers(2**32)))


def written() -> Iterator[NamedFile]:
    """Yield what Pillow writes: every format in every mode that it takes, then each way and size in a mode of its own."""
    Image.init()
    for kind, ways in OPTIONS.items():
        for mode in MODES:
            yield from _saved(kind, mode, SIZES[0], {})
        for number, options in enumerate(ways):
            for mode in ("RGB", "L", "P", "1", "CMYK", "I;16", "RGBA"):
                yield from _saved(kind, mode, SIZES[number % len(SIZES)], options, f"way{number}")
    for kind in ANIMATED:
        frames = [picture("RGB", (20 + i, 15)) for i in range(3)]
        yield from _saved(kind, "RGB", (20, 15), {"save_all": True, "append_images": frames}, "animated")


def _saved(kind: str, mode: str, size: tuple[int, int], options: dict[str, Any], way: str = "plain") -> Iterator[NamedFile]:
    content = io.BytesIO()
    try:
        picture(mode, size).save(content, kind, **options)
    except Exception:  # not every format takes every mode and option
        return
    yield f"written-{kind}-{mode.replace(';', '')}-{way}.{kind.lower()}", content.getvalue


def damaged(kind: str, content: bytes, seed: int) -> bytes:
    """Return a damaged copy: truncated, with bits flipped (anywhere, or in the header), a piece cut out or doubled."""
    random = np.random.default_rng(seed)
    data, size = bytearray(content), len(content)
    if kind == "truncated":
        return bytes(data[: int(random.integers(size))])
    if kind in ("flipped", "header"):
        within = size if kind == "flipped" else min(size, 160)
        for _ in range(int(random.integers(1, 9))):
            data[int(random.integers(within))] ^= 1 << int(random.integers(8))
        return bytes(data)
    begin, end = sorted(int(n) for n in random.integers(0, size + 1, 2))
    return bytes(data[:begin] + (b"" if kind == "cut" else data[begin:end] * 2) + data[end:])


def other_files(seed: int) -> Iterator[NamedFile]:
    """Yield the beginnings of many kinds of files, alone, before noise and before zeros."""
    random = np.random.default_rng(seed)
    for number, begin in enumerate(BEGINNINGS):
        for end, rest in {"alone": b"", "noise": random.bytes(500), "zeros": bytes(3000), "ones": b"\xff" * 3000}.items():
            yield f"begun-{number}-{end}.png", functools.partial(bytes, begin + rest)
