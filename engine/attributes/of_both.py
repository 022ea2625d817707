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
    maps: of each reference (A, h, w) float32, activation maps; None where no attribute network saw it
    """

    confidences: np.ndarray
    maps: Sequence[np.ndarray | None]


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
    found = []
    for row, theirs in enumerate(known.confidences):
        named = _Namer(table, query, agreement[row], top)
        if np.isnan(theirs).any():
            found.append(RankedAttributes(named(ours, None), against[row], note=NOT_KNOWN))
            continue
        elsewhere = known.maps[row]
        found.append(
            RankedAttributes(
                named(every[row], theirs),
                against[row],
                named(here[row], theirs),
                named(there[row], theirs, (None,) * len(ours) if elsewhere is None else elsewhere),
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
    found = []
    for row, theirs in enumerate(known.confidences):
        if np.isnan(theirs).any() or np.isnan(others).any():
            found.append(RankedAttributes(note=NOT_TOLD))
            continue
        named = _Namer(table, query, agreement[row], top)
        here = only_probability(joint_probability(ours, theirs, table.joint), others)
        there = only_probability(joint_probability(ours, others, table.joint), theirs)
        found.append(RankedAttributes(named(here, theirs), for_other=named(there, others)))
    return found


class _Namer:
    """Makes the attributes of one map. agreement: (A,), of each attribute with it."""

    def __init__(self, table: AttributeTable, query: Activations, agreement: np.ndarray, top: int | None) -> None:
        self._table, self._query, self._agreement, self._top = table, query, agreement, top
        self._prior = prior_of(table)

    def __call__(
        self, scores: np.ndarray, theirs: np.ndarray | None, maps: Sequence[np.ndarray | None] | np.ndarray | None = None
    ) -> tuple[Attribute, ...]:
        """Return those whose scores (A,) reach the threshold, best first; equal ones in the order of the table.

        theirs: (A,), the reference's confidences; None: not known; maps: (A, h, w) of the attributes; None: the query's
        """
        maps = self._query.maps if maps is None else maps
        return tuple(
            Attribute(
                self._table.names[i],
                float(scores[i]),
                float(self._query.confidences[i]),
                float(self._agreement[i]),
                float(self._prior[i]),
                maps[i],
                None if theirs is None else float(theirs[i]),
            )
            for i in best_first(scores, scores >= self._table.threshold, self._top)
        )
