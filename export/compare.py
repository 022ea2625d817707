"""Compare a bundle with the embeddings of somebody's own index, and name what makes the difference."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.bundle import Bundle
from engine.errors import ImageError, OptionError
from engine.passes import whole_embeddings
from engine.pictures.loading import load_picture
from engine.pictures.reading import AS_USUAL, Reading
from engine.protocol import Runner
from engine.runtime.batch_size import largest_batch
from engine.runtime.opening import open_graph
from engine.saliency.similarity import query_features, reference_features
from export.index_embeddings import IndexRows, read_index
from export.progress import progress_bar
from export.variant_search import SAME, TRIED, IndexAgreement, VariantSearch
from export.variants import Variant, changed_kinds, export_options, words

MOST_COMPARED = 200
"""Most pictures that are compared, spread evenly over the index: more tell little more."""
UNIT_LENGTH = 2e-3
"""How far lengths may be from 1 if embeddings are L2-normalised, in float16 too."""
FEW = 0.1
"""Part of the pictures that may differ and leave the preprocessing above suspicion."""
NORMALISATION, ORDER, LENGTH, FILES, UNKNOWN = "L2 normalisation", "order of the rows", "length", "some files", "unknown"
"""Differences other than those of `export.variants.KINDS`."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How a bundle's embeddings agree with those of an index.

    pictures: n, those compared; unreadable, missing: pictures of the index that cannot be read, or are not there
    median, least: of the cosines; neighbours: pictures with the same nearest neighbour by the bundle's metric
    kinds: in what the two differ, none if the bundle compares pictures as the index does; verdict: the same for people
    """

    pictures: int
    unreadable: int
    missing: int
    median: float
    least: float
    neighbours: int
    kinds: tuple[str, ...]
    verdict: str

    def line(self) -> str:
        """Return all of it in one line."""
        left_out = [(self.missing, "not found"), (self.unreadable, "unreadable")]
        notes = "".join(f", {count} {word}" for count, word in left_out if count)
        return (
            f"{self.pictures} pictures compared{notes}: cosine median {self.median:.4f}, least {self.least:.4f}; nearest "
            f"neighbours {self.neighbours} of {self.pictures}; {self.verdict}"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Both:
    """Embeddings of n pictures: ours, the bundle's, and theirs, the index's, (n, D) float64. rows: (n,), the index's"""

    bundle: Bundle
    session: Runner
    entries: IndexRows
    files: list[Path]
    rows: np.ndarray
    ours: np.ndarray
    theirs: np.ndarray
    reading: Reading

    @property
    def metric(self) -> str:
        return self.bundle.manifest.metric

    def agreement(self, lengths_count: bool) -> IndexAgreement:
        return IndexAgreement.of(self.ours, self.theirs, lengths_count)

    def unit_length(self) -> str | None:
        """Return words for embeddings that are L2-normalised on one side only, else None: then lengths can be compared."""
        own, other = (np.linalg.norm(e, axis=1) for e in (self.ours, self.theirs))
        unit, other_unit = (bool(np.abs(length - 1).max() <= UNIT_LENGTH) for length in (own, other))
        if unit == other_unit:
            return None
        length = own if other_unit else other
        lengths = f"lengths from {length.min():.3g} to {length.max():.3g}"
        if other_unit:
            return f"your embeddings are L2-normalised, this bundle's have {lengths}"
        return f"this bundle's embeddings are L2-normalised, yours have {lengths}"

    def shuffled(self) -> bool:
        """Tell whether most pictures have their embedding in another row."""
        every = self.entries.embeddings
        unit, index = (e / np.maximum(np.linalg.norm(e, axis=1, keepdims=True), 1e-30) for e in (self.ours, every))
        cosines = unit @ index.T  # (n, m)
        elsewhere = (cosines.max(1) >= SAME) & (cosines[np.arange(len(self.rows)), self.rows] < SAME)
        return bool(elsewhere.mean() > 0.5)


def compare_index(bundle: Bundle, index: Path, images: Path, reading: Reading = AS_USUAL) -> Comparison:
    """Compare a bundle with an index, and try variants of the preprocessing if they differ.

    index, images: see `read_index`; reading: how the pictures are read
    Raises an EngineError if there is nothing to compare.
    """
    entries = read_index(index, images, bundle.manifest.embedding)
    chosen = _spread(len(entries.files), MOST_COMPARED)
    both = _embed(bundle, entries, chosen, reading)
    kinds, verdict = _verdict(both)
    cosines = both.agreement(False).cosines
    nearest, others = (_nearest(e, both.metric) for e in (both.ours, both.theirs))
    return Comparison(
        len(both.files),
        len(chosen) - len(both.files),
        len(entries.embeddings) - len(entries.files),
        float(np.median(cosines)),
        float(cosines.min()),
        int((nearest == others).sum()),
        kinds,
        verdict,
    )


def _embed(bundle: Bundle, entries: IndexRows, chosen: Sequence[int], reading: Reading) -> _Both:
    """Run the network over those pictures that can be read."""
    p = bundle.manifest.preprocessing
    session = open_graph(bundle, bundle.manifest.base, "cpu", None)
    read, pixels = [], []
    with progress_bar(chosen, "reading") as bar:
        for i in bar:
            try:
                pixels.append(p.fitted(load_picture(entries.files[i], reading))[0])
            except ImageError:
                continue
            read.append(i)
    if len(read) < 2:
        raise OptionError(f"{len(read)} of {len(chosen)} pictures can be read: at least 2 are needed, 24 are better")
    ours = whole_embeddings(session, p, pixels, largest_batch(p)).astype(np.float64)
    rows = entries.rows[read]
    return _Both(bundle, session, entries, [entries.files[i] for i in read], rows, ours, entries.embeddings[rows], reading)


def _verdict(both: _Both) -> tuple[tuple[str, ...], str]:
    """Return in what kinds the two differ, none if not at all, and the words for it."""
    unit, by_length = both.unit_length(), both.metric != "cosine"
    agreement = both.agreement(by_length and unit is None)
    normal = (NORMALISATION,) if unit and by_length else ()
    if agreement.same.all() and not normal:
        return (), f"equal ({unit}, which cosine similarity does not see)" if unit else "equal"
    if agreement.same.all():
        return normal, f"differs: {unit}, and metric {both.metric} sees that: export it again with --metric cosine"
    if both.shuffled():
        return (ORDER,), "differs: the embeddings are the same in another order: save the files' names in the rows' order"
    base = Variant(both.bundle.manifest.preprocessing)
    search = VariantSearch(
        both.session, both.files, both.theirs, _telling(agreement), by_length and unit is None, both.reading
    )
    found = search.find(base)
    if not found.named:
        return _unexplained(both, agreement, normal)
    kinds = changed_kinds(base, found.variant)
    theirs, ours = (_listed([words(kind, v) for kind in kinds]) for v in (found.variant, base))
    cosines = f"least cosine {found.before.cosines.min():.4f} -> {found.after.cosines.min():.4f}"
    told = f"differs: your index was made with {theirs}, this bundle has {ours} ({cosines})"
    if unit:
        told += f"; {unit}"
    if not found.after.same.all():
        told += "; what is left may be the decoder of the files, or a lower precision"
    options = [*(export_options(kind, base, found.variant) for kind in kinds), "--metric cosine" if normal else ""]
    if not all(options[: len(kinds)]):
        told += "; make the index again from pictures that are loaded as this bundle loads them"
    if any(options):
        told += f"; export the bundle again with {' '.join(filter(None, options))}"
    return (*kinds, *normal), told


def _unexplained(both: _Both, agreement: IndexAgreement, normal: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    different = np.flatnonzero(agreement.cosines < SAME)
    if not len(different):
        factor = float(np.exp(np.median(agreement.lengths)))
        return (LENGTH,), f"differs: your embeddings are {factor:.4g} times as long: multiply the bundle's, or divide yours"
    if len(different) <= FEW * len(both.files):
        worst = both.files[int(agreement.cosines.argmin())]
        return (FILES, *normal), (
            f"differs, but only in {len(different)} of {len(both.files)} pictures, most of all in {worst}: were they "
            "changed after the index was made?"
        )
    return (UNKNOWN, *normal), (
        "differs, and no other preprocessing that was tried explains it: compare the weights, the layer that the embedding "
        "is taken from, and the size of the network's input"
    )


def _listed(things: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(things[:-1]), things[-1]]))


def _telling(agreement: IndexAgreement) -> list[int]:
    """Return the numbers of the pictures, those that differ most and others spread evenly in turn."""
    worst = [int(i) for i in np.argsort(-agreement.distances, kind="stable")]
    even = _spread(len(worst), TRIED)
    both = [i for pair in zip(worst, even, strict=False) for i in pair]
    return list(dict.fromkeys([*both, *worst]))


def _nearest(embeddings: np.ndarray, metric: str) -> np.ndarray:
    """Return the number of each embedding's nearest neighbour among the others, (n,)."""
    scores = query_features(embeddings, metric, None) @ reference_features(embeddings, metric, None).T
    np.fill_diagonal(scores, -np.inf)
    return scores.argmax(1)


def _spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, spread evenly."""
    return [i * count // most for i in range(most)] if count > most else list(range(count))
