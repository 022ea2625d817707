"""A prepared query against references shown whole, some of which may be prepared pictures themselves."""

import contextlib
from collections.abc import Sequence

import numpy as np

from engine.assemble import Naming
from engine.explanation import Explanation
from engine.model import LoadedModel
from engine.prepared import Prepared
from engine.references import References
from engine.service.resolving import Unnamed
from engine.service.schemas import ExplainOptions
from engine.service.tickets import Ticket


def explain_shown(
    query: Prepared,
    references: Sequence[Unnamed | Prepared],
    rival: Unnamed | Prepared | None,
    how: ExplainOptions,
    ticket: Ticket,
) -> list[Explanation]:
    """One explanation per reference, by algebra; the network runs only for pictures. Raises ImageError, OptionError."""
    model, others = query.model, [*references, *([] if rival is None else [rival])]
    conditions = model.conditions(how.condition, len(references))
    some_pictures = any(not isinstance(one, np.ndarray) for one in others)  # whose attributes the network must see
    with ticket.network() if some_pictures else contextlib.nullcontext():
        shown = _embedded(model, references)
        other = None if rival is None else _embedded(model, [rival])
        return query.explain_whole(shown, conditions, Naming(how.ranking, how.top), other)


def _embedded(model: LoadedModel, others: Sequence[Unnamed | Prepared]) -> References:
    """References with their embeddings; those of prepared pictures are known."""
    unseen = References.embedded(model, [one for one in others if not isinstance(one, Prepared)])
    pictures, vectors = iter(unseen.pictures), iter(unseen.embeddings)
    known = [(o.picture, o.whole) if isinstance(o, Prepared) else (next(pictures), next(vectors)) for o in others]
    rows = [vector for _, vector in known]
    return References([p for p, _ in known], np.stack(rows).astype(np.float32), [None] * len(known))
