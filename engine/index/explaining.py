"""Explanations of rows: the fields of each, from stored operators, confidences and activation maps."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.assemble import Naming, notes_of
from engine.attributes.of_both import KnownAttributes, rank_of_both, rank_rather_than
from engine.attributes.ranking import Activations, RankedAttributes
from engine.findings import ModelName
from engine.index.algebra import MapAlgebra
from engine.index.codec import OperatorCodec
from engine.index.rows import MapsOnDemand, confidences_of, unpacked_maps
from engine.index.settings import IndexSettings
from engine.index.stored_explanation import ReadLater, StoredExplanation, picture_reader
from engine.index.table import LanceTable, ReadRows
from engine.methods.rise import Rise
from engine.model import LoadedModel
from engine.pictures.preprocessing import LARGEST_SIDE, Box
from engine.protocol import FIXED, PAIR, require_whole
from engine.rather_than import told_apart
from engine.saliency.designs import TOKEN_SIDE
from engine.saliency.regression import Estimate


@dataclasses.dataclass(frozen=True, eq=False)
class ShownPicture:
    """A picture of an explanation. image: (H, W, 3) uint8, or what reads it; box, size: see `engine.findings.Findings`"""

    image: np.ndarray | ReadLater
    box: Box
    size: tuple[int, int] | None

    def fields(self, which: str) -> dict[str, Any]:
        """Return the fields of an explanation. which: query, reference or rather_than"""
        return {f"{which}_image": self.image, f"{which}_box": self.box, f"{which}_size": self.size}


@dataclasses.dataclass(frozen=True, eq=False)
class Others:
    """R references.

    embeddings: (R, D) float32; sides: their pictures, None for embeddings from outside
    known: their attributes, None where the bundle has none; rows: where they are rows that are mapped too, those rows
    """

    embeddings: np.ndarray
    sides: Sequence[ShownPicture | None]
    known: KnownAttributes | None
    rows: ReadRows | None

    def side_fields(self, which: str, i: int) -> dict[str, Any]:
        """Return the fields about the picture of reference i, if there is one."""
        side = self.sides[i]
        return {} if side is None else side.fields(which)


@dataclasses.dataclass(frozen=True, eq=False)
class RowExplainer:
    """Explains rows of an index. condition: the index of the settings' condition"""

    model: LoadedModel
    table: LanceTable
    settings: IndexSettings
    algebra: MapAlgebra
    condition: int | None

    def others(self, rows: ReadRows, mapped: bool) -> Others:
        """Return references that are rows. mapped: whether they get maps too"""
        known = None
        if self.settings.names:
            known = KnownAttributes(confidences_of(rows.records), [self._maps(packed) for packed in rows.maps])
        sides = self.sides(rows)
        return Others(rows.embeddings, sides, known, rows if mapped else None)

    def explain(
        self, query: ReadRows, others: Others, naming: Naming, rival: Others | None = None, *, match_regions: bool = False
    ) -> list[StoredExplanation]:
        """Return an explanation of the one query row against each reference.

        rival: the one of "rather than"; match_regions: add the correspondence with references that are mapped
        """
        began = time.perf_counter()
        features = self.model.reference_features(others.embeddings, self.condition)
        own = self.model.query_features(query.embeddings, self.condition)[0]
        similarities, rival_fields = (features @ own).tolist(), {}
        if rival is not None:
            theirs = self.model.reference_features(rival.embeddings, self.condition)
            rival_fields = {"rather_than_similarity": (theirs @ own).item(), **rival.side_fields("rather_than", 0)}
            features = told_apart(features, theirs)
        coefficients = self.algebra.coefficients(query.records, features)
        mine = self.algebra.estimates(np.broadcast_to(query.records, len(features)), features, coefficients)
        ranked = self._ranked(query, coefficients, others, naming, rival)
        rows = others.rows if rival is None else None
        back: Sequence[Estimate | None] = [None] * len(mine) if rows is None else self.reverse(rows, query.embeddings)
        seconds = (time.perf_counter() - began) / max(len(mine), 1)
        shared = {
            **self.sides(query)[0].fields("query"),
            **rival_fields,
            "timings": {"prepare": query.records["seconds"].item(), "explain": seconds},
        }
        found = []
        for i, (estimate, other) in enumerate(zip(mine, back, strict=True)):
            extra = {"reference_image": None, "reference_box": None, **others.side_fields("reference", i)}
            extra["passes"] = query.records["passes"].item() + (0 if rows is None else rows.records["passes"][i].item())
            if match_regions and rows is not None:
                extra["correspondence"] = self.algebra.correspondence(query.records[0], rows.records[i])
            found.append(self._one(similarities[i], estimate, other, ranked[i], naming, shared | extra))
        return found

    def reverse(self, rows: ReadRows, embedding: np.ndarray) -> list[Estimate]:
        """Return the map of each row against an embedding (1, D) float32."""
        features = self.model.reference_features(embedding, self.condition)
        coefficients = self.algebra.coefficients(rows.records, features)
        return self.algebra.estimates(
            rows.records, np.broadcast_to(features, (len(rows.places), features.shape[1])), coefficients
        )

    def sides(self, rows: ReadRows) -> list[ShownPicture]:
        """Return the pictures of rows, to be read later."""
        found, boxes, sizes = [], rows.records["box"].tolist(), rows.records["size"].tolist()
        for place, (left, top, right, bottom), (width, height) in zip(rows.places, boxes, sizes, strict=True):
            image = picture_reader(self.model, self.table, place)
            found.append(ShownPicture(image, (left, top, right, bottom), (width, height)))
        return found

    @functools.cached_property
    def note(self) -> str:
        """What a reader should know of every map that an index makes."""
        measured = f"correlation with those of the passes: {self.settings.fidelity}"
        return f"from an index, whose maps are compressed; {measured}"

    def _maps(self, packed: bytes) -> MapsOnDemand:
        return MapsOnDemand(packed, self.settings.names, self.settings.cells)

    def _ranked(
        self, query: ReadRows, coefficients: np.ndarray, others: Others, naming: Naming, rival: Others | None
    ) -> list[RankedAttributes]:
        table = self.model.bundle.attributes
        if table is None or others.known is None or naming.top == 0:
            return [RankedAttributes()] * len(coefficients)
        maps = self.algebra.ranked.maps(coefficients)
        seen = Activations(
            confidences_of(query.records)[0], unpacked_maps(query.maps[0], self.settings.names, self.settings.cells)
        )
        if rival is not None and rival.known is not None:
            return rank_rather_than(table, seen, maps, others.known, rival.known, naming.top)
        return rank_of_both(table, seen, maps, others.known, naming.top)

    def _one(
        self,
        similarity: float,
        mine: Estimate,
        theirs: Estimate | None,
        ranked: RankedAttributes,
        naming: Naming,
        fields: dict[str, Any],
    ) -> StoredExplanation:
        table, model, settings = self.model.bundle.attributes, self.model, self.settings
        return StoredExplanation(
            similarity=similarity,
            saliency=mine.saliency,
            saliency_error=mine.error,
            saliency_reliability=mine.reliability,
            reference_saliency=None if theirs is None else theirs.saliency,
            reference_saliency_error=None if theirs is None else theirs.error,
            reference_saliency_reliability=None if theirs is None else theirs.reliability,
            attributes=ranked.agreeing,
            opposing_attributes=ranked.opposing,
            only_query=ranked.only_query,
            only_reference=ranked.only_reference,
            rather_than_attributes=ranked.for_other,
            links=None,  # nothing is known of the halves of the masks
            seed=settings.passes.seed,
            method=settings.passes.name,
            mode=FIXED if theirs is None else PAIR,
            estimator="regression",
            baseline=settings.passes.baseline,
            condition=settings.condition,
            provider=settings.provider,
            precision=settings.precision,
            threads=model.run_settings.threads,
            batch=model.run_settings.batch,
            model=ModelName(model.manifest.name, model.bundle.identity),
            phi=table.weights if table else None,
            attribute_threshold=table.threshold if table else None,
            notes=(*notes_of(table, ranked, naming), self.note),
            ranking=naming.ranking,
            joint=table.joint if table else None,
            **fields,
        )


class SizedExplainers:
    """The explainers of one index, by the size of their maps."""

    def __init__(
        self, model: LoadedModel, table: LanceTable, settings: IndexSettings, codec: OperatorCodec, condition: int | None
    ) -> None:
        """condition: see `RowExplainer`"""
        self._model, self._table, self._settings, self._codec, self._condition = model, table, settings, codec, condition
        self._made: dict[tuple[int, int], RowExplainer] = {}

    def at(self, side: int | None) -> RowExplainer:
        """Return the one with maps of side x side, None: as the network sees pictures. Raises OptionError."""
        if side is not None:
            require_whole("side", side, 1, LARGEST_SIDE)
        seen = self._model.preprocessing
        size = (seen.height, seen.width) if side is None else (side, side)
        if size not in self._made:
            passes = self._settings.passes
            tiles = passes.grid if isinstance(passes, Rise) else TOKEN_SIDE
            algebra = MapAlgebra(self._codec, size, tiles)
            self._made[size] = RowExplainer(self._model, self._table, self._settings, algebra, self._condition)
        return self._made[size]
