"""Saliency maps that fidelity is measured on, kept below .cache/benchmarks/maps: long runs go on where they were stopped."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.pictures import Query
from benchmarks.record import CACHE
from engine import Explainer, Explanation, Rise

ROOT = Path(__file__).parent.parent


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """maps: (R, H, W) float32, one per reference; passes: network rows behind one, on average, shared ones included"""

    maps: np.ndarray
    passes: float

    @classmethod
    def of(cls, explanations: list[Explanation]) -> "Maps":
        return cls(np.stack([e.saliency for e in explanations]), float(np.mean([e.passes for e in explanations])))


def alone(explainer: Explainer, query: Query, method: Rise) -> Maps:
    """Each reference by itself, shown whole: `explain`."""
    return _kept(
        lambda: Maps.of([explainer.explain(query.picture, r, method) for r in query.references]),
        *(explainer, query, "alone", method),
    )


def together(explainer: Explainer, query: Query, method: Rise) -> Maps:
    """All references at once, shown whole: `explain_many`, whose stopping rule sees them together."""
    return _kept(
        lambda: Maps.of(explainer.explain_many(query.picture, list(query.references), method)),
        *(explainer, query, "together", method),
    )


def prepared(explainer: Explainer, query: Query, method: Rise) -> Maps:
    """The query prepared before any reference, shown whole, is known: `prepare`."""
    return _kept(
        lambda: Maps.of(explainer.prepare(query.picture, method).explain_many(list(query.references))),
        *(explainer, query, "prepared", method),
    )


def both(explainer: Explainer, query: Query, method: Rise, other: Rise) -> Maps:
    """The query's maps against references masked too, by `other`; what `prepared` needs of the same passes is kept too."""

    def compute() -> Maps:
        ready = explainer.prepare(query.picture, method)
        whole = Maps.of(ready.explain_many(list(query.references)))
        _kept(lambda: whole, explainer, query, "prepared", method)
        return Maps.of([ready.explain(explainer.prepare(r, other)) for r in query.references])

    return _kept(compute, explainer, query, "both", method, other)


def correlations(maps: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pearson correlation over the pixels of maps (R, H, W) with truth (R, H, W): (R,)."""
    a, b = (m.reshape(len(m), -1).astype(np.float64) for m in (maps, truth))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def _kept(compute: Callable[[], Maps], explainer: Explainer, query: Query, mode: str, *methods: Rise) -> Maps:
    """Computed once for the same model, pictures and options; other than for "sane", also for the same engine, graph and
    provider.
    """
    model = explainer.model  # its identity is public in explanations alone
    digest = hashlib.sha256(f"{model.bundle.identity} {explainer.precision} {mode} {methods}".encode())
    for picture in (query.picture, *query.references):
        digest.update(np.ascontiguousarray(picture).tobytes())
    if any(m.estimator != "sane" for m in methods):
        digest.update(f"{_engine()} {model.graph_digest} {explainer.provider}".encode())
    path = CACHE / "maps" / f"{digest.hexdigest()}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(beside, **vars(compute()))
        os.replace(beside, path)
    with np.load(path) as data:
        return Maps(data["maps"], float(data["passes"]))


@functools.cache
def _engine() -> str:
    """A hash of the source of what computes maps."""
    files = sorted(p for room in ("engine", "kernels") for p in (ROOT / room).glob("*.py"))
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()
