"""Files whose headers promise too many pixels, and files that have almost as many as are read."""

import functools
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

NamedFile = tuple[str, Callable[[], bytes]]
"""(name, what makes its content); the part of the name before the first dash says what was done."""

PROMISED = ((7_000, 7_100), (65_000, 60_000), (1, 99_999), (100_000, 499), (1, 2**31 - 1), (2**32 - 1, 2**32 - 1), (0, 5))
"""Sizes that headers promise, (width, height), with hardly any pixels behind them."""


def promising() -> Iterator[NamedFile]:
    """Yield headers that promise one of PROMISED."""
    for width, height in PROMISED:
        for kind, make in HEADERS.items():
            try:
                content = make(width, height)
            except (struct.error, OverflowError):  # a size that this format cannot even promise
                continue
            yield f"promises-{kind}-{width}x{height}.{kind}", functools.partial(bytes, content)


def large() -> Iterator[NamedFile]:
    """Yield pictures just below the limit of 50 million pixels, which are really there."""
    for depth, colour, row in ((8, 0, 7_000), (16, 0, 14_000), (8, 2, 21_000), (16, 2, 42_000), (8, 6, 28_000), (1, 0, 875)):
        yield f"large-{depth}-{colour}.png", functools.partial(_large_png, depth, colour, bytes(1 + row))
    for number, (kind, mode, options) in enumerate(LARGE):
        yield f"large-{number}-{mode}.{kind.lower()}", functools.partial(_large, kind, mode, options)


def _large_png(depth: int, colour: int, row: bytes) -> bytes:
    return _png(7_000, 7_100, depth, colour, zlib.compress(row * 7_100, 1))


def _large(kind: str, mode: str, options: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    Image.new(mode, (7_000, 7_100)).save(content, kind, **options)
    return content.getvalue()


_FLATE = "tiff_adobe_deflate"
LARGE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    *(
        ("JPEG", mode, {"progressive": True, "subsampling": s})
        for mode, s in (("L", 0), ("RGB", 2), ("RGB", 0), ("CMYK", 0))
    ),
    *(("JPEG", mode, {}) for mode in ("RGB", "CMYK")),
    *(("TIFF", mode, {"compression": _FLATE, "tiffinfo": {278: n}}) for mode in ("L", "RGBA", "CMYK") for n in (1, 9_999)),
    *(("GIF", "P", {}), ("TGA", "RGB", {"compression": "tga_rle"}), ("PCX", "L", {}), ("BMP", "RGB", {})),
)
"""Formats, modes and options of pictures of 7,000 x 7,100 pixels."""


def picture(mode: str, size: tuple[int, int]) -> Image.Image:
    width, height = size
    y, x = np.mgrid[:height, :width]
    rgb = Image.fromarray(np.stack([x * 7 % 256, y * 11 % 256, (x + y) * 5 % 256], -1).astype(np.uint8))
    if mode in ("I", "F", "I;16", "I;16B"):
        grey = np.asarray(rgb.convert("L")).astype({"I": "i4", "F": "f4", "I;16": "<u2", "I;16B": ">u2"}[mode]) * 250
        return Image.frombytes(mode, size, grey.astype(grey.dtype).tobytes())
    if mode in ("La", "PA"):
        return rgb.convert("LA" if mode == "La" else "P").convert(mode)
    return rgb.convert("RGBA").convert(mode) if mode == "RGBa" else rgb.convert(mode) if mode != "LAB" else _lab(rgb)


def _lab(rgb: Image.Image) -> Image.Image:
    return Image.frombytes("LAB", rgb.size, rgb.tobytes())


def _png(width: int, height: int, depth: int, colour: int, pixels: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _tiff(width: int, height: int, *tags: tuple[int, int, int]) -> bytes:
    entries = {256: (4, width), 257: (4, height), 258: (3, 8), 262: (3, 1), 273: (4, 8), 277: (3, 1), 279: (4, 9)}
    entries |= {tag: (kind, value) for tag, kind, value in tags}
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(entries.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(20)


def _patched(kind: str, mode: str, place: Callable[[bytes], int], layout: str, less: int = 0) -> Callable[[int, int], bytes]:
    """Return what writes a small picture with a size in its header. place: where; layout: as for struct; hw: height first"""

    def made(width: int, height: int) -> bytes:
        content = io.BytesIO()
        picture(mode, (64, 64)).save(content, kind)
        data, order = bytearray(content.getvalue()), layout.rstrip("hw")
        sides = (height, width) if layout.endswith("hw") else (width, height)
        new = struct.pack(order, *(side - less for side in sides))
        at = place(bytes(data))
        data[at : at + len(new)] = new
        return bytes(data)

    return made


def _icon(kind: str) -> Callable[[int, int], bytes]:
    def made(width: int, height: int) -> bytes:
        png = _png(width, height, 8, 6, zlib.compress(bytes(99)))
        if kind == "icns":
            return b"icns" + struct.pack(">I", 16 + len(png)) + b"ic10" + struct.pack(">I", 8 + len(png)) + png
        inside = png if kind == "ico" else struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        return b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(inside), 22) + inside

    return made


def _sun(depth: int, kind: int, pixels: bytes) -> Callable[[int, int], bytes]:
    return lambda w, h: struct.pack(">IIIIIIII", 0x59A66A95, w, h, depth, 99, kind, 0, 0) + pixels


def _dxt(width: int, height: int) -> bytes:
    start = b"DDS " + struct.pack("<IIII", 124, 0x1007, height, width) + bytes(56)
    return start + struct.pack("<II4s", 32, 4, b"DXT1") + bytes(40)


def _webp(width: int, height: int) -> bytes:
    return b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0" + struct.pack("<II", width - 1, height - 1)[:7] + bytes(30)


def _lossless_webp(width: int, height: int) -> bytes:
    return b"RIFF\x40\0\0\0WEBPVP8L\x20\0\0\0\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(40)


def _ppm(number: int) -> Callable[[int, int], bytes]:
    most = b"" if number in (1, 4) else b"9\n"
    return lambda w, h: b"P%d %d %d %s" % (number, w, h, most) + b"1 " * 50


def _tiled(width: int, height: int) -> bytes:
    return _tiff(9, 9, (259, 3, 8), (322, 4, width), (323, 4, height), (324, 4, 8), (325, 4, 9))


HEADERS: dict[str, Callable[[int, int], bytes]] = {
    "grey.png": lambda w, h: _png(w, h, 1, 0, zlib.compress(bytes(99))),
    "rgba.png": lambda w, h: _png(w, h, 8, 6, zlib.compress(bytes(99))),
    "rgb16.png": lambda w, h: _png(w, h, 16, 2, zlib.compress(bytes(99))),
    "jpg": _patched("JPEG", "RGB", lambda data: data.index(b"\xff\xc0") + 5, ">HHhw"),
    "gif": _patched("GIF", "P", lambda _: 6, "<HH"),
    "frame.gif": _patched("GIF", "P", lambda data: data.index(b",\0\0\0\0") + 5, "<HH"),
    "bmp": _patched("BMP", "RGB", lambda _: 18, "<ii"),
    "tga": _patched("TGA", "RGB", lambda _: 12, "<HH"),
    "pcx": _patched("PCX", "RGB", lambda _: 8, "<HH", less=1),
    "sgi": _patched("SGI", "RGB", lambda _: 6, ">HH"),
    "dds": _patched("DDS", "RGBA", lambda _: 12, "<IIhw"),
    "dxt.dds": _dxt,
    "qoi": _patched("QOI", "RGB", lambda _: 4, ">II"),
    "jp2": _patched("JPEG2000", "RGB", lambda data: data.index(b"ihdr") + 4, ">IIhw"),
    "j2k": _patched("JPEG2000", "RGB", lambda data: data.index(b"\xff\x4f\xff\x51") + 8, ">II"),
    "avif": _patched("AVIF", "RGB", lambda data: data.index(b"ispe") + 8, ">II"),
    "webp": _webp,
    "lossless.webp": _lossless_webp,
    "sun": _sun(24, 1, bytes(99)),
    "rle.sun": _sun(8, 2, b"\x80\xff\7" * 33),
    **{f"p{number}.ppm": _ppm(number) for number in range(1, 7)},
    "xbm": lambda w, h: b"#define a_width %d\n#define a_height %d\nstatic char a_bits[] = {\n0x00, 0x01" % (w, h),
    **{kind: _icon(kind) for kind in ("ico", "dib.ico", "icns")},
    "tif": lambda w, h: _tiff(w, h, (278, 4, h)),
    "lzw.tif": lambda w, h: _tiff(w, h, (259, 3, 5), (278, 4, h)),
    "strip.tif": lambda w, h: _tiff(9, 9, (259, 3, 8), (278, 4, h)),
    "samples.tif": lambda w, h: _tiff(9, 9, (277, 4, min(w, 65_535)), (258, 3, 16)),
    "tile.tif": _tiled,
}
"""Formats, by the end of a file's name -> what makes a file whose header promises a (width, height)."""
