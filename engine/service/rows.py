"""Work with rows of the index: searches, and explanations that cost no pass where the query is a row too."""

import contextlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from engine.errors import OptionError
from engine.explanation import Explanation
from engine.index import Index, Match
from engine.methods import Method
from engine.prepared import Prepared
from engine.protocol import FIXED
from engine.rather_than import MASKED_REFERENCE
from engine.service.limits import Limits, Refused
from engine.service.pictures import PixelBudget
from engine.service.preparing import prepare_by_turns
from engine.service.resolving import Given, Loaded, NamedRow, Resolved, resolve
from engine.service.schemas import ExplainOptions, Passes, RowOptions, SearchOptions
from engine.service.tickets import Ticket

Asked = str | np.ndarray | Prepared
"""A query as the index takes it: an id, an embedding (D,) float32 or a prepared picture."""


def require_index(loaded: Loaded) -> Index:
    """Return the index. Raises Refused if there is none."""
    if loaded.index is None:
        raise Refused(404, "this service has no index: it is started with --index DIR to have one")
    return loaded.index


def search_rows(
    loaded: Loaded, limits: Limits, query: Given, how: SearchOptions, deadline: float | None, ticket: Ticket
) -> list[Match]:
    """Return the rows most similar to the query, with explanations if wanted. Raises ImageError, OptionError, Refused."""
    index = require_index(loaded)
    if how.explain and how.k > limits.references:
        raise Refused(413, f"at most {limits.references} matches are explained at once, got k = {how.k}: ask for fewer")
    asked = _query(loaded, limits, query, how.explain, deadline, ticket)
    with ticket.stage("search"):
        found = index.search(asked, how.k)
    if not how.explain:
        return found
    with ticket.stage("algebra"):
        explained = index.explain(asked, [match.id for match in found], mode=how.mode, top=how.top)
    return [Match(m.id, m.similarity, e) for m, e in zip(found, explained, strict=True)]


def annotate_rows(
    loaded: Loaded,
    limits: Limits,
    query: Given,
    ids: Sequence[str],
    how: RowOptions,
    deadline: float | None,
    ticket: Ticket,
) -> list[Explanation | None]:
    """Return why the query matches each id, in order; None where it is no row. Raises ImageError, OptionError, Refused."""
    index = require_index(loaded)
    if len(ids) > limits.references:
        raise Refused(413, f"at most {limits.references} ids are taken at once, got {len(ids)}: send several requests")
    asked = _query(loaded, limits, query, True, deadline, ticket)
    with ticket.stage("algebra"):
        return index.annotate(asked, ids, mode=how.mode, top=how.top)


def explain_rows(
    loaded: Loaded,
    query: Resolved,
    references: Sequence[Resolved],
    rival: Resolved | None,
    method: Method,
    how: ExplainOptions,
    ticket: Ticket,
) -> list[Explanation]:
    """Return an explanation for each reference, where one of those is a row, or the query is, or the rival.

    Raises ImageError, OptionError, Refused, Cancelled.
    """
    index, model = require_index(loaded), loaded.explainer.model
    own = index.settings.condition
    if how.condition is not None and model.condition_name(model.manifest.condition_index(how.condition)) != own:
        raise OptionError(f"the index is under condition {own}, not {how.condition}: leave it out, or send pictures")
    if "ranking" in how.model_fields_set and how.ranking != "joint":
        raise OptionError(f"rows are explained with ranking joint, not {how.ranking}: leave it out")
    if rival is not None and how.mode != FIXED:
        raise OptionError(MASKED_REFERENCE)
    asked = prepare_by_turns(loaded, query, method, how, ticket) if isinstance(query, Image.Image) else query
    others = [_reference(one) for one in references]
    other = None if rival is None else _reference(rival)
    some_pictures = any(isinstance(one, Image.Image) for one in (*others, other))  # which the network must see
    with ticket.network() if some_pictures else contextlib.nullcontext():
        return index.explain(_named(asked), others, mode=how.mode, top=how.top, rather_than=other)


def _query(loaded: Loaded, limits: Limits, query: Given, masked: bool, deadline: float | None, ticket: Ticket) -> Asked:
    """Return what the index takes. masked: whether passes are run over a picture, as they were over the index's."""
    with ticket.stage("decode"):
        found = resolve(loaded, PixelBudget.of(limits.pixels), query, "query")
    if not isinstance(found, Image.Image):
        return _named(found)
    if masked:
        how = Passes.model_validate({"deadline": deadline})
        return prepare_by_turns(loaded, found, require_index(loaded).settings.passes, how, ticket)
    with ticket.network(), ticket.stage("network"):
        vector: np.ndarray = loaded.explainer.embed([found])[0]
        return vector


def _named(query: np.ndarray | Prepared | NamedRow) -> Asked:
    return query.id if isinstance(query, NamedRow) else query


def _reference(one: Resolved) -> str | np.ndarray | Image.Image:
    """Return a reference as the index takes it: of a prepared picture its embedding."""
    if isinstance(one, NamedRow):
        return one.id
    return one.whole if isinstance(one, Prepared) else one
