"""Which regions of two masked pictures match: the fields of an explanation that say so."""

from typing import Any

import numpy as np

from engine.methods.rise import RisePlan
from engine.passed import PassedPicture
from engine.saliency.correspondence import correspondence, split_half_reliability
from engine.saliency.flatness import require_held
from engine.saliency.geometry import TILES
from engine.saliency.links import Effects, find_links
from engine.saliency.map_fits import published_tile_effects


def matched_fields(query: PassedPicture, reference: PassedPicture, condition: int | None) -> dict[str, Any]:
    """Return correspondence, its reliability and the links; {} unless RISE or tokens masked both pictures."""
    if any(p.fits is None and not isinstance(p.plan, RisePlan) for p in (query, reference)):
        return {}
    model = query.model
    fine = query.fits is not None and reference.fits is not None
    masked = model.query_features(query.embeddings, condition), model.reference_features(reference.embeddings, condition)
    q, r = _tile_effects(query, masked[0], fine), _tile_effects(reference, masked[1], fine)
    whole = model.query_features(query.whole[None], condition), model.reference_features(reference.whole[None], condition)
    sides = [[Effects(e, whole[i][0], masked[i].mean(0)) for e in effects] for i, effects in enumerate((q, r))]
    with np.errstate(over="ignore"):
        matched = correspondence(q[-1][0], r[-1][0])
    require_held(matched)
    return {
        "correspondence": matched,
        "correspondence_reliability": split_half_reliability(q[-1][1:], r[-1][1:]),
        "links": find_links(sides[0], sides[1], query.picture.size),
    }


def _tile_effects(picture: PassedPicture, features: np.ndarray, fine: bool) -> list[list[np.ndarray]]:
    """What showing a tile does to the features (N, F): (T, F) from all masks and from halves; the grid of the masks last.

    fine: whether finer tiles come first, where the regression knows them
    """
    plan, fits = picture.plan, picture.fits
    if fits is None:
        assert isinstance(plan, RisePlan)  # `matched_fields` looked
        return [published_tile_effects(plan.grids, plan.shifts, picture.picture.size, features)]
    return fits.effects_by_side(features, [TILES, fits.side] if fine else [fits.side])
