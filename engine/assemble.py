"""Puts an explanation together: what every method says beside its maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.attributes.ranking import Activations, RankedAttributes, rank_both_ways
from engine.attributes.table import Attribute, AttributeTable
from engine.explanation import Explanation
from engine.findings import ModelName
from engine.model import LoadedModel, Picture
from engine.saliency.regression import Estimate


def rank_attributes(
    model: LoadedModel, activations: Activations | None, saliencies: Sequence[np.ndarray], top: int | None
) -> list[RankedAttributes]:
    """Attributes for each of the query's maps (H, W), all ranked at once; none where the bundle has no attribute network.

    activations: what the attribute network gave for the query; top: attributes of either kind at most
    """
    table = model.bundle.attributes
    if table is None or activations is None or not len(saliencies):
        return [RankedAttributes()] * len(saliencies)
    return rank_both_ways(table, activations, np.stack(saliencies), top)


def assemble(
    model: LoadedModel,
    query: Picture,
    reference: Picture | None,
    similarity: float,
    estimate: Estimate,
    condition: int | None,
    ranked: RankedAttributes,
    deadline_reached: bool,
    **fields: Any,
) -> Explanation:
    """One explanation.

    reference: None where its embedding was given; ranked: by the map; deadline_reached: whether a deadline ended the passes
    fields: the other fields of `Explanation`, as they are
    """
    table = model.bundle.attributes
    return Explanation(
        similarity=similarity,
        saliency=estimate.saliency,
        saliency_error=estimate.error,
        saliency_reliability=estimate.reliability,
        attributes=ranked.agreeing,
        opposing_attributes=ranked.opposing,
        query_image=query.pixels,
        query_box=query.box,
        query_size=query.original_size,
        reference_image=None if reference is None else reference.pixels,
        reference_box=None if reference is None else reference.box,
        reference_size=None if reference is None else reference.original_size,
        condition=model.condition_name(condition),
        model=ModelName(model.manifest.name, model.bundle.identity),
        phi=table.weights if table else None,
        attribute_threshold=table.threshold if table else None,
        notes=_notes(table, ranked.agreeing, deadline_reached),
        **fields,
    )


def _notes(table: AttributeTable | None, attributes: tuple[Attribute, ...], deadline_reached: bool) -> tuple[str, ...]:
    notes = ["the deadline ended the passes early: see the map's error"] if deadline_reached else []
    if table is None:
        return (*notes, "this bundle has no attribute network: no attributes")
    if not attributes:
        notes.append(f"no attribute is named: none reaches confidence {table.threshold:g}")
    if table.prior is None:
        notes.append("this bundle has no attribute prior: phi_3 counts as 0")
    return tuple(notes)
