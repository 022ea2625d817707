"""Puts an explanation together: what every method says beside its maps."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.attributes.of_both import KnownAttributes, rank_of_both, rank_rather_than
from engine.attributes.ranking import Activations, RankedAttributes, rank_both_ways
from engine.attributes.table import AttributeTable
from engine.errors import OptionError
from engine.explanation import Explanation
from engine.findings import ModelName
from engine.model import LoadedModel
from engine.picture import Picture
from engine.pictures.profiles import IGNORED
from engine.protocol import require_top
from engine.references import References
from engine.saliency.flatness import OF_REFERENCE
from engine.saliency.regression import Estimate

JOINT, SANE = RANKED_BY = ("joint", "sane")


@dataclasses.dataclass(frozen=True)
class Naming:
    """How attributes are ranked, and how many are named.

    ranking: "joint": by the probability of being true of both pictures; "sane": by confidence, match and prior, as published
    top: of a kind at most; None: all that reach the bundle's threshold

    Raises OptionError.
    """

    ranking: str = JOINT
    top: int | None = None

    def __post_init__(self) -> None:
        if self.ranking not in RANKED_BY:
            raise OptionError(f"ranking must be one of {', '.join(RANKED_BY)}, got {self.ranking!r}")
        require_top(self.top)


def rank_attributes(
    model: LoadedModel,
    query: Activations | None,
    saliencies: Sequence[np.ndarray],
    references: References | Activations | None,
    naming: Naming,
    rival: References | None = None,
) -> list[RankedAttributes]:
    """Attributes for each of the query's maps (H, W), all ranked at once; none where the bundle has no attributes.

    query: what was seen of it; references: one per map, or what was seen of the only one; rival: the one of "rather than"
    """
    table = model.bundle.attributes
    if table is None or query is None or not len(saliencies) or naming.top == 0:
        return [RankedAttributes()] * len(saliencies)
    maps = np.stack(saliencies)
    if naming.ranking == SANE:
        if rival is not None:
            raise OptionError('ranking "sane" knows one reference at a time: leave out rather_than, or use ranking "joint"')
        return rank_both_ways(table, query, maps, naming.top)
    if isinstance(references, Activations):
        known = KnownAttributes(references.confidences[None], [references.maps])
    elif references is None:
        known = KnownAttributes(np.full((len(maps), len(table.names)), np.nan), [None] * len(maps))
    else:
        known = references.known_attributes(model)
    if rival is not None:
        return rank_rather_than(table, query, maps, known, rival.known_attributes(model), naming.top)
    return rank_of_both(table, query, maps, known, naming.top)


def assemble(
    model: LoadedModel,
    query: Picture,
    reference: Picture | None,
    similarity: float,
    estimate: Estimate,
    condition: int | None,
    ranked: RankedAttributes,
    naming: Naming,
    deadline_reached: bool,
    **fields: Any,
) -> Explanation:
    """One explanation.

    reference: None where its embedding was given; ranked: by `naming`; deadline_reached: whether a deadline ended the passes
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
        only_query=ranked.only_query,
        only_reference=ranked.only_reference,
        rather_than_attributes=ranked.for_other,
        query_image=query.pixels,
        query_box=query.box,
        query_size=query.original_size,
        reference_image=None if reference is None else reference.pixels,
        reference_box=None if reference is None else reference.box,
        reference_size=None if reference is None else reference.original_size,
        query_profile=query.profile,
        reference_profile=None if reference is None else reference.profile,
        condition=model.condition_name(condition),
        model=ModelName(model.manifest.name, model.bundle.identity),
        ranking=naming.ranking,
        phi=table.weights if table else None,
        joint=table.joint if table and naming.ranking == JOINT else None,
        attribute_threshold=table.threshold if table else None,
        notes=(
            *((estimate.note,) if estimate.note else ()),
            *notes_of(table, ranked, naming, deadline_reached),
            *_profile_notes(model, query, reference),
        ),
        **fields,
    )


def with_reference_map(explanation: Explanation, other: Explanation, mode: str) -> Explanation:
    """The same, with the map of `other`, which explains the reference against the query."""
    return dataclasses.replace(
        explanation,
        mode=mode,
        reference_saliency=other.saliency,
        reference_saliency_error=other.saliency_error,
        reference_saliency_reliability=other.saliency_reliability,
        passes=explanation.passes + other.passes,
        notes=explanation.notes + tuple(OF_REFERENCE[note] for note in other.notes if note in OF_REFERENCE),
        timings={name: seconds + other.timings[name] for name, seconds in explanation.timings.items()},
    )


def notes_of(
    table: AttributeTable | None, ranked: RankedAttributes, naming: Naming, deadline_reached: bool = False
) -> tuple[str, ...]:
    """What a reader of an explanation should know. deadline_reached: whether a deadline ended the passes"""
    notes = ["the deadline ended the passes early: see the map's error"] if deadline_reached else []
    if table is None:
        return (*notes, "this bundle has no attributes: `python -m export attributes` adds them")
    if ranked.note:
        notes.append(ranked.note)
    elif not ranked.agreeing and naming.top != 0:
        wanted = "confidence" if naming.ranking == SANE else "a probability of"
        notes.append(f"no attribute is named: none reaches {wanted} {table.threshold:g}")
    if table.prior is None and naming.ranking == SANE:
        notes.append("this bundle has no attribute prior: phi_3 counts as 0")
    return tuple(notes)


def _profile_notes(model: LoadedModel, query: Picture, reference: Picture | None) -> list[str]:
    """Say which pictures have colours that were not taken for what they are."""
    advice = "" if model.reading.apply_profiles else ": apply_profiles (--apply-profiles) converts its colours to sRGB"
    notes = []
    for which, picture in (("query", query), ("reference", reference)):
        name, _, fate = ((picture and picture.profile) or "").rpartition(", ")
        if fate == IGNORED:
            notes.append(f"the colour profile of the {which} ({name}) was ignored{advice}")
    return notes
