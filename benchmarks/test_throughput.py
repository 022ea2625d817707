"""The cost per pair of many pairs and of many references of one query, and the cost per pass by picture size."""

import contextlib
import functools
import time
from typing import Any

import numpy as np
import pytest

from benchmarks import networks, published
from benchmarks.conftest import Size, Subjects
from benchmarks.measure import network_clock, ratio, seconds, take_turns
from benchmarks.record import Rows
from benchmarks.settings import DEFAULT, regression, sane
from engine import BundleError, Explainer, ProviderError

NAMES = ["resnet18", "vit", "mobilenet"]
ROUNDS = 3
LOOP_MASKS = 512
PROVIDER_MASKS = 256
PROVIDERS = (("cpu", "fp32"), ("cpu", "int8"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"))
SIZE_MASKS = 64
SIZES = (64, 112, 160, 224)


@pytest.mark.parametrize("name", NAMES)
def test_pairs(benchmark: Any, subject: Subjects, rows: Rows, size: Size, name: str) -> None:
    """Each pair has its own query."""
    opened = subject(name)
    queries = opened.queries(size.queries[name])

    def ours(i: int) -> None:
        for query in queries:
            opened.explainer.explain(query.picture, query.references[0], DEFAULT)

    times = take_turns(benchmark, {"ours": ours}, ROUNDS, warm=False)
    rows.add("throughput", "pairs", name, pairs=len(queries), **opened.row(DEFAULT) | seconds(times["ours"], len(queries)))


@pytest.mark.parametrize("references", [1, 10, 100, 1000])
@pytest.mark.parametrize("name", ["resnet18"])
def test_references(benchmark: Any, subject: Subjects, rows: Rows, name: str, references: int) -> None:
    """One query, a new one in each round, against the embeddings of references."""
    opened = subject(name)
    queries = opened.queries(ROUNDS)
    known = opened.explainer.embed([r for q in queries for r in q.references])
    vectors = list(known[np.arange(references) % len(known)])

    def ours(i: int) -> None:
        opened.explainer.explain_many(queries[i % len(queries)].picture, vectors, DEFAULT)

    times = take_turns(benchmark, {"ours": ours}, ROUNDS, warm=False)
    rows.add(
        "throughput", "references", name, references=references, **opened.row(DEFAULT) | seconds(times["ours"], references)
    )


@pytest.mark.parametrize("name", ["resnet18"])
def test_outside_the_network(benchmark: Any, subject: Subjects, rows: Rows, name: str) -> None:
    """CPU time of drawing masks, blending, copying and fitting the maps, relative to that of the network."""
    opened = subject(name)
    query = opened.queries(1)[0].picture
    for what, call in (
        ("drawing, blending, copying", lambda: opened.explainer.prepare(query, regression(LOOP_MASKS))),
        ("the same and the map", lambda: opened.explainer.explain(query, query, regression(LOOP_MASKS))),
    ):
        shares = []
        for _ in range(ROUNDS):
            with network_clock() as network:
                began = time.process_time()
                call()
                shares.append((time.process_time() - began) / network[0] - 1)
        row = opened.row(regression(LOOP_MASKS)) | {
            "share": float(np.median(shares)),
            "share_range": [min(shares), max(shares)],
        }
        rows.add("throughput", f"outside the network: {what}", name, **row)
    benchmark.pedantic(call, rounds=1, iterations=1)


@pytest.mark.parametrize("name", ["resnet18", "vit", "mobilenet"])
def test_providers(benchmark: Any, subject: Subjects, rows: Rows, size: Size, name: str) -> None:
    """CPU time per pass of every provider and precision that runs on this processor, in turn."""
    if size.smoke:
        pytest.skip("left out of the smoke size")
    opened = subject(name)
    picture, method = opened.queries(1)[0].picture, sane(PROVIDER_MASKS)
    explainers = {}
    for provider, precision in PROVIDERS:
        # no row for what this processor cannot run, or runs too far from the canonical embedding
        with contextlib.suppress(BundleError, ProviderError):
            explainers[f"{provider} {precision}"] = Explainer(opened.network.bundle, provider, precision)
    calls = {what: functools.partial(lambda e, i: e.prepare(picture, method), e) for what, e in explainers.items()}
    for what, times in take_turns(benchmark, calls, ROUNDS).items():
        row = opened.row(method, explainers[what]) | seconds(times, PROVIDER_MASKS)
        rows.add("throughput", "pass", name, **row)


@pytest.mark.parametrize("side", SIZES)
def test_picture_size(benchmark: Any, rows: Rows, size: Size, side: int) -> None:
    """Time per pass in fp32, and that of the published procedure: the paper's network with random weights, at any size."""
    if size.smoke and side != SIZES[0]:
        pytest.skip("left out of the smoke size")
    network = networks.untrained("resnet18", side)
    explainer = Explainer(network.bundle, precision="fp32")
    module = network.torch()
    method = sane(SIZE_MASKS)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    rows_ = published.eager(module)
    query = published.torch.from_numpy(network.preprocessing.normalised(pixels))
    reference = rows_(query.flip(2)[None])[0]
    masks = published.Masks.drawn(method.plan(pixels), side)
    batch = published.fastest_batch(module, query)
    vector = reference.numpy()

    def ours(i: int) -> None:
        explainer.prepare(pixels, method).explain(vector)

    def theirs(i: int) -> None:
        published.fixed(module, query, reference, masks, batch)

    times = take_turns(benchmark, {"ours": ours, "theirs": theirs}, ROUNDS)
    row = {"precision": "fp32", "masks": SIZE_MASKS, "seed": method.seed, "size": side, "published_batch": batch}
    rows.add("throughput", "picture size", "resnet18", **row | ratio(times["theirs"], times["ours"]))
