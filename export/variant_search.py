"""Find how the pictures of an index were prepared: try variants until one gives the index's embeddings."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from engine.passes import whole_embeddings
from engine.pictures.foreign_loading import UPRIGHT, RgbPicture, load_as, loadings_that_matter
from engine.pictures.loading import load_picture
from engine.pictures.reading import Reading
from engine.protocol import Runner
from engine.runtime.batch_size import largest_batch
from export.progress import progress_bar
from export.variants import KINDS, Variant, changed_kinds, variants_of

SAME = 0.9999
"""Least cosine of two embeddings of one picture that count as equal: processors and decoders of JPEG round differently."""
SAME_LENGTH = 1e-3
"""Logarithm of the ratio of lengths up to which they count as equal."""
TRIED, SCREENED = 24, 6
"""Pictures on which variants are compared, and how many of them every variant is tried on first."""
FINALISTS, BEAM = 6, 4
MOST_CHANGES = 3
DECODED_PIXELS = 96_000_000
"""Pictures are kept decoded up to so many pixels in all, 300 MB; at least SCREENED are."""
LENGTH_SHARE = 0.01
"""Weight of a difference in length beside one in direction."""
LEAST_LENGTH = 1e-30
LEAST_DISTANCE = 1e-6
"""A distance that is rounding."""
MORE_EXPLAINED, EXPLAINED = 0.5, 0.25
"""Most that may be left of the distance for one more difference to be believed, and for any to be named."""


@dataclasses.dataclass(frozen=True, eq=False)
class Explained:
    """What `VariantSearch.find` found.

    variant: the one that agrees best, with the fewest differences
    before, after: how well the index agrees with the bundle as it is and with the variant, on the pictures that were tried
    named: whether the variant explains so much that it can be named
    """

    variant: Variant
    before: "IndexAgreement"
    after: "IndexAgreement"
    named: bool


@dataclasses.dataclass(frozen=True, eq=False)
class IndexAgreement:
    """How well embeddings agree with those of an index. cosines: (n,); lengths: (n,) log of theirs / ours; float64"""

    cosines: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, ours: np.ndarray, theirs: np.ndarray, lengths_count: bool) -> "IndexAgreement":
        """Compare (n, D) with (n, D). lengths_count: whether lengths are compared; if not, they are taken as equal."""
        ours = ours.astype(np.float64)
        own, other = (np.maximum(np.linalg.norm(e, axis=1), LEAST_LENGTH) for e in (ours, theirs))
        lengths = np.log(other / own) if lengths_count else np.zeros(len(own))
        zero = (own == LEAST_LENGTH) & (other == LEAST_LENGTH)
        return cls(np.where(zero, 1, (ours * theirs).sum(1) / (own * other)), lengths)

    @property
    def distances(self) -> np.ndarray:
        """(n,), 0 if they agree."""
        return np.maximum(1 - self.cosines, 0) + LENGTH_SHARE * np.minimum(np.abs(self.lengths), 1)

    @property
    def same(self) -> np.ndarray:
        """(n,) bool, which are equal, up to rounding."""
        return (self.cosines >= SAME) & (np.abs(self.lengths) <= SAME_LENGTH)

    def distance(self, weights: np.ndarray) -> float:
        """Return the geometric mean of the distances, in which a few changed pictures or swapped rows count little.

        weights: (n,) or more
        """
        return float(np.exp(np.average(np.log(self.distances + LEAST_DISTANCE), weights=weights[: len(self.cosines)])))


class VariantSearch:
    """Tries variants of a bundle's preprocessing on pictures of an index.

    session: the similarity graph; files: n pictures that can be read; theirs: (n, D) float64, the index's embeddings
    order: numbers of the pictures to try variants on, the most telling first; see `IndexAgreement.of` for lengths_count
    reading: how the pictures are read
    """

    def __init__(
        self,
        session: Runner,
        files: Sequence[Path],
        theirs: np.ndarray,
        order: Sequence[int],
        lengths_count: bool,
        reading: Reading,
    ) -> None:
        self._reading = reading
        self._session, self._lengths_count = session, lengths_count
        self._files, self._theirs = files, theirs
        self._order: list[int] = []
        self._upright: dict[int, RgbPicture] = {}
        pixels = 0
        for i in order:
            picture = load_picture(files[i], reading)
            pixels += picture.width * picture.height
            if len(self._order) == TRIED or (len(self._order) >= SCREENED and pixels > DECODED_PIXELS):
                break
            self._order.append(i)
            self._upright[i] = picture
        self._loadings = {i: loadings_that_matter(files[i], reading) for i in self._order}
        self._pixels: tuple[Variant | None, list[np.ndarray]] = None, []

    def find(self, base: Variant) -> Explained:
        """Return the variant that agrees best with the index. base: the bundle's own way, which does not agree"""
        before = self._agreement(base, len(self._order))
        best, found = base, before
        seen, beam = {base}, [base]
        for changes in range(1, MOST_CHANGES + 1):
            weights = _weights(found)
            new = dict.fromkeys(v for one in beam for v in self._neighbours(base, one) if v not in seen)
            seen |= set(new)
            ranked = self._ranked(list(new), weights, f"trying {changes} change{'s' if changes > 1 else ''}")
            limit = found.distance(weights) * (MORE_EXPLAINED if changes > 1 else 1)  # less may be chance
            for variant in ranked[:FINALISTS]:
                agreement = self._agreement(variant, len(self._order))
                if agreement.distance(weights) < limit:
                    best, found, limit = variant, agreement, agreement.distance(weights)
            if found.same.all():
                break
            beam = self._kept(base, ranked) if changes == 1 else ranked[:BEAM]
        left = found.distance(_weights(before)) / before.distance(_weights(before))
        return Explained(best, before, found, best != base and left <= EXPLAINED)

    def _neighbours(self, base: Variant, variant: Variant) -> Iterator[Variant]:
        """Give the variants with one difference from the bundle more than `variant` has."""
        changed = changed_kinds(base, variant)
        loadings = {UPRIGHT}.union(*self._loadings.values())
        for kind in KINDS:
            if kind not in changed:
                yield from (v for v in variants_of(kind, variant) if v.loading in loadings)

    @staticmethod
    def _kept(base: Variant, ranked: Sequence[Variant]) -> list[Variant]:
        """Return the best variant of each kind: two differences may show only together."""
        best: dict[str, Variant] = {}
        for variant in ranked:
            best.setdefault(changed_kinds(base, variant)[0], variant)
        return list(best.values())

    def _ranked(self, variants: list[Variant], weights: np.ndarray, what: str) -> list[Variant]:
        """Return the variants, the best first, by some of the pictures."""
        variants = sorted(variants, key=lambda v: repr(_seen_by(v)))  # those with equal pixels follow each other
        with progress_bar(variants, what) as bar:
            distances = {variant: self._agreement(variant, SCREENED).distance(weights) for variant in bar}
        return sorted(variants, key=lambda v: distances[v])

    def _agreement(self, variant: Variant, count: int) -> IndexAgreement:
        order = self._order[:count]
        key = _seen_by(variant)
        if self._pixels[0] != key or len(self._pixels[1]) < len(order):
            self._pixels = key, [variant.preprocessing.fitted(self._picture(i, variant.loading))[0] for i in order]
        p = variant.preprocessing
        ours = whole_embeddings(self._session, p, self._pixels[1][: len(order)], largest_batch(p))
        return IndexAgreement.of(ours, self._theirs[order], self._lengths_count)

    def _picture(self, number: int, loading: str) -> RgbPicture:
        if loading not in self._loadings[number]:
            return self._upright[number]
        return load_as(self._files[number], loading, self._reading)


def _weights(found: IndexAgreement) -> np.ndarray:
    """Return weights (n,): pictures that differ count as much as those that agree already, and must go on to."""
    return np.where(found.same, 1 / max(found.same.sum(), 1), 1 / max((~found.same).sum(), 1))


def _seen_by(variant: Variant) -> Variant:
    """Return a variant with the same pixels, which is equal for those that differ in the normalisation only."""
    p = variant.preprocessing
    if p.fit == "pad" and p.pad_colour is None:
        return variant
    plain = dataclasses.replace(p, mean=(0.0,) * p.channels, std=(1.0,) * p.channels, scale=1.0, channel_order="rgb")
    return Variant(plain, variant.loading)
