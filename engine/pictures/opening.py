"""Open files of raster formats, and of those only: what is too large is refused before it is decoded."""

import struct
import warnings
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from engine.pictures.limits import require_decodable, require_small_parts
from engine.pictures.reading import Reading

FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI"),
    *("SUN", "TGA", "TIFF", "WEBP", "XBM"),
)
"""Formats of files that are opened. None runs another program, as PostScript does."""
USUAL_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM")
"""Those that Pillow always imports."""
TOLERATED = (
    r"(Possibly c|C)orrupt EXIF|Tag (offset|data) |Metadata Warning|Image was not the expected size|Invalid APNG|"
    r"Image appears to be a malformed MPO|Truncated File Read"
)
"""What Pillow warns of, on standard error, in files that it reads all the same."""

warnings.filterwarnings("ignore", TOLERATED, UserWarning, r"PIL\.")  # for good: to switch it per file is not thread-safe


def open_picture(file: BinaryIO, name: str, reading: Reading) -> ImageFile.ImageFile:
    """Open a file of one of FORMATS; the code of the rare ones is imported only for a file that is none of the usual.

    It is Pillow's own `Image.open` with limits of ours, which is so much stricter that a header of 1 x 1 is not believed if
    another one inside says more. name: for messages
    Raises ImageError if it is too large, UnidentifiedImageError if it has none of the formats, and what Pillow raises.
    """
    file.seek(0)
    start, file_bytes = file.read(16), file.seek(0, 2)
    Image.preinit()
    opened = _opened(file, start, USUAL_FORMATS, name, reading)
    if opened is None:
        Image.init()
        opened = _opened(file, start, FORMATS, name, reading)
    if opened is None:
        raise UnidentifiedImageError(f"it has none of the formats {', '.join(FORMATS)}")
    require_decodable(opened, file_bytes, name, reading)
    return opened


def _opened(file: BinaryIO, start: bytes, kinds: tuple[str, ...], name: str, reading: Reading) -> ImageFile.ImageFile | None:
    """Try formats as `Image.open` does. start: the file's first bytes"""
    for kind in kinds:
        factory, accept = Image.OPEN.get(kind, (None, None))  # a build may lack some
        found = factory is not None and (accept is None or accept(start))
        if factory is None or not found or isinstance(found, str):  # a string says what the build lacks
            continue
        try:
            require_small_parts(file, kind, name, reading)
            file.seek(0)
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # not of this format after all
            continue
    return None
