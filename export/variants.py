"""Other ways in which pictures may have been prepared: what people's pipelines do, one kind of difference at a time."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from engine.pictures.foreign_loading import LOADINGS, UPRIGHT
from engine.pictures.preprocessing import Preprocessing
from engine.pictures.resizing import INTERPOLATIONS, WITHOUT_ANTIALIAS

CROP_SHARES = (0.875, 0.9, 0.95)
"""Parts of the shorter side that are cut out, as timm's crop_pct: .875 is 256 -> 224."""
PADS = ((0, 0, 0), (255, 255, 255), (127, 127, 127), (114, 114, 114))
NORMS = {
    "0 and 1": ((0.0,) * 3, (1.0,) * 3),
    "0.5 and 0.5": ((0.5,) * 3, (0.5,) * 3),
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CLIP's": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "Caffe's": ((103.939, 116.779, 123.68), (1.0,) * 3),
}
"""Mean and std by name; Caffe's go with BGR pixels that are not divided by 255."""
SCALES = {255.0: "pixels / 255", 1.0: "pixels 0..255, not divided", 255.0**2: "pixels divided by 255 twice"}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to prepare pictures. loading: how files are read, UPRIGHT or one of LOADINGS"""

    preprocessing: Preprocessing
    loading: str = UPRIGHT


def variants_of(kind: str, variant: Variant) -> list[Variant]:
    """Return the variants that differ from this one in one kind, one of KINDS, and in nothing else."""
    if kind == "loading":
        return [Variant(variant.preprocessing, loading) for loading in LOADINGS if loading != variant.loading]
    p = variant.preprocessing
    made = (dataclasses.replace(p, **fields) for fields in _FIELDS[kind](p))
    different = dict.fromkeys(other for other in made if changed_kinds(Variant(p), Variant(other)))
    return [Variant(other, variant.loading) for other in different]


def changed_kinds(base: Variant, other: Variant) -> list[str]:
    """Return the kinds of difference between two variants."""
    return [kind for kind in KINDS if _what(kind, base) != _what(kind, other)]


def words(kind: str, variant: Variant) -> str:
    """Return what a variant does in one kind, for people."""
    p = variant.preprocessing
    if kind == "interpolation":
        return f"interpolation {p.interpolation}" + ("" if p.antialias else " without antialias")
    if kind == "resizing":
        return _resizing_words(p)
    if kind == "crop rounding":
        return f"odd borders of a crop rounded {p.crop_rounding}"
    if kind == "channel order":
        return f"channels in {p.channel_order.upper()}"
    if kind == "normalisation":
        return f"mean and std {_norm_name(p)} ({SCALES.get(p.scale, f'pixels / {p.scale:g}')})"
    return variant.loading


def export_options(kind: str, base: Variant, variant: Variant) -> str:
    """Return the options of `python -m export similarity` that make a bundle prepare pictures so; "" if none do.

    base: how it prepares them now; an option that has to go is named as "(without ...)"
    """
    p, now = variant.preprocessing, base.preprocessing
    if kind == "interpolation":
        gone = " (without --no-antialias)" if p.antialias and not now.antialias else ""
        return f"--interpolation {p.interpolation}{gone}" + ("" if p.antialias else " --no-antialias")
    if kind == "resizing":
        return _resizing_options(now, p)
    if kind == "crop rounding":
        return f"--crop-rounding {p.crop_rounding}"
    if kind == "channel order":
        return f"--channel-order {p.channel_order}"
    if kind == "normalisation":
        return f"--mean {_numbers(p.mean)} --std {_numbers(p.std)} --scale {p.scale:.9g}"
    return ""


def _resizing_options(now: Preprocessing, p: Preprocessing) -> str:
    if p.fit == "stretch":
        return "--fit stretch"
    if p.fit == "pad":
        gone = " (without --pad-colour)" if p.pad_colour is None and now.pad_colour else ""
        colour = "" if p.pad_colour is None else f" --pad-colour {_numbers(p.pad_colour)}"
        return f"--fit pad{gone}{colour} --pad-position {p.pad_position}"
    if p.resize:
        return f"--fit crop --resize {_numbers(p.resize)}"
    if p.resize == ():
        return "--preprocessor FILE.json that has a centre crop and no resizing"
    return "--fit crop (without --resize)" if now.resize is not None else "--fit crop"


def _interpolation_fields(p: Preprocessing) -> Iterator[dict[str, Any]]:
    for antialias, names in ((True, INTERPOLATIONS), (False, WITHOUT_ANTIALIAS)):
        yield from ({"interpolation": name, "antialias": antialias} for name in names)


def _resizing_fields(p: Preprocessing) -> Iterator[dict[str, Any]]:
    """Give the fields of all ways to bring a picture to the network's size."""
    plain = {"fit": "crop", "resize": None, "pad_colour": None, "pad_position": "centre"}
    yield plain
    yield {**plain, "fit": "stretch"}
    for share in CROP_SHARES:
        height, width = math.floor(p.height / share), math.floor(p.width / share)
        yield {**plain, "resize": (min(height, width),)}
        yield {**plain, "resize": (height, width)}
    yield {**plain, "resize": (min(p.height, p.width),)}  # of a square, this is None but for rounding
    yield {**plain, "resize": ()}
    for colour in (None, *PADS):
        for place in ("centre", "top-left"):
            yield {**plain, "fit": "pad", "pad_colour": colour, "pad_position": place}


def _rounding_fields(p: Preprocessing) -> Iterator[dict[str, Any]]:
    if p.fit == "crop":
        yield {"crop_rounding": "down" if p.crop_rounding == "even" else "even"}


def _order_fields(p: Preprocessing) -> Iterator[dict[str, Any]]:
    if p.channels == 3:  # mean and std stay: most often somebody's pixels are in another order than the mean thinks
        yield {"channel_order": "bgr" if p.channel_order == "rgb" else "rgb"}


def _norm_fields(p: Preprocessing) -> Iterator[dict[str, Any]]:
    pairs = [*NORMS.values(), *((mean[::-1], std[::-1]) for mean, std in NORMS.values()), (p.mean, p.std)]
    if p.channels == 1:
        pairs = [(mean[:1], std[:1]) for mean, std in pairs]
    for scale in SCALES:
        for mean, std in pairs:
            if mean[0] <= 1 or scale == 1:  # Caffe's are for pixels up to 255
                yield {"mean": mean, "std": std, "scale": scale}


_FIELDS = {
    "interpolation": _interpolation_fields,
    "resizing": _resizing_fields,
    "crop rounding": _rounding_fields,
    "channel order": _order_fields,
    "normalisation": _norm_fields,
}
KINDS = (*_FIELDS, "loading")
"""What may differ between two pipelines."""


def _what(kind: str, variant: Variant) -> object:
    """Return what a variant does in one kind, equal for two variants if their pictures are."""
    p = variant.preprocessing
    if kind == "normalisation":
        return [(f"{p.scale * std:.3g}", f"{mean / std:.3g}") for mean, std in zip(p.mean, p.std, strict=True)]
    if kind == "crop rounding":
        return p.crop_rounding
    if kind == "channel order":
        return p.channel_order
    if kind == "interpolation":
        return p.interpolation, p.antialias
    if kind == "resizing":
        return p.fit, p.resize, p.pad_colour, p.pad_position
    return variant.loading


def _resizing_words(p: Preprocessing) -> str:
    if p.fit == "stretch":
        return f"stretched to {p.height} x {p.width}"
    if p.fit == "pad":
        colour = "the mean colour" if p.pad_colour is None else f"colour {_numbers(p.pad_colour)}"
        return f"padded with {colour} (picture {'in the centre' if p.pad_position == 'centre' else 'at the top left'})"
    if p.resize is None:
        return f"{p.height} x {p.width} covered then cropped"
    if not p.resize:
        return "cropped without resizing"
    sizes = f"shorter side {p.resize[0]}" if len(p.resize) == 1 else f"resized to {p.resize[0]} x {p.resize[1]}"
    return f"{sizes} then cropped"


def _norm_name(p: Preprocessing) -> str:
    for name, (mean, std) in NORMS.items():
        for order, note in ((1, ""), (-1, " in reverse order")):
            if (p.mean, p.std) == (mean[::order][: p.channels], std[::order][: p.channels]):
                return name + note
    return f"{_numbers(p.mean)} and {_numbers(p.std)}"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.9g}" for value in values)
