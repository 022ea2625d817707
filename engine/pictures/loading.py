"""Load pictures: a file of a raster format, a PIL image or an array, all to upright 8-bit RGB."""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from engine.errors import ImageError, first_line

FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI"),
    *("SUN", "TGA", "TIFF", "WEBP", "XBM"),
)
"""Formats of files that are opened. None runs another program, as PostScript does."""
USUAL_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM")
"""Those that Pillow always imports."""
SIXTEEN_BITS = ("PNG", "PPM", "JPEG2000")
"""Formats whose pixels have at most 16 bits, also where Pillow keeps them in 32."""
ORIENTATION, PHOTOMETRIC, WHITE_IS_ZERO = 0x0112, 262, 0
"""Tags of EXIF and TIFF, and the value of the second one for inverted pixels."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn a picture upright, by its orientation in EXIF."""

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray
"""A path, a PIL image or a uint8 RGB array (H, W, 3)."""


def load_picture(image: ImageLike) -> Image.Image:
    """Return an upright RGB picture: EXIF orientation is applied, transparency drawn over white, 16 bits scaled to 8.

    image: a path to a file of one of FORMATS, a PIL image or a uint8 RGB array (H, W, 3)
    Of an animation, a file's first frame is used, and of a PIL image the frame that it is at; colour profiles are ignored.
    Raises ImageError if it is not a readable picture.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ImageError(f"a picture's array must be uint8 (H, W, 3) in RGB, got {image.dtype} {image.shape}")
        return Image.fromarray(np.ascontiguousarray(image))
    if isinstance(image, Image.Image):
        return _upright_rgb(image, "the PIL image")
    if not isinstance(image, (str, os.PathLike)):
        wanted = "a path, a PIL image or a uint8 array (H, W, 3)"
        raise ImageError(f"a picture must be {wanted}, got {type(image).__name__}")
    path = Path(image)
    try:
        if path.is_dir():
            raise ImageError(f"{path} is a folder, not a picture: name a file in it")
        if not path.exists():
            raise ImageError(f"{path} does not exist")
        # a file object: given a path, Pillow maps uncompressed TIFFs with the sides of the picture that is turned already
        with path.open("rb") as file, _opened(file) as opened:
            return _upright_rgb(opened, str(path))
    except ImageError:
        raise
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(f"{path} has more than {limit:,} pixels; make it smaller first") from None
    except Exception as error:  # Pillow's decoders raise almost anything on a broken file
        raise ImageError(f"{path} is not a readable picture ({first_line(error)})") from error


def _opened(file: BinaryIO) -> Image.Image:
    """Open a file of one of FORMATS; the code of the rare ones is imported only for a file that is none of the usual."""
    try:
        return Image.open(file, formats=USUAL_FORMATS)
    except UnidentifiedImageError:
        Image.init()
        file.seek(0)
        return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])  # a build may lack some


def _upright_rgb(picture: Image.Image, name: str) -> Image.Image:
    try:
        if 0 in picture.size:
            raise ImageError(f"{name} has no pixels")
        picture.load()
        picture = _upright(picture)
        if picture.mode == "F":
            raise ImageError(f"{name} has floating-point pixels, whose range is not defined; convert it to 8 or 16 bits")
        if picture.mode.startswith("I"):
            return _from_sixteen_bits(picture, name)
        if picture.has_transparency_data:
            white = Image.new("RGBA", picture.size, "white")
            return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
        return picture.convert("RGB")
    except ImageError:
        raise
    except Exception as error:  # as above: truncated data is noticed only when it is decoded
        raise ImageError(f"{name} is not a readable picture ({first_line(error)})") from error


def _upright(picture: Image.Image) -> Image.Image:
    """Turn a picture by its EXIF orientation; what cannot be read of EXIF is no reason to lose the picture."""
    try:
        orientation = picture.getexif().get(ORIENTATION)
    except Exception:  # a broken block: Pillow's parsers raise almost anything
        return picture
    if orientation not in TURNS:
        return picture
    turned = picture.transpose(TURNS[orientation])
    turned.format = picture.format
    return turned


def _from_sixteen_bits(picture: Image.Image, name: str) -> Image.Image:
    """Return grey of 16 bits a pixel, kept in 16 or 32, as RGB."""
    if picture.mode == "I" and picture.format not in SIXTEEN_BITS:
        raise ImageError(f"{name} has 32-bit integer pixels, whose range is not defined; convert it to 8 or 16 bits")
    wide = np.clip(np.asarray(picture, dtype=np.int64), 0, 65535)
    shown = wide
    if getattr(picture, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow inverts 8 bits only
        shown = 65535 - wide
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        shown = np.where(wide == transparent, 65535, shown)
    return Image.fromarray(((shown + 128) // 257).astype(np.uint8)).convert("RGB")
