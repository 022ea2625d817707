"""Correlation of maps with an independent map of 8000 masks (mode "both": 8000 x 1000), fp32, published estimator."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks import maps
from benchmarks.conftest import Size, Subject, Subjects
from benchmarks.maps import Maps
from benchmarks.pictures import Query
from benchmarks.record import Rows
from benchmarks.settings import (
    DEFAULT,
    MASKS,
    OTHERS,
    PUBLISHED_OTHER_SEED,
    TRUTH_OTHER_SEED,
    TRUTH_SEED,
    regression,
    sane,
)
from engine import Explainer, Rise

LARGE = "resnet50"
LARGE_PASSES = 512
"""Largest number of passes on the curve of ResNet-50, whose passes are slow."""


@pytest.mark.parametrize("name", ["resnet18"])
def test_default_both(benchmark: Any, subject: Subjects, rows: Rows, size: Size, name: str) -> None:
    """Both pictures masked: the default and the published N = 2000, K = 30."""
    opened = subject(name)
    truth = _both(opened.plain, sane(size.truth, TRUTH_SEED), sane(size.truth_other, TRUTH_OTHER_SEED))
    published = _both(opened.plain, sane(MASKS), sane(OTHERS, PUBLISHED_OTHER_SEED))
    ways = [("default, both", e, DEFAULT, _both(e, DEFAULT, DEFAULT)) for e in _defaults(opened)]
    ways.append(("published, both", opened.plain, sane(MASKS), published))
    _compare(benchmark, opened, rows, size, ways, truth, truth_other_masks=size.truth_other)


@pytest.mark.parametrize("name", ["resnet18", "vit", "mobilenet", LARGE])
def test_default(benchmark: Any, subject: Subjects, rows: Rows, size: Size, name: str) -> None:
    """Whole references: the default, with as many passes as it takes, and the published number of masks."""
    opened = subject(name)
    ways: list[tuple[str, Explainer, Rise, Way]] = []
    for ours in _defaults(opened):
        for name_, kind in (("one pair", maps.alone), ("references together", maps.together), ("prepared", maps.prepared)):
            ways.append((f"default, {name_}", ours, DEFAULT, functools.partial(kind, ours, method=DEFAULT)))
    ways.append(("published", opened.plain, sane(MASKS), lambda q: maps.prepared(opened.plain, q, sane(MASKS))))
    _compare(benchmark, opened, rows, size, ways, _truth(opened, size))


@pytest.mark.parametrize("name", ["resnet18", "vit", "mobilenet", LARGE])
def test_against_passes(benchmark: Any, subject: Subjects, rows: Rows, size: Size, name: str) -> None:
    """At equal passes: the published estimator in fp32, the regression in fp32 and at the precision that "auto" takes."""
    opened = subject(name)
    counts = [n for n in size.passes if name != LARGE or n <= LARGE_PASSES]
    truth, asked = _truth(opened, size), opened.queries(size.queries[name])
    ways = {
        (explainer.precision, method): (explainer, method)
        for count in counts
        for explainer, method in (
            (opened.plain, sane(count)),
            (opened.plain, regression(count)),
            (opened.explainer, regression(count)),
        )
    }

    def measured() -> None:
        for explainer, method in ways.values():
            found = [maps.correlations(maps.prepared(explainer, q, method).maps, truth(q).maps) for q in asked]
            row = opened.row(method, explainer) | {"truth_masks": size.truth}
            rows.add("fidelity", method.estimator, name, **row | _summary(found))

    benchmark.pedantic(measured, rounds=1, iterations=1)


Way = Callable[[Query], Maps]


def _compare(
    benchmark: Any,
    opened: Subject,
    rows: Rows,
    size: Size,
    ways: Sequence[tuple[str, Explainer, Rise, Way]],
    truth: Way,
    **fields: Any,
) -> None:
    """Add a row for each way to make maps."""
    asked = opened.queries(size.queries[opened.network.name])

    def measured() -> None:
        wanted = [truth(q).maps for q in asked]
        for who, explainer, method, way in ways:
            answers = [way(q) for q in asked]
            found = [maps.correlations(a.maps, w) for a, w in zip(answers, wanted, strict=True)]
            row = opened.row(method, explainer) | {"truth_masks": size.truth} | fields
            row |= {"passes": float(np.mean([a.passes for a in answers]))}
            rows.add("equal-fidelity", who, opened.network.name, **row | _summary(found))

    benchmark.pedantic(measured, rounds=1, iterations=1)


def _defaults(opened: Subject) -> list[Explainer]:
    """Return the default explainer, and the one on OpenVINO if it is timed too."""
    return [e for e in (opened.explainer, opened.openvino) if e is not None]


def _both(explainer: Explainer, method: Rise, other: Rise) -> Way:
    return lambda q: maps.both(explainer, q, method, other)


def _truth(opened: Subject, size: Size) -> Way:
    return lambda q: maps.prepared(opened.plain, q, sane(size.truth, TRUTH_SEED))


def _summary(correlations: list[np.ndarray]) -> dict[str, Any]:
    """Summarise the correlations of all queries and references."""
    values = np.concatenate(correlations)
    found = {"mean": float(values.mean()), "p10": float(np.percentile(values, 10)), "lowest": float(values.min())}
    return {"queries": len(correlations), "pairs": len(values), **found}
