"""Insertion, deletion and pointing at equal passes, on objects pasted on textures: our methods and the peers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks import peers, pictures
from benchmarks.conftest import Size, Subject, Subjects
from benchmarks.record import Rows
from benchmarks.settings import DEFAULT, MASKS, regression, sane
from engine import Lime, Window
from engine.evaluate import insertion_deletion

GRAPH = "similarity.fp32.onnx"
NAMES = ["resnet18", "mobilenet"]


@pytest.mark.parametrize("name", NAMES)
def test_faithfulness(benchmark: Any, subject: Subjects, rows: Rows, size: Size, name: str) -> None:
    """All peers run in ONNX Runtime: their maps do not depend on what runs the network."""
    opened = subject(name)
    objects = pictures.pasted(opened.kind, opened.network.preprocessing, size.pasted)
    embed = peers.onnx_runtime(opened.network.bundle / GRAPH)
    pairs = [peers.Pair(o.picture, opened.pixels(o.reference), opened.network.preprocessing, embed) for o in objects]
    ways = _ours(opened, objects, pairs, size) | _theirs(pairs, size)

    def measured() -> None:
        for who, (explain, passes) in ways.items():
            found = np.array([_one(opened, objects[i], explain(i)) for i in range(len(objects))])  # (n, 3)
            means, errors = found.mean(0), found.std(0, ddof=1) / np.sqrt(len(found))
            row = {"precision": "fp32", "masks": passes, "seed": 0, "size": opened.network.size, "pairs": len(found)}
            for what, mean, error in zip(("insertion", "deletion", "pointing"), means, errors, strict=True):
                row |= {what: float(mean), f"{what}_error": float(error)}
            rows.add("faithfulness", who, name, **row)

    benchmark.pedantic(measured, rounds=1, iterations=1)


Way = tuple[Callable[[int], np.ndarray], int | str]
"""A function that returns the map (S, S) of the object with a number, and its passes."""


def _ours(opened: Subject, objects: list[Any], pairs: list[peers.Pair], size: Size) -> dict[str, Way]:
    passes = size.equal_passes
    _, window, stride = peers.lattice(pairs[0], passes)
    across = -(-(opened.network.size - window) // stride) + 1
    methods = {
        "ours, regression": (regression(passes), passes),
        "ours, sane": (sane(passes), passes),
        "ours, window": (Window(window, stride, 0), across**2),
        "ours, lime": (Lime(passes), passes),
        "ours, default": (DEFAULT, str(DEFAULT.masks)),
        f"ours, sane, {MASKS} masks": (sane(MASKS), MASKS),
    }

    def way(method: Any) -> Callable[[int], np.ndarray]:
        return lambda i: opened.plain.explain(objects[i].picture, objects[i].reference, method).saliency

    return {who: (way(method), count) for who, (method, count) in methods.items()}


def _theirs(pairs: list[peers.Pair], size: Size) -> dict[str, Way]:
    def way(peer: Any) -> Callable[[int], np.ndarray]:
        return lambda i: peer(pairs[i], size.equal_passes)

    return {who: (way(peer), peers.places(who, pairs[0], size.equal_passes)) for who, peer in peers.PEERS.items()}


def _one(opened: Subject, thing: pictures.Pasted, saliency: np.ndarray) -> tuple[float, float, float]:
    """Return the areas of insertion and deletion, and 1 if the most salient pixel lies on the object, else 0."""
    found = insertion_deletion(opened.plain, thing.picture, thing.reference, saliency)
    return found.insertion_auc, found.deletion_auc, float(thing.truth.ravel()[np.argmax(saliency)])
