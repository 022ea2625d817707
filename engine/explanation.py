"""What the engine answers: findings that can be saved, read back, and shown in a notebook."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.attributes.table import Attribute
from engine.errors import ImageError, OptionError, OutputError, first_line
from engine.files import read_npz, write_json, write_npz, write_whole
from engine.findings import ARRAYS, ATTRIBUTE_LISTS, Findings, ModelName
from engine.pictures.loading import ImageLike, load_picture
from engine.saliency.links import Link
from engine.saliency.originals import map_on_original

if TYPE_CHECKING:
    from engine.render.panels import Panel

Originals = tuple[ImageLike, ImageLike | None]
"""The pictures that were explained, query and reference, as they were before the network's crop; None: not needed."""

SUFFIXES = (".png", ".html", ".json", ".npz")
DRAWN = (".png", ".html")
TUPLES = (
    *("query_box", "reference_box", "rather_than_box", "query_size", "reference_size", "rather_than_size"),
    *("phi", "joint", "notes"),
)


class Explanation(Findings):
    """Why a query matches a reference. Its fields are those of `engine.findings.Findings`."""

    def save(self, path: str | os.PathLike[str], originals: Originals | None = None, *, contours: bool = False) -> None:
        """Write .png (a picture), .html (a page), .json (numbers) or .npz (everything, see `load`), by suffix.

        originals: (query, reference), to draw .png and .html on the original pictures instead of on what the network saw;
            the reference is None if its embedding was given
        contours: draw lines around the strongest parts of the maps, for print; in .png and .html

        Raises OutputError for another suffix or if the file cannot be written; OptionError, ImageError for wrong originals.
        """
        target = Path(path)
        suffix = checked_suffix(target)
        if originals is not None and suffix not in DRAWN:
            raise OptionError(f"originals are drawn in {' and '.join(DRAWN)}, not in {suffix}: leave them out")
        if suffix == ".npz":
            self._save_npz(target)
            return
        if suffix == ".json":
            write_json(target, self.to_dict())
            return
        shown = None if originals is None else self.original_panels(*originals, contours=contours)
        if suffix == ".png":
            from engine.render.png import png  # noqa: PLC0415 - drawing is not needed to compute

            content = png(self, shown, contours)
        else:
            from engine.render.html import page  # noqa: PLC0415 - as above

            content = page([self], None if shown is None else [shown], contours).encode(errors="backslashreplace")
        write_whole(target, content)

    def on_original(self, image: ImageLike | None = None, *, reference: bool = False) -> np.ndarray:
        """Return the query's map on the original picture, or that picture with the map drawn on it.

        image: None: return (H0, W0) float32 over the upright original, NaN where the network did not see it (cropped away)
            the original: return (H0, W0, 3) uint8, in grey below the colours of the map, with a frame around what was seen
            and boxes around the regions that match
        reference: the same of the reference, which has a map in modes "pair" and "both"

        Raises OptionError if there is no map or the original's size is not known, ImageError if `image` is another picture.
        """
        which = "reference" if reference else "query"
        saliency, box, size = (
            (self.reference_saliency, self.reference_box, self.reference_size)
            if reference
            else (self.saliency, self.query_box, self.query_size)
        )
        if saliency is None or box is None:
            raise OptionError('the reference has no map in mode "fixed": explain with mode="pair"')
        if image is not None:
            from engine.render.original import overlay  # noqa: PLC0415 - as in `save`

            return np.asarray(overlay(self, _original(image, size, which), of_reference=reference))
        if size is None:
            raise OptionError(
                f"the original {which}'s size is not known, because a file of an older version did not keep it: explain the "
                "pair again, or give the original picture for an overlay"
            )
        return map_on_original(saliency, box, size)

    def original_panels(self, query: ImageLike, reference: ImageLike | None, *, contours: bool = False) -> "list[Panel]":
        """Return what `save` draws on the originals. Raises OptionError and ImageError for wrong originals."""
        from engine.render import original  # noqa: PLC0415 - as in `save`

        needed = self.reference_box is not None
        if needed != (reference is not None):
            raise OptionError(
                "originals must be (query, reference): both pictures"
                if needed
                else "originals must be (query, None), because the reference was given as an embedding"
            )
        other = None if reference is None else _original(reference, self.reference_size, "reference")
        return original.original_panels(self, _original(query, self.query_size, "query"), other, contours)

    def _save_npz(self, path: Path) -> None:
        arrays = {k: getattr(self, k) for k in ARRAYS if getattr(self, k) is not None}
        maps = {_map_name(kind, i): a.map for kind in ATTRIBUTE_LISTS for i, a in enumerate(getattr(self, kind))}
        maps = {name: map_ for name, map_ in maps.items() if map_ is not None}
        write_npz(path, {"fields": np.array(json.dumps(self.to_dict())), **arrays, **maps}, compressed=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Explanation":
        """Read what `save` wrote as .npz. Raises OutputError where it is not that."""
        data = read_npz(Path(path))
        try:
            fields = json.loads(str(data["fields"]))
            arrays: dict[str, Any] = {k: data.get(k) for k in ARRAYS}
            for kind in ATTRIBUTE_LISTS:
                found = fields.pop(kind, ())  # older files have no opposing ones
                arrays[kind] = tuple(Attribute(**a, map=_map_of(data, kind, i)) for i, a in enumerate(found))
            for name in TUPLES:
                value = fields.get(name)  # older files have no sizes
                fields[name] = value if value is None else tuple(value)
            fields["model"] = ModelName(**fields["model"])
            links = fields.get("links")  # older files have none
            fields["links"] = None if links is None else tuple(_link(**link) for link in links)
            return cls(**fields, **arrays)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise OutputError(f"{path} is not a saved explanation ({first_line(error)})") from error

    def _repr_html_(self) -> str:
        """In notebooks: the picture."""
        from engine.render.figure import figure  # noqa: PLC0415 - as in `save`

        return figure(self)


def _original(image: ImageLike, size: tuple[int, int] | None, which: str) -> np.ndarray:
    """Load an original, (H0, W0, 3) uint8; raises ImageError if it cannot be the one that was explained."""
    picture = load_picture(image)
    if size not in (None, picture.size):
        explained = " x ".join(map(str, size))
        got = " x ".join(map(str, picture.size))
        raise ImageError(f"the {which} that was explained is {explained} pixels, the picture given is {got}: give that one")
    return np.asarray(picture)


def _link(query_box: list[float], reference_box: list[float], strength: float, reliability: float) -> Link:
    (left, top, right, bottom), other = query_box, reference_box
    return Link((left, top, right, bottom), (other[0], other[1], other[2], other[3]), strength, reliability)


def _map_of(data: dict[str, np.ndarray], kind: str, index: int) -> np.ndarray | None:
    """Read an attribute's map; only what is true of the reference alone may have none. Raises KeyError."""
    name = _map_name(kind, index)
    return data.get(name) if kind == "only_reference" else data[name]


def _map_name(kind: str, index: int) -> str:
    """The name of an attribute's map in .npz."""
    return f"{kind.removesuffix('s')}_map_{index}"


def checked_suffix(path: Path) -> str:
    """The suffix, in lower case; raises OutputError where it is none of the formats'."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(f"cannot write {path}: the name must end in one of {', '.join(SUFFIXES)}")
    return suffix
