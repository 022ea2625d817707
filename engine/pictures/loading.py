"""Load pictures: any format that Pillow reads, a PIL image or an array, all to upright 8-bit RGB."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from engine.errors import ImageError, first_line

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray
"""A path, a PIL image or a uint8 RGB array (H, W, 3)."""


def load_picture(image: ImageLike) -> Image.Image:
    """Return an upright RGB picture: EXIF orientation is applied, transparency drawn over white, 16 bits scaled to 8.

    image: a path, a PIL image or a uint8 RGB array (H, W, 3)
    Only the first frame of an animation is used; embedded colour profiles are ignored.
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
        with Image.open(path) as opened:
            return _upright_rgb(opened, str(path))
    except ImageError:
        raise
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(f"{path} has more than {limit:,} pixels; make it smaller first") from None
    except Exception as error:  # Pillow's decoders raise almost anything on a broken file
        raise ImageError(f"{path} is not a readable picture ({first_line(error)})") from error


def _upright_rgb(picture: Image.Image, name: str) -> Image.Image:
    try:
        if 0 in picture.size:
            raise ImageError(f"{name} has no pixels")
        picture.load()
        picture = ImageOps.exif_transpose(picture)
        if picture.mode == "F":
            raise ImageError(f"{name} has floating-point pixels, whose range is not defined; convert it to 8 or 16 bits")
        if picture.mode.startswith("I"):  # I;16 in either byte order, and 16 bits stored in 32 as older formats have them
            wide = np.clip(np.asarray(picture, dtype=np.int64), 0, 65535)
            return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
        if picture.has_transparency_data:
            white = Image.new("RGBA", picture.size, "white")
            return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
        return picture.convert("RGB")
    except ImageError:
        raise
    except Exception as error:  # as above: truncated data is noticed only when it is decoded
        raise ImageError(f"{name} is not a readable picture ({first_line(error)})") from error
