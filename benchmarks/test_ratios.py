"""CPU time of the published procedure in PyTorch eager mode over ours, for the same work on the same network, in turn."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from benchmarks import published
from benchmarks.conftest import Size, Subject, Subjects
from benchmarks.measure import Times, ratio, take_turns
from benchmarks.record import Rows
from benchmarks.settings import DEFAULT, MASKS, OTHERS, PUBLISHED_OTHER_SEED, sane
from engine import Explainer, Rise

TARGETS = {
    ("one pair", "resnet18"): 20,
    ("one pair", "resnet50"): 20,
    ("both pictures masked", "resnet18"): 300,
    ("100 references, per pair", "resnet18"): 1200,
    ("prepared query, embedding", "resnet18"): 10_000,
    ("same masks, sane, fp32", "resnet18"): 1.7,
}
TIMED_OTHERS = 2
REPEATS = 200
EQUAL = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Published:
    """The published procedure, ready to be timed, with its masks drawn. scale: from these masks to MASKS"""

    network: Any
    masks: published.Masks
    batch: int
    scale: float

    def fixed(self, query: Tensor, embedding: Tensor) -> Tensor:
        return published.fixed(self.network, query, embedding, self.masks, self.batch)

    def both(self, query: Tensor, reference: Tensor, others: Tensor) -> Tensor:
        return published.both(self.network, query, reference, self.masks, others, self.batch)


@pytest.fixture
def procedure(subject: Subjects, size: Size, name: str) -> Published:
    opened = subject(name)
    query = opened.queries(1)[0]
    network, count = opened.network.torch(), size.timed[name]
    plan = sane(count).plan(opened.pixels(query.picture))
    masks = published.Masks.drawn(plan, opened.network.size)
    return Published(network, masks, published.fastest_batch(network, opened.rows(query.picture)), MASKS / count)


@pytest.mark.parametrize("name", ["resnet18", "vit", "mobilenet", "resnet50"])
def test_one_pair(benchmark: Any, procedure: Published, subject: Subjects, rows: Rows, size: Size, name: str) -> None:
    opened = subject(name)
    pairs = _pairs(opened, procedure, size.rounds)
    passes: dict[str, list[int]] = {}

    def ours(explainer: Explainer, i: int) -> None:
        query, reference, _, _ = pairs[i]
        passes.setdefault(explainer.provider, []).append(explainer.explain(query, reference, DEFAULT).passes)

    def theirs(i: int) -> None:
        procedure.fixed(*pairs[i][2:])

    times = take_turns(benchmark, {**_ours(opened, ours), "theirs": theirs}, len(pairs), warm=size.smoke)
    _add(rows, "one pair", opened, procedure, times, DEFAULT, passes=passes)


@pytest.mark.parametrize("name", ["resnet18"])
def test_both(benchmark: Any, procedure: Published, subject: Subjects, rows: Rows, size: Size, name: str) -> None:
    """Published: one map with K = 30, timed with K = 2 and scaled. Ours: both maps and the correspondence."""
    opened = subject(name)
    pairs = _pairs(opened, procedure, min(size.rounds, 3))
    plan = sane(TIMED_OTHERS, PUBLISHED_OTHER_SEED).plan(opened.pixels(pairs[0][0]))
    others = published.Masks.drawn(plan, opened.network.size).all
    passes: dict[str, list[int]] = {}

    def ours(explainer: Explainer, i: int) -> None:
        found = explainer.explain(pairs[i][0], pairs[i][1], DEFAULT, mode="both")
        assert found.reference_saliency is not None and found.correspondence is not None
        passes.setdefault(explainer.provider, []).append(found.passes)

    def theirs(i: int) -> None:
        procedure.both(pairs[i][2], opened.rows(pairs[i][1]), others)

    times = take_turns(benchmark, {**_ours(opened, ours), "theirs": theirs}, len(pairs), warm=size.smoke)
    scale = OTHERS / TIMED_OTHERS
    _add(rows, "both pictures masked", opened, procedure, times, DEFAULT, scale, passes=passes)


@pytest.mark.parametrize("name", ["resnet18"])
def test_many_references(benchmark: Any, procedure: Published, subject: Subjects, rows: Rows, size: Size, name: str) -> None:
    """The time to embed the 100 references counts for us, and does not count for the published procedure."""
    opened, count = subject(name), 100
    pairs = _pairs(opened, procedure, min(size.rounds, 3))
    pool = [r for q in opened.queries(max(size.queries[name], 2)) for r in q.references]
    references = [pool[i % len(pool)] for i in range(count)]

    def ours(explainer: Explainer, i: int) -> None:
        explainer.explain_many(pairs[i][0], references, DEFAULT)

    def theirs(i: int) -> None:
        procedure.fixed(*pairs[i][2:])

    times = take_turns(benchmark, {**_ours(opened, ours), "theirs": theirs}, len(pairs), warm=size.smoke)
    times = {who: t if who == "theirs" else _divided(t, count) for who, t in times.items()}
    _add(rows, "100 references, per pair", opened, procedure, times, DEFAULT)


@pytest.mark.parametrize("name", ["resnet18"])
def test_prepared(benchmark: Any, procedure: Published, subject: Subjects, rows: Rows, size: Size, name: str) -> None:
    """A prepared query and the embedding of a reference: the map and the top 5 of 45 attributes."""
    opened = subject(name)
    pairs = _pairs(opened, procedure, min(size.rounds, 3))
    prepared = [opened.explainer.prepare(query, DEFAULT) for query, *_ in pairs]
    vectors = [opened.explainer.embed([reference])[0] for _, reference, *_ in pairs]

    def ours(i: int) -> None:
        for _ in range(REPEATS):
            prepared[i].explain(vectors[i], top=5)

    def theirs(i: int) -> None:
        procedure.fixed(*pairs[i][2:])

    times = take_turns(benchmark, {opened.explainer.provider: ours, "theirs": theirs}, len(pairs), warm=size.smoke)
    own = opened.explainer.provider
    times[own] = _divided(times[own], REPEATS)
    passes = {opened.explainer.provider: [len(p.plan) for p in prepared]}
    _add(rows, "prepared query, embedding", opened, procedure, times, DEFAULT, passes=passes)


@pytest.mark.parametrize("name", ["resnet18"])
def test_same_masks(benchmark: Any, procedure: Published, subject: Subjects, rows: Rows, size: Size, name: str) -> None:
    """The same masks and estimator in fp32: the gain of runtime and algebra only. The maps must be equal."""
    opened = subject(name)
    pairs = _pairs(opened, procedure, min(size.rounds, 3))
    method = sane(size.timed[name])
    maps: dict[str, np.ndarray] = {}

    def ours(i: int) -> None:
        maps["ours"] = opened.plain.explain(pairs[i][0], pairs[i][1], method).saliency

    def theirs(i: int) -> None:
        maps["theirs"] = procedure.fixed(*pairs[i][2:]).numpy()

    times = take_turns(benchmark, {opened.explainer.provider: ours, "theirs": theirs}, len(pairs), warm=size.smoke)
    largest = float(np.abs(maps["ours"] - maps["theirs"]).max())
    difference = largest / float(np.abs(maps["theirs"]).max())
    spread = largest / float(np.ptp(maps["theirs"]))  # a cosine's raw map is nearly constant
    assert spread <= EQUAL, f"the maps differ by {spread:.2g} of their range"
    found = {"map_difference": difference, "map_difference_of_range": spread, "precision": "fp32"}
    _add(rows, "same masks, sane, fp32", opened, procedure, times, method, 1 / procedure.scale, **found)


def _pairs(opened: Subject, procedure: Published, count: int) -> list[tuple[Any, Any, Tensor, Tensor]]:
    """Return queries and references: two pictures, then the tensors (3, S, S) and (D,) for the published procedure."""
    network = published.eager(procedure.network)
    asked = [(q.picture, q.references[0]) for q in opened.queries(count)]
    while len(asked) < count:  # the smoke size has few pictures
        asked.append(asked[len(asked) % 2])
    return [(q, r, opened.rows(q), network(opened.rows(r)[None])[0]) for q, r in asked]


def _divided(times: Times, by: int) -> Times:
    return Times(tuple(t / by for t in times.cpu), tuple(t / by for t in times.wall))


def _ours(opened: Subject, call: Callable[[Explainer, int], None]) -> dict[str, Callable[[int], None]]:
    """Return the call by provider: the default one first, then OpenVINO if it is timed too."""
    explainers = [e for e in (opened.explainer, opened.openvino) if e is not None]
    return {e.provider: functools.partial(call, e) for e in explainers}


def _add(
    rows: Rows,
    name: str,
    opened: Subject,
    procedure: Published,
    times: dict[str, Times],
    method: Rise,
    scale: float = 1.0,
    passes: dict[str, list[int]] | None = None,
    **fields: Any,
) -> None:
    """Add a row for each provider in `times`, compared with "theirs". scale: in addition to the procedure's own"""
    for provider, spent in times.items():
        if provider == "theirs":
            continue
        row = opened.row(method, opened.openvino if provider == "openvino" else None)
        row |= {"target": TARGETS.get((name, opened.network.name)), "published_masks": MASKS}
        row |= {"published_timed": len(procedure.masks.all), "published_batch": procedure.batch}
        row |= ratio(times["theirs"], spent, procedure.scale * scale)
        row |= {"published_drawing_cpu_s": procedure.masks.cpu * procedure.scale}
        if passes is not None:
            row["passes"] = float(np.mean(passes[provider]))
        rows.add("ratios", name, opened.network.name, **row | fields)
