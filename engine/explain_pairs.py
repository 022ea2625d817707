"""Models that take two pictures and give a score: the query's passes are run anew for every reference.

The score of a masked query is an embedding of one number, and the reference's factor of the similarity is 1: so plans, the
hot loop, the stopping rule and the maps are those of every other model (docs/method.md, Two-input models).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from engine.assemble import Naming, with_reference_map
from engine.errors import OptionError
from engine.explanation import Explanation
from engine.methods import Method, require_plan
from engine.model import LoadedModel
from engine.passed import PassOptions
from engine.picture import Picture
from engine.prepared import prepare_picture
from engine.protocol import BOTH, PAIR
from engine.references import References
from engine.saliency.map_fits import KnownReferences

NO_EMBEDDINGS = "this model takes both pictures at once: its references must be pictures, not embeddings"
NOT_BOTH = "this model takes both pictures at once, and masking both would cost a pass for every two masks: use mode pair"
NOTE = "this model takes both pictures at once: every reference costs all passes anew"


def explain_pairs(
    model: LoadedModel,
    query: Picture,
    references: Sequence[Picture],
    method: Method,
    mode: str,
    passes: PassOptions,
    naming: Naming,
) -> list[Explanation]:
    """One explanation per reference, in order. In mode "pair" each picture's map is against the other shown whole.

    Raises OptionError for method mask, which needs a gradient, and for mode "both".
    """
    if mode == BOTH:
        raise OptionError(NOT_BOTH)
    found, sides = [], 2 if mode == PAIR else 1
    for done, reference in enumerate(references):
        left = sides * (len(references) - done)
        explanation = _explain_side(model, query, reference, False, method, passes, left, naming)
        if mode == PAIR:
            unnamed = Naming(naming.ranking, top=0)
            other = _explain_side(model, reference, query, True, method, passes, left - 1, unnamed)
            explanation = with_reference_map(explanation, other, mode)
        found.append(explanation)
    return found


def _explain_side(
    model: LoadedModel,
    masked: Picture,
    whole: Picture,
    as_first: bool,
    method: Method,
    passes: PassOptions,
    left: int,
    naming: Naming,
) -> Explanation:
    """One picture's map against the other shown whole.

    as_first: whether the whole picture is the model's first input; left: sides still to explain, which share the time
    """
    view = model.facing(whole, as_first=as_first)
    one = np.ones((1, 1), np.float32)
    known: dict[int | None, KnownReferences] = {None: KnownReferences(one.astype(np.float64))}
    own = dataclasses.replace(passes, budget=passes.budget.share(left), known=known)
    prepared = prepare_picture(view, masked, require_plan(method), None, own)
    (explanation,) = prepared.explain_whole(References([whole], one, [None]), [None], naming)
    # the whole pictures are one row here, not two
    return dataclasses.replace(explanation, passes=explanation.passes - 1, notes=(*explanation.notes, NOTE))
