"""Which pictures are too large to read, judged by what their headers say before anything is decoded."""

import io
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image, ImageFile

from engine.errors import LargePictureError
from engine.pictures.reading import Reading

LONGEST_SIDE = 100_000
"""Pixels of the longest side that is read: Pillow keeps a pointer for every row."""
BYTES = 8
"""Bytes that a picture may take for each pixel of `max_pixels`: four as it is in the file, and four as RGB."""
DECODING = {"WEBP": 17, "AVIF": 20, "JPEG2000": 25, "ICO": 16, "ICNS": 29}
"""Bytes a pixel that decoders take which need more: fewer pixels are read of these formats."""
READ_WHOLE = ("WEBP", "AVIF", "JPEG2000")
"""Formats whose files are in memory as a whole while they are decoded, as those of compressed TIFFs are."""
SLOW = {"ppm": 160, "ppm_plain": 160, "qoi": 160, "dds_rgb": 160, "bmp_rle": 40}
"""Decoders that Pillow has in Python, which take microseconds a pixel, as if they took these bytes: none runs for long."""
DEAREST = max(SLOW.values()) // BYTES
"""As how many ordinary pixels one may count."""
ROWS_PER_STRIP, TILE_WIDTH, TILE_HEIGHT, BITS, SAMPLES, PLANES = 278, 322, 323, 258, 277, 284
"""Tags of TIFF."""
START_OF_SCAN = 0xDA
"""Marker of JPEG."""


def require_few_pixels(size: tuple[int, int], name: str, reading: Reading) -> None:
    """Raise ImageError for more pixels than `reading` allows, or for a side above LONGEST_SIDE. size: (width, height)"""
    width, height = size
    if width * height > reading.max_pixels:
        raise LargePictureError(
            f"{name} is {width:,} x {height:,} pixels, and at most {reading.max_pixels:,} in all are read: make it smaller, "
            "or raise max_pixels (--max-pixels)"
        )
    if max(size) > LONGEST_SIDE:
        raise LargePictureError(
            f"{name} is {width:,} x {height:,} pixels, and a side may have {LONGEST_SIDE:,}: cut it, or make it smaller"
        )


def require_decodable(picture: ImageFile.ImageFile, file_bytes: int, name: str, reading: Reading) -> None:
    """Raise ImageError if an opened picture has too many pixels, or if decoding it would take too much memory or time."""
    require_few_pixels(picture.size, name, reading)
    _require_budget(picture.size, _bytes_to_decode(picture, file_bytes), str(picture.format), name, reading)


def require_small_parts(file: BinaryIO, kind: str, name: str, reading: Reading) -> None:
    """Raise ImageError if the picture inside an ICO or ICNS file is too large, whatever size the file says it has.

    kind: "ICO" or "ICNS"; other files have no parts
    """
    parts = {"ICO": _in_ico, "ICNS": _in_icns}.get(kind)
    for part in parts(file) if parts else ():
        require_few_pixels(part.size, name, reading)
        _require_budget(part.size, part.size[0] * part.size[1] * DECODING[kind], kind, name, reading)


def _require_budget(size: tuple[int, int], needed: float, kind: str, name: str, reading: Reading) -> None:
    budget = BYTES * reading.max_pixels
    if needed > budget:
        raise LargePictureError(
            f"{name} is {size[0]:,} x {size[1]:,} pixels as {kind}, whose decoding costs {needed / budget:.1f} times what a "
            f"picture of {reading.max_pixels:,} may: make it smaller, save it as an ordinary PNG or JPEG, or raise "
            "max_pixels (--max-pixels)"
        )


def _bytes_to_decode(picture: ImageFile.ImageFile, file_bytes: int) -> float:
    """Return about how much memory a decoder takes, with the picture that it makes, and with the file where that is kept."""
    pixels = picture.size[0] * picture.size[1]
    decoder = picture.tile[0][0] if picture.tile else ""  # some formats have no tiles
    if decoder in SLOW:
        return pixels * SLOW[decoder]
    if decoder == "libtiff":
        return 4 * pixels + _strip_bytes(picture) + file_bytes
    if decoder == "jpeg":
        return 4 * pixels + _coefficient_bytes(picture)
    kind = picture.format or ""
    return pixels * DECODING.get(kind, BYTES) + (file_bytes if kind in READ_WHOLE else 0)


def _strip_bytes(picture: ImageFile.ImageFile) -> float:
    """Return the size of the buffer for a strip or tile of a compressed TIFF."""
    tags, (_, _, width, height) = picture.tag_v2, picture.tile[0][1]  # type: ignore[attr-defined,misc]
    if TILE_WIDTH in tags:
        pixels = tags[TILE_WIDTH] * tags[TILE_HEIGHT]
    else:
        pixels = width * min(tags.get(ROWS_PER_STRIP, height), height)
    bits, samples = tags.get(BITS, (1,)), tags.get(SAMPLES, 1)
    samples = 1 if tags.get(PLANES) == 2 else samples
    bytes_a_sample = max(bits) / 8
    if picture.info.get("compression") == "jpeg":  # it may be progressive
        bytes_a_sample += 2
    return float(pixels * samples * bytes_a_sample)


def _coefficient_bytes(picture: ImageFile.ImageFile) -> float:
    """Return the size of what a JPEG decoder keeps if channels come one after another: coefficients of two bytes."""
    if not picture.info.get("progressive") and not _in_several_scans(picture):
        return 0
    sampling = [(layer[1], layer[2]) for layer in picture.layer]  # type: ignore[attr-defined]
    largest = max(h for h, _ in sampling) * max(v for _, v in sampling)
    return 2 * picture.size[0] * picture.size[1] * sum(h * v for h, v in sampling) / largest


def _in_several_scans(picture: ImageFile.ImageFile) -> bool:
    """Tell whether the first scan of a JPEG has not all channels, or cannot be found."""
    file = picture.fp
    if file is None:
        raise OSError("its file is closed")
    file.seek(2)
    while True:
        marker, length = file.read(2), int.from_bytes(file.read(2), "big")
        if len(marker) < 2 or marker[0] != 0xFF or length < 2:
            return True
        if marker[1] == START_OF_SCAN:
            return file.read(1) != bytes([len(picture.getbands())])
        file.seek(length - 2, 1)


def _in_ico(file: BinaryIO) -> Iterator[Image.Image]:
    """Open the picture of an ICO file that Pillow decodes. The height of a DIB counts its mask too."""
    from PIL.IcoImagePlugin import IcoFile  # noqa: PLC0415 - icons are rare

    file.seek(0)
    offset = IcoFile(file).entry[0].offset
    file.seek(offset)
    kind = "PNG" if file.read(4) == b"\x89PNG" else "DIB"
    file.seek(offset)
    yield Image.OPEN[kind][0](file, "")


def _in_icns(file: BinaryIO) -> Iterator[Image.Image]:
    """Open the pictures of an ICNS file that Pillow decodes, but for those without a header, whose sizes are fixed."""
    from PIL.IcnsImagePlugin import IcnsFile  # noqa: PLC0415 - as above

    file.seek(0)
    icons = IcnsFile(file)
    for code, _ in icons.SIZES[icons.bestsize()]:
        if code in icons.dct and code.startswith(b"ic"):
            start, length = icons.dct[code]
            file.seek(start)
            content = io.BytesIO(file.read(length))
            kind = "PNG" if content.getvalue()[:4] == b"\x89PNG" else "JPEG2000"
            yield Image.OPEN[kind][0](content, "")
