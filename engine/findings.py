"""What was found out about one pair, as plain data: everything that is saved, drawn or shown."""

import dataclasses
from typing import Any

import numpy as np

from engine.attributes.ranking import opposing
from engine.attributes.table import Attribute
from engine.pictures.preprocessing import Box
from engine.saliency.links import Link
from engine.terminal import printable

ATTRIBUTE_LISTS = ("attributes", "opposing_attributes", "only_query", "only_reference", "rather_than_attributes")
ARRAYS = (
    *("saliency", "saliency_error", "reference_saliency", "reference_saliency_error"),
    *("correspondence", "query_image", "reference_image", "rather_than_image"),
)

LONGEST_NAME = 40
"""Characters of a name that `repr` shows."""


@dataclasses.dataclass(frozen=True)
class ModelName:
    """identity: sha256 over similarity graph, preprocessing, metric and conditions"""

    name: str
    identity: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Findings:
    """What was found out about one query and one reference.

    similarity: of the two whole pictures, by the model's metric
    saliency: (H, W) float32 over the query as the network saw it. Estimator "regression": by how much the expected
        similarity rises where a pixel is shown, independent of the number of masks. "sane": the paper's raw map, which
        grows with the number of masks and is nearly constant for a cosine: only its shape means anything
    saliency_error: (16, 16) float32, standard errors of the saliency's means over as many tiles; None where nothing tells
        them ("sane", fewer than 32 masks)
    saliency_reliability: estimated correlation of the saliency with its limit for infinitely many masks; None likewise
    reference_saliency: (H, W) float32 over the reference, with error and reliability as above; None in mode "fixed"
    correspondence: (T, T) float32 in modes "pair" and "both" with RISE plans: how well tiles match, query by reference,
        row-major on the grid of the masks
    correspondence_reliability: correlation of what two halves of the masks say; None for too few masks
    links: regions that match, strongest first, by tiles at least as fine as the correspondence's; none where none matches
        reliably; None in files of older versions
    attributes: best first, those that reach `attribute_threshold` (the `top` of them, where that was asked for). Ranking
        "joint": with the probability of being true of both pictures; "sane": with their confidence, ranked by phi
    only_query, only_reference: best first, attributes that are true of one picture and not of the other, with that
        probability; none where nothing is known of the reference, in ranking "sane" and in answers to "rather than"
    opposing_attributes: best first, attributes of the regions that lower the similarity: ranked by phi and confidence, where
        `match` is with `opposing`; only those that match it, and the saliency negatively. A confident attribute may stand in
        both lists: the sign of its match says on which side it is
    ranking: "joint" or "sane"; phi: the weights of confidence, match and prior
    joint: the parameters of the joint probability; None if it is the product of the two confidences
    rather_than_similarity: of the query to the reference that this one is told from ("rather than"); None if there is none.
        If there is, saliency is the map of the difference of the two similarities; `attributes` are true of the query and
        the reference and not of that one, and `rather_than_attributes` the reverse
    query_image, reference_image, rather_than_image: (H, W, 3) uint8 as the network saw them (None: given as an embedding)
    query_box, reference_box, rather_than_box: that part of the upright original, (left, top, right, bottom) in its pixels
    query_size, reference_size, rather_than_size: (width, height) of the upright original in pixels; None in files of older
        versions, and for a reference given as an embedding
    query_profile, reference_profile, rather_than_profile: the colour profile of a picture if that is not sRGB, and whether
        colours were converted ("Display P3, applied") or taken as they are ("Display P3, ignored"); else None
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
    links: tuple[Link, ...] | None = ()
    query_size: tuple[int, int] | None = None
    reference_size: tuple[int, int] | None = None
    ranking: str = "sane"
    joint: tuple[float, float, float] | None = None
    only_query: tuple[Attribute, ...] = ()
    only_reference: tuple[Attribute, ...] = ()
    rather_than_similarity: float | None = None
    rather_than_attributes: tuple[Attribute, ...] = ()
    rather_than_image: np.ndarray | None = None
    rather_than_box: Box | None = None
    rather_than_size: tuple[int, int] | None = None
    query_profile: str | None = None
    reference_profile: str | None = None
    rather_than_profile: str | None = None

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
        if self.links is not None:
            fields["links"] = [{k: list(v) if isinstance(v, tuple) else v for k, v in vars(a).items()} for a in self.links]
        for kind in ATTRIBUTE_LISTS:
            fields[kind] = [{k: v for k, v in vars(a).items() if k != "map"} for a in getattr(self, kind)]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    def __repr__(self) -> str:
        named = ", ".join(_clipped(a.name) for a in self.attributes[:3]) or "no attributes"
        height, width = self.saliency.shape
        return printable(
            f"<{type(self).__name__}: similarity {self.similarity:.3f}, {named}; {self.method}, {self.mode}, "
            f"{height} x {width}, {self.passes} passes, {_clipped(self.model.name)}>"
        )


def _clipped(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}\u2026"
