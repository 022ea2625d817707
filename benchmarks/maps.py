"""Saliency maps to measure fidelity on, kept below .cache/benchmarks/maps, so that a stopped run can be continued."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.pictures import Query
from benchmarks.record import CACHE
from engine import Explainer, Explanation, Rise
from engine.files import write_npz
from engine.npz import read_npz

ROOT = Path(__file__).parent.parent
ROOMS = ("engine", "kernels")
"""Packages whose source decides what a map is."""


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """maps: (R, H, W) float32, one per reference; passes: mean passes of a map, including those that maps share"""

    maps: np.ndarray
    passes: float

    @classmethod
    def of(cls, explanations: list[Explanation]) -> "Maps":
        return cls(np.stack([e.saliency for e in explanations]), float(np.mean([e.passes for e in explanations])))


def alone(explainer: Explainer, query: Query, method: Rise) -> Maps:
    """Return the maps of `explain`, for each whole reference by itself."""
    return _kept(
        lambda: Maps.of([explainer.explain(query.picture, r, method) for r in query.references]),
        *(explainer, query, "alone", method),
    )


def together(explainer: Explainer, query: Query, method: Rise) -> Maps:
    """Return the maps of `explain_many`, whose stopping rule sees all whole references together."""
    return _kept(
        lambda: Maps.of(explainer.explain_many(query.picture, list(query.references), method)),
        *(explainer, query, "together", method),
    )


def prepared(explainer: Explainer, query: Query, method: Rise) -> Maps:
    """Return the maps of `prepare`, which does not know the whole references."""
    return _kept(
        lambda: Maps.of(explainer.prepare(query.picture, method).explain_many(list(query.references))),
        *(explainer, query, "prepared", method),
    )


def both(explainer: Explainer, query: Query, method: Rise, other: Rise) -> Maps:
    """Return the query's maps if the references are masked too, by `other`; the maps of `prepared` are kept on the way."""

    def compute() -> Maps:
        ready = explainer.prepare(query.picture, method)
        whole = Maps.of(ready.explain_many(list(query.references)))
        _kept(lambda: whole, explainer, query, "prepared", method)
        return Maps.of([ready.explain(explainer.prepare(r, other)) for r in query.references])

    return _kept(compute, explainer, query, "both", method, other)


def correlations(maps: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the Pearson correlations (R,) over the pixels of maps (R, H, W) and truth (R, H, W)."""
    a, b = (m.reshape(len(m), -1).astype(np.float64) for m in (maps, truth))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def _kept(compute: Callable[[], Maps], explainer: Explainer, query: Query, mode: str, *methods: Rise) -> Maps:
    """Compute maps once for the same model, pictures and options. Maps of the estimator "sane" are the same in every version
    of the engine; others are computed again for another engine, graph or provider.
    """
    model = explainer.model
    digest = hashlib.sha256(f"{model.bundle.identity} {explainer.precision} {mode} {methods}".encode())
    for picture in (query.picture, *query.references):
        digest.update(np.ascontiguousarray(picture).tobytes())
    if any(m.estimator != "sane" for m in methods):
        digest.update(f"{source_digest(ROOT)} {model.graph_digest} {explainer.provider}".encode())
    path = CACHE / "maps" / f"{digest.hexdigest()}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = compute()
        write_npz(path, {"maps": found.maps, "passes": np.array(found.passes)})
    data = read_npz(path)
    return Maps(data["maps"], float(data["passes"]))


@functools.cache
def source_digest(root: Path) -> str:
    """Return a hash of every Python file below the rooms in `root`, with its relative path, in the order of the paths."""
    files = {p.relative_to(root).as_posix(): p for room in ROOMS for p in (root / room).rglob("*.py")}
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        content = file.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
