"""Attributes of a match: true of both pictures, of one only, or of this match rather than another.

(docs/method.md, Attributes of both)
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from engine.attributes.probability import joint_probability, only_probability
from engine.attributes.ranking import Activations, RankedAttributes, best_first, match, opposing_attributes
from engine.attributes.table import Attribute, AttributeTable, prior_of

NOT_KNOWN = "the reference's attributes are not known: they are ranked by the query's alone"
NOT_TOLD = "what speaks for one reference rather than the other is not known: the attributes of both are needed"


@dataclasses.dataclass(frozen=True, eq=False)
class KnownAttributes:
    """What is known of the attributes of R references.

    confidences: (R, A) float64 in [0, 1]; a row of NaN for a reference of which nothing is known
    maps: of each reference its A activation maps (h, w) float32; None where no attribute network saw it
    """

    confidences: np.ndarray
    maps: Sequence[Sequence[np.ndarray | None] | np.ndarray | None]


def rank_of_both(
    table: AttributeTable, query: Activations, saliencies: np.ndarray, known: KnownAttributes, top: int | None = None
) -> list[RankedAttributes]:
    """Return what is true of the query and each of R references, and what of one of the two only.

    saliencies: (R, H, W) float, the query's maps; top: attributes of a kind at most
    Attributes whose probability reaches the table's threshold are named. Where nothing is known of a reference, the query's
    confidence stands for that probability.
    """
    agreement, ours = match(query, saliencies), query.confidences
    against = opposing_attributes(table, query, saliencies, agreement, top)
    every = joint_probability(ours, known.confidences, table.joint)  # (R, A)
    here, there = only_probability(ours, known.confidences), only_probability(known.confidences, ours)
    namer, found = _Namer(table, query, top), []
    for row, theirs in enumerate(known.confidences):
        own = agreement[row]
        if np.isnan(theirs).any():
            found.append(RankedAttributes(namer.named(ours, own, None), against[row], note=NOT_KNOWN))
            continue
        elsewhere = known.maps[row]
        found.append(
            RankedAttributes(
                namer.named(every[row], own, theirs),
                against[row],
                namer.named(here[row], own, theirs),
                namer.named(there[row], own, theirs, (None,) * len(ours) if elsewhere is None else elsewhere),
            )
        )
    return found


def rank_rather_than(
    table: AttributeTable,
    query: Activations,
    saliencies: np.ndarray,
    known: KnownAttributes,
    other: KnownAttributes,
    top: int | None = None,
) -> list[RankedAttributes]:
    """Return what is true of the query and each of R references and not of `other`, one more reference; and the reverse.

    saliencies: (R, H, W) float, maps of the similarity to the reference less that to `other`; top: as in `rank_of_both`
    """
    agreement, ours, (others,) = match(query, saliencies), query.confidences, other.confidences
    namer, found = _Namer(table, query, top), []
    for row, theirs in enumerate(known.confidences):
        if np.isnan(theirs).any() or np.isnan(others).any():
            found.append(RankedAttributes(note=NOT_TOLD))
            continue
        here = only_probability(joint_probability(ours, theirs, table.joint), others)
        there = only_probability(joint_probability(ours, others, table.joint), theirs)
        found.append(
            RankedAttributes(namer.named(here, agreement[row], theirs), for_other=namer.named(there, agreement[row], others))
        )
    return found


class _Namer:
    """Makes attributes of one query."""

    def __init__(self, table: AttributeTable, query: Activations, top: int | None) -> None:
        self._names, self._threshold, self._top = table.names, table.threshold, top
        self._maps, self._confidences, self._prior = query.maps, query.confidences.tolist(), prior_of(table).tolist()

    def named(
        self,
        scores: np.ndarray,
        agreement: np.ndarray,
        theirs: np.ndarray | None,
        maps: Sequence[np.ndarray | None] | np.ndarray | None = None,
    ) -> tuple[Attribute, ...]:
        """Return those whose scores (A,) reach the threshold, best first; equal ones in the order of the table.

        agreement: (A,), of each attribute with the map; theirs: (A,), the reference's confidences; None: not known
        maps: (A, h, w) of the attributes; None: the query's
        """
        maps = self._maps if maps is None else maps
        return tuple(
            Attribute(
                self._names[i],
                scores.item(i),
                self._confidences[i],
                agreement.item(i),
                self._prior[i],
                maps[i],
                None if theirs is None else theirs.item(i),
            )
            for i in best_first(scores, scores >= self._threshold, self._top)
        )
