"""What a sanity check asks, the bound of each verdict, and what its figures say (docs/method.md, Sanity checks)."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.evaluate.bootstrap import CONFIDENCE, RESAMPLES, Interval, bootstrap
from engine.evaluate.sanity_figures import (
    IMPUTED,
    NOISE_CHECK,
    PAINTED,
    PLANTED_CHECK,
    REFERENCE_CHECK,
    REMOVAL_CHECK,
    SEEDS_CHECK,
    WEIGHTS_CHECK,
    MethodFigures,
)
from engine.saliency.steadiness import FAIRLY_STEADY

PASSES, FAILS, UNTOLD = "passes", "does not pass", "cannot be told"
LEFT_BY_SHUFFLING = 0.5
"""Rank correlation below which two maps share less than a quarter of the variance of their ranks."""


@dataclasses.dataclass(frozen=True)
class Criterion:
    """A check passes if the whole interval of a figure is on one side of a bound.

    label: of the figure; None: the check's last one; above: whether it must be above the bound; says: with {} for the figure
    """

    label: str | None
    bound: float
    above: bool
    says: str

    def verdict(self, value: Interval) -> str:
        """Return one of PASSES, FAILS and UNTOLD."""
        if not math.isfinite(value.mean):
            return UNTOLD
        return PASSES if (value.low > self.bound if self.above else value.high < self.bound) else FAILS


@dataclasses.dataclass(frozen=True)
class Check:
    """One check. title, asks: for people; criteria: all must be met"""

    name: str
    title: str
    asks: str
    criteria: tuple[Criterion, ...]

    def bounds(self) -> str:
        """Return in words what it takes to pass; all criteria of a check have the same bound."""
        return f"{'above' if self.criteria[0].above else 'below'} {self.criteria[0].bound:g}"


_SAME = f"Maps with a rank correlation of {FAIRLY_STEADY:g} or more count as one map."
SANITY_CHECKS = (
    Check(
        WEIGHTS_CHECK,
        "Do the weights matter?",
        "The network's weights are shuffled layer by layer, from the output backwards; the masks stay. The figure is how "
        "much of the map's ranking is left, either way up: the absolute rank correlation with the true map, 0 if the new "
        "map is flat.",
        (
            Criterion(
                None,
                LEFT_BY_SHUFFLING,
                False,
                "With all layers shuffled, a rank correlation of {} is left with the true map.",
            ),
        ),
    ),
    Check(
        REFERENCE_CHECK,
        "Does the reference matter?",
        "The same query is explained against references of other pairs, and against itself, from the same passes. " + _SAME,
        (
            Criterion(
                "rank correlation with maps for other references",
                FAIRLY_STEADY,
                False,
                "The map for one reference and those for others have a rank correlation of {}.",
            ),
        ),
    ),
    Check(
        NOISE_CHECK,
        "Is it stable under small noise?",
        "Normal noise of 2% of the range is added to the query; the masks stay. " + _SAME,
        (Criterion("rank correlation", FAIRLY_STEADY, True, "With the noise, the map keeps a rank correlation of {}."),),
    ),
    Check(
        SEEDS_CHECK,
        "Is it stable over seeds?",
        "The map is made again with other random numbers. A method that draws nothing has 1. " + _SAME,
        (Criterion("rank correlation", FAIRLY_STEADY, True, "Another seed gives a map with a rank correlation of {}."),),
    ),
    Check(
        REMOVAL_CHECK,
        "Do the marked pixels carry the similarity?",
        "10% to 90% of the pixels are removed, those that raise the similarity most first, or those that lower it most "
        "first: painted in the mean colour, or imputed from their neighbours. The figures are mean similarities. Deletion "
        "in one order is insertion in the other, read backwards.",
        tuple(
            Criterion(
                f"{removal}: lowering first minus raising first",
                0.0,
                True,
                f"With {text}, the similarity falls further if the raising ones go first, by {{}}.",
            )
            for removal, text in ((PAINTED, "removed pixels painted over"), (IMPUTED, "removed pixels imputed"))
        ),
    ),
    Check(
        PLANTED_CHECK,
        "Does it find a planted region?",
        "The middle of the reference is pasted into the query of another pair, at a random place. Only pairs count whose "
        "similarity rises by it. By chance the AUROC is 0.5, mass over area 1, pointing the area of the piece, 0.2.",
        (Criterion("AUROC", 0.5, True, "A pixel of the planted piece is above one outside with a probability of {}."),),
    ),
)


def sanity_report(settings: dict[str, Any], found: Sequence[MethodFigures], clusters: np.ndarray) -> dict[str, Any]:
    """Return the report, ready for JSON. clusters: (P,) int, equal for pairs that are resampled together"""
    checks = [{"name": c.name, "title": c.title, "asks": c.asks, "bound": c.bounds()} for c in SANITY_CHECKS]
    results = [
        {"method": one.name, "checks": {check.name: _judged(check, one, clusters) for check in SANITY_CHECKS}}
        for one in found
    ]
    return {"settings": settings, "confidence": CONFIDENCE, "resamples": RESAMPLES, "checks": checks, "results": results}


def _judged(check: Check, found: MethodFigures, clusters: np.ndarray) -> dict[str, Any]:
    """Return the verdict of one check on one method, the sentences, and the figures with their intervals over pairs."""
    values = found.values(check.name)
    figures = {label: bootstrap(numbers, clusters) for label, numbers in values.items()}
    chosen = [list(figures)[-1] if c.label is None else c.label for c in check.criteria]
    verdicts = [c.verdict(figures[label]) for c, label in zip(check.criteria, chosen, strict=True)]
    verdict = next((v for v in (UNTOLD, FAILS) if v in verdicts), PASSES)
    return {
        "verdict": verdict,
        "says": [c.says.format(figures[label]) for c, label in zip(check.criteria, chosen, strict=True)],
        "pairs": int(np.isfinite(values[chosen[0]]).sum()),
        "figures": {label: interval.to_dict() for label, interval in figures.items()},
    }
