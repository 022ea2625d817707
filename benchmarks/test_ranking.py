"""The time of ranking all attributes by the finished maps of all references of a query."""

from typing import Any

import numpy as np
import pytest

from benchmarks.conftest import Size
from benchmarks.measure import seconds, take_turns
from benchmarks.record import Rows
from engine.attributes.ranking import Activations, rank, rank_both_ways
from engine.attributes.table import AttributeTable

REFERENCES, ATTRIBUTES, CELLS = 100, 200, 7
TOP = 5
REPEATS = 20
SEED = 0


@pytest.mark.parametrize("side", [224, 64])
def test_rank(benchmark: Any, rows: Rows, size: Size, side: int) -> None:
    """The ranking as arrays, and as attribute objects for and against each reference."""
    random = np.random.default_rng(SEED)
    names = tuple(f"attribute {i}" for i in range(ATTRIBUTES))
    prior = random.random(ATTRIBUTES).astype(np.float32)
    bias = np.zeros(ATTRIBUTES, np.float32)
    table = AttributeTable(names, "sigmoid", bias, threshold=0.5, phi=(1.0, 1.0, 1.0), prior=prior)
    seen = Activations.of(table, random.normal(size=(ATTRIBUTES, CELLS, CELLS)).astype(np.float32))
    saliencies = random.random((REFERENCES, side, side)).astype(np.float32)

    def arrays(_: int) -> None:
        for _ in range(REPEATS):
            rank(table, seen, saliencies)

    def objects(_: int) -> None:
        for _ in range(REPEATS):
            rank_both_ways(table, seen, saliencies, TOP)

    for name, times in take_turns(benchmark, {"rank": arrays, "words": objects}, size.rounds).items():
        fields = {"size": side, "seed": SEED, "references": REFERENCES, "attributes": ATTRIBUTES, "cells": CELLS}
        rows.add("ranking", name, "none", **fields | seconds(times, REPEATS))
