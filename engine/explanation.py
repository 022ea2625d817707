"""What the engine answers, and how it is kept: JSON and .npz here, pictures and pages in their own files."""

import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from engine.attributes import Attribute, opposing
from engine.errors import OutputError
from engine.files import write_whole
from engine.preprocessing import Box

WORDS = ("attributes", "opposing_attributes")
SUFFIXES = (".png", ".html", ".json", ".npz")
ARRAYS = (
    *("saliency", "saliency_error", "reference_saliency", "reference_saliency_error"),
    *("correspondence", "query_image", "reference_image"),
)


@dataclasses.dataclass(frozen=True)
class ModelName:
    """identity: sha256 over similarity graph, preprocessing, metric and conditions"""

    name: str
    identity: str


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """Why a query matches a reference.

    similarity: of the two whole pictures, by the model's metric
    saliency: (H, W) float32 over the query as the network saw it. Estimator "regression": by how much the expected
        similarity rises where a pixel is shown, independent of the number of masks. "sane": the paper's raw map, which
        grows with the number of masks and is nearly constant for a cosine: only its shape means anything
    saliency_error: (16, 16) float32, standard errors of the saliency's means over as many tiles; None where nothing tells
        them ("sane", fewer than 32 masks)
    saliency_reliability: estimated correlation of the saliency with its limit for infinitely many masks; None likewise
    reference_saliency: (H, W) float32 over the reference, with error and reliability as above; None in mode "fixed"
    correspondence: (T, T) float32 in mode "both" with RISE plans: how well tiles match, query by reference, row-major
        on the grid of the masks
    correspondence_reliability: correlation of what two halves of the masks say; None for too few masks
    attributes: best first, those of at least `attribute_threshold` confidence (the `top` of them, where that was asked for)
    opposing_attributes: best first, words for the regions that lower the similarity: ranked by the same formula with the
        same phi and threshold, where `match` is with `opposing`; only those that match it, and the saliency negatively. A
        confident word may stand in both lists: the sign of its match says on which side it is
    phi: the weights they were ranked with
    query_image, reference_image: (H, W, 3) uint8 as the network saw them (None: given as an embedding)
    query_box, reference_box: that part of the upright original, (left, top, right, bottom) in its pixels
    passes: network rows behind it, shared ones and the whole images included, padding not
    threads, batch: of the network runs over masked pictures
    seed: of the masks; None where a plan was handed in
    timings: seconds: `prepare` (shared by every explanation of the query) and `explain`
    notes: what a reader should know
    """

    similarity: float
    saliency: np.ndarray
    attributes: tuple[Attribute, ...]
    query_image: np.ndarray
    reference_image: np.ndarray | None
    query_box: Box
    reference_box: Box | None
    passes: int
    seed: int | None
    method: str
    mode: str
    estimator: str
    baseline: str
    condition: str | None
    provider: str
    precision: str
    threads: int
    batch: int
    model: ModelName
    phi: tuple[float, float, float] | None
    attribute_threshold: float | None
    timings: dict[str, float]
    notes: tuple[str, ...] = ()
    opposing_attributes: tuple[Attribute, ...] = ()
    saliency_error: np.ndarray | None = None
    saliency_reliability: float | None = None
    reference_saliency: np.ndarray | None = None
    reference_saliency_error: np.ndarray | None = None
    reference_saliency_reliability: float | None = None
    correspondence: np.ndarray | None = None
    correspondence_reliability: float | None = None

    @property
    def opposing(self) -> np.ndarray:
        """(H, W) float32, 0 or more: by how much showing a pixel does less for the similarity than the mean pixel does.

        max(0, mean(saliency) - saliency), the negative part of the centred map, in the map's units: regions that lower the
        similarity below what the picture gives on average. 0 everywhere for a constant map.
        """
        return opposing(self.saliency)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, ready for JSON."""
        fields = {k: v for k, v in vars(self).items() if k not in ARRAYS}
        fields["model"] = dataclasses.asdict(self.model)
        for words in WORDS:
            fields[words] = [{k: v for k, v in vars(a).items() if k != "map"} for a in getattr(self, words)]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write .png (picture), .html (page), .json (numbers) or .npz (everything, see `load`), by suffix.

        Raises OutputError for another suffix or where the file cannot be written.
        """
        target = Path(path)
        suffix = checked_suffix(target)
        if suffix == ".png":
            from engine.picture import png  # noqa: PLC0415 - drawing is not needed to compute

            content = png(self)
        elif suffix == ".html":
            from engine.page import page  # noqa: PLC0415 - as above

            content = page([self]).encode()
        elif suffix == ".json":
            content = (json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n").encode()
        else:
            content = self._npz()
        write_whole(target, content)

    def _npz(self) -> bytes:
        arrays: dict[str, Any] = {k: getattr(self, k) for k in ARRAYS if getattr(self, k) is not None}
        maps = {_map_name(words, i): a.map for words in WORDS for i, a in enumerate(getattr(self, words))}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, fields=np.array(json.dumps(self.to_dict())), **arrays, **maps)
        return buffer.getvalue()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Explanation":
        """Read what `save` wrote as .npz. Raises OutputError where it is not that."""
        try:
            with np.load(path, allow_pickle=False) as data:
                fields = json.loads(str(data["fields"]))
                arrays: dict[str, Any] = {k: data.get(k) for k in ARRAYS}
                for words in WORDS:
                    found = fields.pop(words, ())  # older files have no opposing ones
                    arrays[words] = tuple(Attribute(**a, map=data[_map_name(words, i)]) for i, a in enumerate(found))
            for name in ("query_box", "reference_box", "phi", "notes"):
                fields[name] = fields[name] if fields[name] is None else tuple(fields[name])
            fields["model"] = ModelName(**fields["model"])
            return cls(**fields, **arrays)
        except Exception as error:  # numpy and zlib raise almost anything on a broken archive
            raise OutputError(f"{path} is not a saved explanation ({error})") from error

    def _repr_html_(self) -> str:
        """In notebooks: the picture."""
        from engine.page import figure  # noqa: PLC0415 - as in `save`

        return figure(self)


def _map_name(words: str, index: int) -> str:
    """Of an attribute's map in .npz."""
    return f"{words.removesuffix('s')}_map_{index}"


def checked_suffix(path: Path) -> str:
    """The suffix, in lower case; raises OutputError where none of the formats has it."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(f"cannot write {path}: the name must end in one of {', '.join(SUFFIXES)}")
    return suffix
