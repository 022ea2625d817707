"""The work behind a request: pictures are decoded, passes run by turns, maps made. Runs in the executor's threads."""

import dataclasses
import time
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from engine.errors import ImageError, OptionError
from engine.explanation import Explanation
from engine.methods import Method
from engine.methods.learned_mask import LearnedMask
from engine.prepared import Prepared
from engine.protocol import FIXED
from engine.rather_than import MASKED_REFERENCE
from engine.service.limits import Limits
from engine.service.pictures import PixelBudget
from engine.service.preparing import prepare_by_turns, seconds_left
from engine.service.resolving import Given, Loaded, NamedRow, Resolved, Unnamed, resolve
from engine.service.rows import explain_rows, require_index
from engine.service.schemas import ExplainOptions, Instance, Passes, PictureGiven
from engine.service.shown import explain_shown
from engine.service.tickets import Ticket

CHOSEN_PASSES = frozenset(Passes.model_fields) - {"deadline"}
"""What is decided when a picture is prepared."""
NO_ID = "method mask learns a mask for every pair: send the pictures themselves, not ids"
UNMASKED = "query is an embedding, which cannot be masked: send the picture, or the id of a prepared one"


@dataclasses.dataclass(frozen=True)
class Question:
    """A query and its references as they were sent, and how they are to be explained."""

    query: Given
    references: Sequence[Given]
    how: ExplainOptions

    @classmethod
    def of(cls, instance: Instance) -> "Question":
        """The one that an instance of JSON asks."""
        return cls(instance.query, instance.references, instance)


def embed(loaded: Loaded, limits: Limits, pictures: Sequence[PictureGiven], ticket: Ticket) -> list[list[float]]:
    """Return the embedding of each picture. Raises ImageError, OptionError, Refused."""
    budget = PixelBudget.of(limits.pixels)
    with ticket.stage("decode"):
        found = [resolve(loaded, budget, given, f"instances[{i}]") for i, given in enumerate(pictures)]
    if any(isinstance(one, np.ndarray) for one in found):
        raise ImageError("an instance of :predict is a picture, b64 or id; an embedding needs no prediction")
    seen = [one for one in found if isinstance(one, Image.Image)]
    rows = [one.id for one in found if isinstance(one, NamedRow)]
    with ticket.network(), ticket.stage("network"):
        vectors = iter(loaded.explainer.embed(seen))
    stored = iter(require_index(loaded).embeddings(rows) if rows else ())
    known = (
        one.whole if isinstance(one, Prepared) else next(stored if isinstance(one, NamedRow) else vectors) for one in found
    )
    return [vector.tolist() for vector in known]


def prepare(loaded: Loaded, limits: Limits, query: Given, how: Passes, ticket: Ticket) -> Prepared:
    """Run the passes over a picture. Raises ImageError, OptionError, Refused."""
    method = how.chosen(limits.masks)
    budget = PixelBudget.of(limits.pixels)
    with ticket.stage("decode"):
        picture = resolve(loaded, budget, query, "query")
    if not isinstance(picture, Image.Image):
        raise ImageError("only a picture can be prepared: send its file, or b64")
    return prepare_by_turns(loaded, picture, method, how, ticket)


def explain(loaded: Loaded, limits: Limits, question: Question, ticket: Ticket) -> list[Explanation]:
    """Return an explanation for each reference. Raises ImageError, OptionError, Refused, Cancelled."""
    how = question.how
    method = how.chosen(limits.masks)
    budget = PixelBudget.of(limits.pixels)
    with ticket.stage("decode"):
        query = resolve(loaded, budget, question.query, "query")
        references = [resolve(loaded, budget, r, f"references[{i}]") for i, r in enumerate(question.references)]
        rival = None if how.rather_than is None else resolve(loaded, budget, how.rather_than, "rather_than")
    unnamed = [one for one in references if not isinstance(one, (Prepared, NamedRow))]
    if isinstance(query, (Prepared, NamedRow)) or isinstance(rival, (Prepared, NamedRow)) or len(unnamed) < len(references):
        found = _by_ids(loaded, query, references, rival, method, how, ticket)
    else:
        found = _of_pictures(loaded, query, unnamed, rival, method, how, ticket)
    ticket.add("algebra", sum(e.timings["explain"] for e in found))
    return found


def refine(loaded: Loaded, limits: Limits, question: Question, ticket: Ticket) -> Iterator[Explanation]:
    """Explanations of one pair, each from more masks than the last, until the deadline or the last mask.

    Raises ImageError, OptionError, Refused, Cancelled.
    """
    how, method = question.how, question.how.chosen(limits.masks)
    if len(question.references) != 1 or how.rather_than is not None or how.tolerance is not None:
        raise OptionError("events are about one reference, without rather_than and tolerance: ask for JSON instead")
    budget = PixelBudget.of(limits.pixels)
    with ticket.stage("decode"):
        query, reference = (
            resolve(loaded, budget, given, name)
            for given, name in ((question.query, "query"), (question.references[0], "references[0]"))
        )
    if not isinstance(query, Image.Image) or isinstance(reference, (Prepared, NamedRow)):
        raise OptionError("events need a query's picture, and a picture or an embedding as the reference: not ids")
    with ticket.network():
        began, slowest = time.perf_counter(), 0.0
        for explanation in loaded.explainer.refining(
            query,
            reference,
            method,
            how.mode,
            how.condition,
            how.baseline,
            top=how.top,
            ranking=how.ranking,
            progress=ticket.progress,
        ):
            yield explanation
            slowest, began = max(slowest, time.perf_counter() - began), time.perf_counter()
            if began + slowest > ticket.until:
                return


def _of_pictures(
    loaded: Loaded,
    query: Unnamed,
    references: Sequence[Unnamed],
    rival: Unnamed | None,
    method: Method,
    how: ExplainOptions,
    ticket: Ticket,
) -> list[Explanation]:
    """Where nothing is known of the pictures yet."""
    if not isinstance(query, Image.Image):
        raise ImageError(UNMASKED)
    with ticket.network():
        return loaded.explainer.explain_many(
            query,
            references,
            method,
            how.mode,
            how.condition,
            how.baseline,
            tolerance=how.tolerance,
            deadline=seconds_left(method, how, ticket),
            top=how.top,
            ranking=how.ranking,
            rather_than=rival,
            progress=ticket.progress,
        )


def _by_ids(
    loaded: Loaded,
    query: Resolved,
    references: Sequence[Resolved],
    rival: Resolved | None,
    method: Method,
    how: ExplainOptions,
    ticket: Ticket,
) -> list[Explanation]:
    """The same where some were prepared before, or are rows of the index; what else needs passes is prepared now."""
    if isinstance(method, LearnedMask):
        raise OptionError(NO_ID)
    chosen = sorted(how.model_fields_set & CHOSEN_PASSES)
    if chosen and not isinstance(query, Image.Image):
        raise OptionError(f"{', '.join(chosen)} cannot change for a query that was prepared: leave it out, or prepare anew")
    shown = [one for one in references if not isinstance(one, NamedRow)]
    if isinstance(query, NamedRow) or isinstance(rival, NamedRow) or len(shown) < len(references):
        return explain_rows(loaded, query, references, rival, method, how, ticket)
    if isinstance(query, Image.Image):
        query = prepare_by_turns(loaded, query, method, how, ticket)
    if not isinstance(query, Prepared):
        raise ImageError(UNMASKED)
    if how.mode == FIXED:
        return explain_shown(query, shown, rival, how, ticket)
    if rival is not None:
        raise OptionError(MASKED_REFERENCE)
    others = []
    for one in shown:
        if isinstance(one, np.ndarray):
            raise ImageError(f"mode {how.mode} masks the references too: send pictures or ids, not embeddings")
        others.append(one if isinstance(one, Prepared) else prepare_by_turns(loaded, one, query.options, how, ticket))
    return query.explain_many(others, how.condition, how.top, mode=how.mode, ranking=how.ranking)
