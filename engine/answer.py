"""Puts an explanation together: what every method says beside its maps."""

from typing import Any

from engine.attributes import Attribute, AttributeTable, Seen, rank
from engine.explanation import Explanation, ModelName
from engine.model import LoadedModel, Picture
from engine.regression import Estimate


def assembled(
    model: LoadedModel,
    query: Picture,
    seen: Seen | None,
    reference: Picture | None,
    similarity: float,
    estimate: Estimate,
    condition: int | None,
    top: int | None,
    late: bool,
    **fields: Any,
) -> Explanation:
    """seen: what the attribute network says of the query; reference: None where its embedding was given; late: whether a
    deadline ended the passes; fields: the others of `Explanation`, as they are
    """
    table = model.bundle.attributes
    attributes = rank(table, seen, estimate.saliency, top) if table and seen else ()
    return Explanation(
        similarity=similarity,
        saliency=estimate.saliency,
        saliency_error=estimate.error,
        saliency_reliability=estimate.reliability,
        attributes=attributes,
        query_image=query.pixels,
        query_box=query.box,
        reference_image=None if reference is None else reference.pixels,
        reference_box=None if reference is None else reference.box,
        condition=model.condition_name(condition),
        model=ModelName(model.manifest.name, model.bundle.identity),
        phi=table.weights if table else None,
        attribute_threshold=table.threshold if table else None,
        notes=_notes(table, attributes, late),
        **fields,
    )


def _notes(table: AttributeTable | None, attributes: tuple[Attribute, ...], late: bool) -> tuple[str, ...]:
    notes = ["the deadline ended the passes early: see the map's error"] if late else []
    if table is None:
        return (*notes, "this bundle has no attribute network: no words")
    if not attributes:
        notes.append(f"no attribute is named: none reaches confidence {table.threshold:g}")
    if table.prior is None:
        notes.append("this bundle has no attribute prior: phi_3 counts as 0")
    return tuple(notes)
