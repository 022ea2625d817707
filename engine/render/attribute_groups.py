"""The attributes of an explanation in the groups that a reader is shown, for pictures, pages and the command line."""

import dataclasses
from collections.abc import Sequence

from engine.attributes.table import Attribute
from engine.findings import Findings


@dataclasses.dataclass(frozen=True, eq=False)
class AttributeGroup:
    """Attributes that say the same kind of thing, best first.

    title: what they say; attributes: at least one; over: "query" or "reference", the picture that their maps lie over
    main: whether they are why the pictures match, and not what tells them apart
    """

    title: str
    attributes: Sequence[Attribute]
    over: str = "query"
    main: bool = False


def attribute_groups(explanation: Findings, top: int | None = None) -> list[AttributeGroup]:
    """Return the groups of an explanation that have any attributes, at most `top` in each; None: all."""
    e = explanation
    if e.rather_than_similarity is not None:
        groups = [
            AttributeGroup("speaks for the reference", e.attributes, main=True),
            AttributeGroup("speaks for the other", e.rather_than_attributes),
        ]
    else:
        title = "score" if e.ranking == "sane" else "in both" if _reference_known(e) else "in the query"
        groups = [
            AttributeGroup(title, e.attributes, main=True),
            AttributeGroup("only in the query", e.only_query),
            AttributeGroup("only in the reference", e.only_reference, "reference"),
        ]
    cut = [dataclasses.replace(group, attributes=group.attributes[:top]) for group in groups]
    return [group for group in cut if group.attributes]


def numbers(attribute: Attribute, has_prior: bool = False) -> str:
    """Return the parts of an attribute's score, as a line of text. has_prior: whether the bundle has a prior"""
    there = "" if attribute.reference_confidence is None else f"   reference {attribute.reference_confidence:.2f}"
    prior = f"   prior {attribute.prior:.2f}" if has_prior else ""
    return f"query {attribute.confidence:.2f}{there}   match {attribute.match:+.2f}{prior}"


def _reference_known(explanation: Findings) -> bool:
    return all(a.reference_confidence is not None for a in explanation.attributes)
