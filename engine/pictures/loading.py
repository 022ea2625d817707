"""Load pictures: a file of a raster format, a PIL image or an array, all to upright 8-bit RGB."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from engine.errors import ImageError, first_line
from engine.pictures.bands import in_bands
from engine.pictures.limits import require_decodable, require_few_pixels
from engine.pictures.opening import open_picture
from engine.pictures.profiles import APPLIED, IGNORED, converted, fits, profile_of
from engine.pictures.reading import AS_USUAL, Reading

SIXTEEN_BITS = ("PNG", "PPM", "JPEG2000")
"""Formats whose pixels have at most 16 bits, also where Pillow keeps them in 32."""
ORIENTATION, PHOTOMETRIC, WHITE_IS_ZERO = 0x0112, 262, 0
"""Tags of EXIF and TIFF, and the value of the second one for inverted pixels."""
GREY_PACKINGS = {"L;2": 85, "L;4": 17, "RGB;16B": 0}
"""Pixels of PNG files -> by what their levels are multiplied for 8 bits; 0: Pillow shortens them."""
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
PROFILE = "colour profile"
"""Key in the `info` of a loaded picture: the name of its colour profile where that is not sRGB, and what became of it."""

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray
"""A path, a PIL image or a uint8 RGB array (H, W, 3)."""


def load_picture(image: ImageLike, reading: Reading = AS_USUAL) -> Image.Image:
    """Return an upright RGB picture: EXIF orientation is applied, transparency drawn over white, 16 bits scaled to 8.

    image: a path to a file of one of `engine.pictures.opening.FORMATS`, a PIL image or a uint8 RGB array (H, W, 3)
    reading: the limit on pixels, and whether colour profiles are applied
    Of an animation, a file's first frame is used, and of a PIL image the frame that it is at. `info` of what is returned has
    PROFILE alone, if there is one. At most 8 bytes for each pixel of the limit are used at a time.
    Raises ImageError if it is not a readable picture, or too large.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ImageError(f"a picture's array must be uint8 (H, W, 3) in RGB, got {image.dtype} {image.shape}")
        require_few_pixels((image.shape[1], image.shape[0]), "the array", reading)
        return Image.fromarray(np.ascontiguousarray(image))
    if isinstance(image, Image.Image):
        require_few_pixels(image.size, "the PIL image", reading)
        if isinstance(image, ImageFile.ImageFile) and image.tile:  # it is not decoded yet
            try:
                require_decodable(image, 0, "the PIL image", reading)
            except ImageError:
                raise
            except Exception as error:  # its file may be closed
                raise ImageError(f"the PIL image is not a readable picture ({first_line(error)})") from error
        return _turned(*_read(image, "the PIL image", reading))
    if not isinstance(image, (str, os.PathLike)):
        wanted = "a path, a PIL image or a uint8 array (H, W, 3)"
        raise ImageError(f"a picture must be {wanted}, got {type(image).__name__}")
    path = Path(image)
    try:
        if path.is_dir():
            raise ImageError(f"{path} is a folder, not a picture: name a file in it")
        if not path.exists():
            raise ImageError(f"{path} does not exist")
        if not path.is_file():  # reading it could wait for ever
            raise ImageError(f"{path} is a pipe or a device, not a picture: save the picture as a file first")
        return _turned(*_read_file(path, reading))
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on a broken file
        raise ImageError(f"{path} is not a readable picture ({first_line(error)})") from error


def _read_file(path: Path, reading: Reading) -> tuple[Image.Image, int | None]:
    with path.open("rb") as file:
        opened = open_picture(file, str(path), reading)
        try:
            return _read(opened, str(path), reading)
        finally:
            opened.close()  # frees its pixels, before those that were made of it are turned


def _read(picture: Image.Image, name: str, reading: Reading) -> tuple[Image.Image, int | None]:
    """Return a picture as RGB, not yet turned, and its orientation in EXIF."""
    try:
        if 0 in picture.size:
            raise ImageError(f"{name} has no pixels")
        level = _transparent_level(picture, name)
        _decode(picture)
        orientation = _orientation(picture)
        in_eight_bits, profile = _in_eight_bits(picture, name), profile_of(picture)
        applied = profile if reading.apply_profiles and profile is not None and fits(profile, picture) else None

        def to_rgb(band: Image.Image) -> Image.Image:
            eight = in_eight_bits(band)
            if level is not None:
                eight.info["transparency"] = level
            return _over_white(eight if applied is None else converted(eight, applied))

        rgb = in_bands(picture, to_rgb)
        if profile is not None:
            rgb.info[PROFILE] = f"{profile.name}, {IGNORED if applied is None else APPLIED}"
        return rgb, orientation
    except ImageError:
        raise
    except Exception as error:  # as above: truncated data is noticed only when it is decoded
        raise ImageError(f"{name} is not a readable picture ({first_line(error)})") from error


def _decode(picture: Image.Image) -> None:
    """Decode a picture whose file may have been opened by its path.

    Pillow maps an uncompressed TIFF by its path with the sides of the picture that is turned already, which shears it.
    """
    if not isinstance(picture, ImageFile.ImageFile) or picture.format != "TIFF":
        picture.load()
        return
    path, picture.filename = picture.filename, ""
    try:
        picture.load()
    finally:
        picture.filename = path


def _transparent_level(picture: Image.Image, name: str) -> int | None:
    """Return the grey of 8 bits that is transparent in a PNG of 2 or 4, where Pillow has the one in the file.

    Raises ImageError for a transparent colour of 16 bits a channel, of which Pillow keeps 8.
    """
    packing = picture.tile[0][3] if isinstance(picture, ImageFile.ImageFile) and picture.tile else None
    transparent = picture.info.get("transparency")
    if transparent is None or packing not in GREY_PACKINGS:
        return None
    if packing == "RGB;16B":
        raise ImageError(f"{name} has a transparent colour of 16 bits a channel: convert it to 8 bits, or to RGBA")
    return int(transparent) * GREY_PACKINGS[packing]


def _orientation(picture: Image.Image) -> int | None:
    """Return the orientation in EXIF; what cannot be read of it is no reason to lose the picture."""
    try:
        orientation = picture.getexif().get(ORIENTATION)
    except Exception:  # a broken block: Pillow's parsers raise almost anything
        return None
    return orientation if orientation in TURNS else None


def _turned(picture: Image.Image, orientation: int | None) -> Image.Image:
    """Turn a picture upright."""
    if orientation is None:
        return picture
    turned = picture.transpose(TURNS[orientation])
    turned.info = picture.info
    return turned


def _over_white(picture: Image.Image) -> Image.Image:
    """Return a picture of 8 bits a channel as RGB, with white below what is transparent."""
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _in_eight_bits(picture: Image.Image, name: str) -> Callable[[Image.Image], Image.Image]:
    """Return what makes 8 bits a channel of a band of rows of a picture. Raises ImageError for pixels without a range."""
    if picture.mode == "F":
        raise ImageError(f"{name} has floating-point pixels, whose range is not defined; convert it to 8 or 16 bits")
    if not picture.mode.startswith("I"):
        return lambda band: band
    if picture.mode == "I" and picture.format not in SIXTEEN_BITS:
        raise ImageError(f"{name} has 32-bit integer pixels, whose range is not defined; convert it to 8 or 16 bits")
    inverted = getattr(picture, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO  # Pillow inverts 8 bits only
    transparent = picture.info.get("transparency")

    def scaled(band: Image.Image) -> Image.Image:
        """Return grey of 16 bits a pixel, kept in 16 or 32, as L."""
        wide = np.clip(np.asarray(band, dtype=np.int64), 0, 65535)
        shown = 65535 - wide if inverted else wide
        if isinstance(transparent, int):
            shown = np.where(wide == transparent, 65535, shown)
        return Image.fromarray(((shown + 128) // 257).astype(np.uint8))

    return scaled
