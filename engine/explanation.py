"""What the engine answers: findings that can be saved, read back, and shown in a notebook."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import ImageError, OptionError, OutputError
from engine.explanation_npz import explanation_bytes, read_explanation
from engine.files import json_bytes, write_whole
from engine.findings import Findings
from engine.pictures.limits import DEAREST
from engine.pictures.loading import ImageLike, load_picture
from engine.pictures.profiles import APPLIED
from engine.pictures.reading import MAX_PIXELS, Reading
from engine.saliency.originals import map_on_original

if TYPE_CHECKING:
    from engine.render.panels import Panel

Originals = tuple[ImageLike, ImageLike | None]
"""The pictures that were explained, query and reference, as they were before the network's crop; None: not needed."""

SUFFIXES = (".png", ".html", ".json", ".npz")
DRAWN = (".png", ".html")


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
        write_whole(target, self.to_bytes(checked_suffix(target), originals, contours=contours))

    def to_bytes(self, suffix: str, originals: Originals | None = None, *, contours: bool = False) -> bytes:
        """Return what `save` writes. suffix: .png, .html, .json or .npz; the others, and errors, as in `save`"""
        checked_suffix(Path(f"explanation{suffix}"))
        if originals is not None and suffix not in DRAWN:
            raise OptionError(f"originals are drawn in {' and '.join(DRAWN)}, not in {suffix}: leave them out")
        if suffix == ".npz":
            return explanation_bytes(self)
        if suffix == ".json":
            return json_bytes(self.to_dict())
        shown = None if originals is None else self.original_panels(*originals, contours=contours)
        if suffix == ".png":
            from engine.render.png import png  # noqa: PLC0415 - drawing is not needed to compute

            return png(self, shown, contours)
        from engine.render.html import page  # noqa: PLC0415 - as above

        return page([self], None if shown is None else [shown], contours).encode(errors="backslashreplace")

    def on_original(self, image: ImageLike | None = None, *, reference: bool = False, words: bool = False) -> np.ndarray:
        """Return the query's map on the original picture, or that picture with the map drawn on it.

        image: None: return (H0, W0) float32 over the upright original, NaN where the network did not see it (cropped away)
            the original: return (H0, W0, 3) uint8, in grey below the colours of the map, with a frame around what was seen
            and boxes around the regions that match
        reference: the same of the reference, which has a map in modes "pair" and "both"
        words: add rows below the original, with the similarity, how steady the map is, and the attributes

        Raises OptionError if there is no map, if words have no picture to stand below, or if the original's size is not
            known, ImageError if `image` is another picture.
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
            from engine.render.original import overlay, with_words  # noqa: PLC0415 - as in `save`

            profile = self.reference_profile if reference else self.query_profile
            drawn = overlay(self, _original(image, size, profile, which), of_reference=reference)
            return np.asarray(with_words(self, drawn, of_reference=reference) if words else drawn)
        if words:
            raise OptionError("words are drawn below a picture: give the original, on_original(picture, words=True)")
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
        other = None if reference is None else _original(reference, self.reference_size, self.reference_profile, "reference")
        own = _original(query, self.query_size, self.query_profile, "query")
        return original.original_panels(self, own, other, contours)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Explanation":
        """Read what `save` wrote as .npz. Raises OutputError where it is not that."""
        return read_explanation(Path(path), cls)

    def _repr_html_(self) -> str:
        """In notebooks: the page, in a frame of its own."""
        from engine.render.html import embedded  # noqa: PLC0415 - as in `save`

        return embedded(self)


def _original(image: ImageLike, size: tuple[int, int] | None, profile: str | None, which: str) -> np.ndarray:
    """Load an original as it was when it was explained, (H0, W0, 3) uint8; raises ImageError if it cannot be that one."""
    limit = MAX_PIXELS if size is None else max(MAX_PIXELS, DEAREST * size[0] * size[1])  # what was read once may be again
    picture = load_picture(image, Reading(limit, str(profile).endswith(APPLIED)))
    if size not in (None, picture.size):
        explained = " x ".join(map(str, size))
        got = " x ".join(map(str, picture.size))
        raise ImageError(f"the {which} that was explained is {explained} pixels, the picture given is {got}: give that one")
    return np.asarray(picture)


def checked_suffix(path: Path) -> str:
    """The suffix, in lower case; raises OutputError where it is none of the formats'."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(f"cannot write {path}: the name must end in one of {', '.join(SUFFIXES)}")
    return suffix
