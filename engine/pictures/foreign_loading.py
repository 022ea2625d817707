"""Load pictures as other people's code does: without their EXIF orientation, or with transparency drawn otherwise."""

from pathlib import Path

from PIL import Image, ImageOps

from engine.pictures.loading import ORIENTATION, load_picture
from engine.pictures.opening import open_picture
from engine.pictures.reading import Reading

RgbPicture = Image.Image
"""An RGB picture as Pillow has it."""
UPRIGHT = "EXIF orientation applied and transparency over white"
LOADINGS = {
    "EXIF orientation ignored": "orientation",
    "transparency dropped (the colour below it shown)": "dropped",
    "transparency over black": "black",
}
"""Ways of reading a file other than the engine's, UPRIGHT, and what it is about."""
_ORIENTED_BY = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")


def loadings_that_matter(file: Path, reading: Reading) -> list[str]:
    """Return those of LOADINGS that may change this picture."""
    with file.open("rb") as content, open_picture(content, str(file), reading) as opened:
        oriented, transparent = opened.getexif().get(ORIENTATION, 1) != 1, opened.has_transparency_data
    return [name for name, kind in LOADINGS.items() if (oriented if kind == "orientation" else transparent)]


def load_as(file: Path, loading: str, reading: Reading) -> RgbPicture:
    """Load a picture, RGB, in one of LOADINGS."""
    with file.open("rb") as content, open_picture(content, str(file), reading) as opened:
        if LOADINGS[loading] == "orientation":
            plain = opened.copy()
            plain.info = {key: value for key, value in plain.info.items() if key not in _ORIENTED_BY}
            return load_picture(plain, reading)
        picture = ImageOps.exif_transpose(opened)
        if LOADINGS[loading] == "dropped":
            return picture.convert("RGB")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture.convert("RGBA")).convert("RGB")
