"""The time of ranking a thousand attributes against all references of a query, and of fitting probes to labels."""

from typing import Any

import numpy as np
import pytest

from benchmarks.conftest import Size
from benchmarks.measure import seconds, take_turns
from benchmarks.record import Rows
from engine.attributes.of_both import KnownAttributes, rank_of_both
from engine.attributes.ranking import Activations
from engine.attributes.table import AttributeTable
from export.logistic import cross_fit

REFERENCES, ATTRIBUTES, CELLS, SIDE, TOP = 100, 1000, 4, 64, 5
PICTURES, FITTED = 1500, 60
JOINT = (0.7, 0.5, 0.0)
REPEATS = 20
SEED = 0


def test_rank_of_both(benchmark: Any, rows: Rows, size: Size) -> None:
    """Named attributes of every reference, from confidences as networks give them: few are likely."""
    random = np.random.default_rng(SEED)
    names = tuple(f"attribute {i}" for i in range(ATTRIBUTES))
    table = AttributeTable(names, "sigmoid", np.zeros(ATTRIBUTES, np.float32), threshold=0.5, joint=JOINT)
    maps = Activations.of(table, random.normal(size=(ATTRIBUTES, CELLS, CELLS)).astype(np.float32)).maps
    seen = Activations(random.beta(0.2, 4, ATTRIBUTES), maps)
    known = KnownAttributes(random.beta(0.2, 4, (REFERENCES, ATTRIBUTES)), [None] * REFERENCES)
    saliencies = random.random((REFERENCES, SIDE, SIDE)).astype(np.float32)

    def ranked(_: int) -> None:
        for _ in range(REPEATS):
            rank_of_both(table, seen, saliencies, known, TOP)

    for name, times in take_turns(benchmark, {"of both": ranked}, size.rounds).items():
        fields = {"size": SIDE, "seed": SEED, "references": REFERENCES, "attributes": ATTRIBUTES, "cells": CELLS}
        rows.add("attributes", name, "none", **fields | seconds(times, REPEATS))


@pytest.mark.parametrize("features", [64, 256, 1280])
def test_fit(benchmark: Any, rows: Rows, size: Size, features: int) -> None:
    """Probes for 60 attributes from 1,500 pictures, the penalty chosen by cross-validation, beside the passes."""
    random = np.random.default_rng(SEED)
    hidden = random.normal(size=(PICTURES, min(features, 80)))
    x = hidden @ random.normal(size=(hidden.shape[1], features)) + 0.5 * random.normal(size=(PICTURES, features))
    scores = x @ random.normal(size=(features, FITTED)) / features**0.5
    truth = scores > np.quantile(scores, 0.9, axis=0)
    groups = random.integers(0, PICTURES // 2, PICTURES)
    for name, times in take_turns(benchmark, {f"fit {features}": lambda _: cross_fit(x, truth, groups, SEED)}, 1).items():
        fields = {"seed": SEED, "pictures": PICTURES, "attributes": FITTED, "features": features}
        rows.add("attributes", name, "none", **fields | seconds(times, 1))
