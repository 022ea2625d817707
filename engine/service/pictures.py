"""Pictures and embeddings as they arrive: bytes in a form, or base64, an id or numbers in JSON."""

import base64
import binascii
import dataclasses
import io

from PIL import Image

from engine.errors import ImageError, LargePictureError, first_line
from engine.pictures.loading import load_picture
from engine.pictures.opening import open_picture
from engine.pictures.reading import Reading
from engine.service.limits import Refused

IN_FULL = 4
"""All pictures of a request together may have so many times the pixels of one: they are held at once."""


@dataclasses.dataclass
class PixelBudget:
    """Pixels that the pictures of one request may still have. each: one of them at most; left: all of them"""

    each: int
    left: int

    @classmethod
    def of(cls, each: int) -> "PixelBudget":
        """Return that of a new request."""
        return cls(each, IN_FULL * each)


def read_upload(content: bytes, name: str, budget: PixelBudget, apply_profiles: bool = False) -> Image.Image:
    """Return an upright RGB picture from the bytes of a file. The header alone decides whether it is decoded.

    name: how messages call it, as "query"; budget: its pixels are taken from it; apply_profiles: see `Reading`
    Raises ImageError if it is no picture that can be read, Refused if it has more pixels than allowed.
    """
    if not content:
        raise ImageError(f"{name} is empty: send the bytes of a picture's file")
    reading = Reading(max(min(budget.each, budget.left), 1), apply_profiles)
    try:
        with open_picture(io.BytesIO(content), name, reading) as opened:
            picture = load_picture(opened, reading)
            budget.left -= picture.width * picture.height
            return picture
    except LargePictureError as error:
        raise Refused(413, str(error).replace(", or raise max_pixels (--max-pixels)", "")) from error
    except ImageError as error:
        raise ImageError(str(error).replace("the PIL image", name, 1)) from error
    except Exception as error:  # Pillow's parsers and decoders raise almost anything on a broken file
        raise ImageError(f"{name} is not a readable picture: send a PNG, JPEG, WebP or another raster file") from error


def from_base64(text: str, name: str) -> bytes:
    """Return the bytes of a file that was sent as base64. Raises ImageError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"{name}.b64 is not base64 ({first_line(error)}): encode the bytes of a picture's file") from error
