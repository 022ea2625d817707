"""What the engine answers: findings that can be saved, read back, and shown in a notebook."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from engine.attributes.table import Attribute
from engine.errors import OutputError, first_line
from engine.files import read_npz, write_npz, write_whole
from engine.findings import ARRAYS, ATTRIBUTE_LISTS, Findings, ModelName

SUFFIXES = (".png", ".html", ".json", ".npz")


class Explanation(Findings):
    """Why a query matches a reference. Its fields are those of `engine.findings.Findings`."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write .png (a picture), .html (a page), .json (numbers) or .npz (everything, see `load`), by suffix.

        Raises OutputError for another suffix or where the file cannot be written.
        """
        target = Path(path)
        suffix = checked_suffix(target)
        if suffix == ".npz":
            self._save_npz(target)
            return
        if suffix == ".png":
            from engine.render.png import png  # noqa: PLC0415 - drawing is not needed to compute

            content = png(self)
        elif suffix == ".html":
            from engine.render.html import page  # noqa: PLC0415 - as above

            content = page([self]).encode()
        else:
            content = (json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n").encode()
        write_whole(target, content)

    def _save_npz(self, path: Path) -> None:
        arrays = {k: getattr(self, k) for k in ARRAYS if getattr(self, k) is not None}
        maps = {_map_name(kind, i): a.map for kind in ATTRIBUTE_LISTS for i, a in enumerate(getattr(self, kind))}
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
                arrays[kind] = tuple(Attribute(**a, map=data[_map_name(kind, i)]) for i, a in enumerate(found))
            for name in ("query_box", "reference_box", "phi", "notes"):
                fields[name] = fields[name] if fields[name] is None else tuple(fields[name])
            fields["model"] = ModelName(**fields["model"])
            return cls(**fields, **arrays)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise OutputError(f"{path} is not a saved explanation ({first_line(error)})") from error

    def _repr_html_(self) -> str:
        """In notebooks: the picture."""
        from engine.render.html import figure  # noqa: PLC0415 - as in `save`

        return figure(self)


def _map_name(kind: str, index: int) -> str:
    """The name of an attribute's map in .npz."""
    return f"{kind.removesuffix('s')}_map_{index}"


def checked_suffix(path: Path) -> str:
    """The suffix, in lower case; raises OutputError where it is none of the formats'."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(f"cannot write {path}: the name must end in one of {', '.join(SUFFIXES)}")
    return suffix
