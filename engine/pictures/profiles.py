"""Colour profiles (ICC) of pictures: their names, whether they differ from sRGB, and the conversion to sRGB."""

import dataclasses
import functools
import io
from collections.abc import Callable

from PIL import Image

from engine.errors import first_line

APPLIED, IGNORED = "applied", "ignored"
NAME_LENGTH = 60
"""Characters of a profile's name that are kept."""
SAME_COLOURS = 2
"""Levels of 255 by which a profile's colours may differ from sRGB's and still be called sRGB."""
PIXELS = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Pillow's modes of a profile's pixels, by the profile's colour space."""
TAKES = {
    "RGB ": ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"),
    "GRAY": ("1", "L", "LA", "La"),
    "CMYK": ("CMYK",),
}
"""Modes of pictures to which a profile of each colour space can belong."""


@dataclasses.dataclass(frozen=True)
class ColourProfile:
    """A picture's colour profile that is not sRGB.

    name: as it calls itself; to_srgb: converts a picture of one of PIXELS to RGB; None where that cannot be done
    takes: modes of pictures to which it belongs
    """

    name: str
    to_srgb: Callable[[Image.Image], Image.Image] | None = None
    takes: tuple[str, ...] = ()


def profile_of(picture: Image.Image) -> ColourProfile | None:
    """Return the colour profile that comes with a picture; None if there is none, or if it is sRGB."""
    content = picture.info.get("icc_profile")
    return _read(bytes(content)) if isinstance(content, (bytes, bytearray)) and content else None


def fits(profile: ColourProfile, picture: Image.Image) -> bool:
    """Tell whether `converted` can convert a picture. Grey of 16 bits counts as L."""
    return profile.to_srgb is not None and ("L" if picture.mode.startswith("I") else picture.mode) in profile.takes


def converted(picture: Image.Image, profile: ColourProfile) -> Image.Image:
    """Return a picture of 8 bits a channel in sRGB: RGB, or RGBA where it is transparent. For pictures that it `fits`."""
    assert profile.to_srgb is not None, "`fits` was asked first"
    if not picture.has_transparency_data:
        return profile.to_srgb(picture)
    transparent = picture.convert("RGBA")
    shown = profile.to_srgb(transparent)
    shown.putalpha(transparent.getchannel("A"))
    return shown


@functools.lru_cache(maxsize=8)
def _read(content: bytes) -> ColourProfile | None:
    """Read a profile; the pictures of a folder often share one."""
    from PIL import ImageCms  # noqa: PLC0415 - most pictures have no profile

    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(content))
        space = opened.profile.xcolor_space
        name = " ".join((opened.profile.profile_description or "without a name").split())[:NAME_LENGTH]
    except Exception as error:  # LittleCMS is missing or cannot read it
        return ColourProfile(f"unreadable: {first_line(error)[:NAME_LENGTH]}")
    try:
        mode, srgb = PIXELS[space], ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(opened, srgb, mode, "RGB", ImageCms.Intent.PERCEPTUAL)
    except Exception:  # a colour space or a kind of profile that gives no colours of pixels
        return ColourProfile(name)

    def to_srgb(picture: Image.Image) -> Image.Image:
        found = ImageCms.applyTransform(picture.convert(mode), transform)
        assert found is not None
        return found

    return None if _is_srgb(mode, to_srgb) else ColourProfile(name, to_srgb, TAKES[space])


def _is_srgb(mode: str, to_srgb: Callable[[Image.Image], Image.Image]) -> bool:
    """Tell whether a profile changes no colour by more than SAME_COLOURS."""
    if mode == "CMYK":
        return False
    levels = bytes(range(0, 256, 15))
    colours = bytes(value for r in levels for g in levels for b in levels for value in (r, g, b))
    probe = Image.frombytes("RGB", (len(colours) // 3, 1), colours) if mode == "RGB" else Image.linear_gradient("L")
    before, after = probe.convert("RGB").tobytes(), to_srgb(probe).tobytes()
    return max(abs(a - b) for a, b in zip(before, after, strict=True)) <= SAME_COLOURS
