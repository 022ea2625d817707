"""What comes from outside an index: references that are no rows, and queries that are prepared now."""

from collections.abc import Sequence

import numpy as np

from engine.assemble import Naming
from engine.attributes.of_both import KnownAttributes
from engine.attributes.ranking import area_means
from engine.index.explaining import Others, RowExplainer, ShownPicture
from engine.index.stored_explanation import StoredExplanation
from engine.index.table import ReadRows
from engine.model import LoadedModel
from engine.prepared import Prepared
from engine.protocol import PAIR
from engine.reference_vectors import ReferenceLike
from engine.references import References

ROW_IS_QUERY = (
    "the embedding that was asked about cannot be masked: the masked picture is the row's, the query of this explanation"
)


def from_outside(model: LoadedModel, references: Sequence[ReferenceLike]) -> Others:
    """Return references that are pictures or embeddings, none of which gets a map. Raises ImageError, OptionError."""
    found = References.embedded(model, references)
    sides = [None if p is None else ShownPicture(p.pixels, p.box, p.original_size) for p in found.pictures]
    known = None if model.bundle.attributes is None else found.known_attributes(model)
    return Others(found.embeddings, sides, known, None)


def explain_outside(
    rows: RowExplainer, query: Prepared, others: Others, naming: Naming, rival: Others | None
) -> list[StoredExplanation]:
    """Return an explanation of a prepared picture against each reference: its maps are from its passes, those of rows from
    the index. rival: the one of "rather than", if there is one
    """
    conditions = [rows.condition] * len(others.sides)
    found = query.explain_whole(_references(others), conditions, naming, None if rival is None else _references(rival))
    mapped = others.rows if rival is None else None
    back = [None] * len(found) if mapped is None else rows.reverse(mapped, query.whole[None])
    explained = []
    for i, (explanation, other) in enumerate(zip(found, back, strict=True)):
        fields = {**vars(explanation), **others.side_fields("reference", i)}
        if rival is not None:
            fields |= rival.side_fields("rather_than", 0)
        if rows.algebra.size != query.picture.size:
            fields["saliency"] = area_means(explanation.saliency[None], *rows.algebra.size)[0]
        if mapped is not None and other is not None:
            fields |= {
                "mode": PAIR,
                "reference_saliency": other.saliency,
                "reference_saliency_error": other.error,
                "reference_saliency_reliability": other.reliability,
                "passes": explanation.passes + mapped.records["passes"][i].item(),
                "links": None,  # nothing is known of the halves of the row's masks
                "notes": (*explanation.notes, rows.note),
            }
        explained.append(StoredExplanation(**fields))
    return explained


def explain_of_embedding(rows: RowExplainer, vector: np.ndarray, read: ReadRows, naming: Naming) -> list[StoredExplanation]:
    """Return why each row matches an embedding (D,): the row is the query of its explanation, and a note says so."""
    other = from_outside(rows.model, [vector])
    found = [rows.explain(read.part(slice(i, i + 1)), other, naming)[0] for i in range(len(read.places))]
    return [StoredExplanation(**{**vars(one), "notes": (ROW_IS_QUERY, *one.notes)}) for one in found]


def _references(others: Others) -> References:
    known: KnownAttributes | None = others.known
    handed: list[np.ndarray | None] = [None] * len(others.sides)
    if known is not None:
        handed = [None if np.isnan(row).any() else row for row in known.confidences]
    return References([None] * len(others.sides), others.embeddings, handed)
