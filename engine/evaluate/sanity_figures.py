"""The figures of a sanity check: what becomes of a method's maps if something changes (docs/method.md, Sanity checks)."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.errors import BundleError
from engine.evaluate.curves import ranks
from engine.evaluate.imputed import IMPUTED_NOISE, imputed, painted
from engine.evaluate.map_maker import FLAT_BELOW, MapMaker, rank_correlation, similarity_of
from engine.evaluate.planting import localisation, plant
from engine.evaluate.samples import Sample, other_references
from engine.evaluate.shuffled_weights import Cascade
from engine.methods import Method
from engine.model import LoadedModel
from engine.picture import Picture

OTHERS = 4
"""References of other pairs that each map is compared with, at most."""
SMALL_NOISE = 0.02
"""Standard deviation of the noise on the query, as a share of the range 0..255."""
FRACTIONS = tuple(i / 10 for i in range(1, 10))
"""Shares of the pixels that are removed; with all of them, nothing would be left to impute from."""
PAINTED, IMPUTED = REMOVALS = ("painted", "imputed")
WEIGHTS_CHECK, REFERENCE_CHECK, NOISE_CHECK, SEEDS_CHECK, REMOVAL_CHECK, PLANTED_CHECK = (
    *("weights", "reference", "noise"),
    *("seeds", "removal", "planted"),
)
FLAT_MAPS = "flat maps, all layers shuffled"
PairRow = dict[str, dict[str, float]]
"""By check, by label: one figure of one pair."""


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """A picture (H, W, 3) uint8 for the page, and a map (H, W) float64 over it; None: the picture alone."""

    caption: str
    pixels: np.ndarray
    map: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class MethodFigures:
    """All figures of one method. rows: one per pair, in their order; shown: of the first pair"""

    name: str
    method: Method
    rows: list[PairRow]
    shown: list[Shown]

    def values(self, check: str) -> dict[str, np.ndarray]:
        """Return the figures of one check by label, each (P,) float64, with nan where a pair has none."""
        return {label: np.array([row[check][label] for row in self.rows]) for label in self.rows[0][check]}


def maps_needed(samples: int, methods: Sequence[Method], depths: int) -> int:
    """Return how often `measure_methods` tells its progress."""
    return samples * sum(3 + (method_seed(m) is not None) + depths for m in methods)


def measure_methods(
    model: LoadedModel,
    samples: Sequence[Sample],
    methods: dict[str, Method],
    cascade: Cascade,
    seed: int,
    made: Callable[[], None],
) -> list[MethodFigures]:
    """Return every figure of each method over at least two pairs. made: called after each map

    Raises BundleError if the model's own network gives a number that is not finite.
    """
    randoms = [np.random.Generator(np.random.Philox(key=[seed, number])) for number in range(len(samples))]
    by_chance = [
        _removed(model, s, r.permutation(s.query.pixels[..., 0].size), r) for s, r in zip(samples, randoms, strict=True)
    ]
    found, own = [], []
    for name, method in methods.items():
        figures, maps = MethodFigures(name, method, [], []), []
        for number in range(len(samples)):
            random = np.random.Generator(np.random.Philox(key=[seed, len(samples) + number]))
            row, shown, map_ = _own_row(MapMaker(model, method), samples, number, by_chance[number], random, made)
            figures.rows.append(row)
            maps.append(map_)
            figures.shown.extend([] if number else shown)
        found.append(figures)
        own.append(maps)
    _shuffle(cascade, samples, found, own, made)
    return found


def _shuffle(
    cascade: Cascade,
    samples: Sequence[Sample],
    found: list[MethodFigures],
    own: list[list[np.ndarray]],
    made: Callable[[], None],
) -> None:
    """Add the figures of networks with shuffled weights to the rows; each network is opened once."""
    for depth in cascade.depths:
        label = f"{depth} of {len(cascade.layers)} layers"
        with cascade.shuffled(depth) as network:
            for figures, maps in zip(found, own, strict=True):
                for number, sample in enumerate(samples):
                    map_ = _map_of_shuffled(MapMaker(network, figures.method), sample)
                    row = figures.rows[number].setdefault(WEIGHTS_CHECK, {})
                    row[FLAT_MAPS] = math.nan if map_ is None else float(np.ptp(map_) < FLAT_BELOW)
                    row[label] = math.nan if map_ is None else abs(rank_correlation(maps[number], map_))
                    if number == 0:
                        figures.shown.append(Shown(f"{label} shuffled", sample.query.pixels, map_))
                    made()


def _map_of_shuffled(maker: MapMaker, sample: Sample) -> np.ndarray | None:
    """Return the map of a pair; None if the shuffled weights overflow, so that there is none."""
    try:
        (map_,) = maker.maps(sample.query, [sample.reference], sample.condition)
    except BundleError:
        return None
    return map_


def _own_row(
    maker: MapMaker,
    samples: Sequence[Sample],
    number: int,
    by_chance: dict[str, float],
    random: np.random.Generator,
    made: Callable[[], None],
) -> tuple[PairRow, list[Shown], np.ndarray]:
    """Return all that the model's own network tells about one pair, what the page shows of it, and its map."""
    sample = samples[number]
    others = other_references(samples, number, OTHERS)
    own, itself, *rest = maker.maps(sample.query, [sample.reference, sample.query, *others], sample.condition)
    made()
    row: PairRow = {REFERENCE_CHECK: _against_others(own, itself, rest)}
    shown = [
        Shown("query", sample.query.pixels),
        Shown("reference", sample.reference.pixels),
        Shown("map", sample.query.pixels, own),
        *(Shown("map for another reference", sample.query.pixels, other) for other in rest[:1]),
        Shown("map for the query itself", sample.query.pixels, itself),
    ]
    row[NOISE_CHECK], noisy = _with_noise(maker, sample, own, random)
    made()
    shown.append(noisy)
    row[SEEDS_CHECK] = {"rank correlation": _with_other_masks(maker, sample, own, made)}
    row[REMOVAL_CHECK] = removal_figures(maker.model, sample, own, by_chance, random)
    row[PLANTED_CHECK], planted = planted_figures(maker, sample, samples[(number + 1) % len(samples)].query, random)
    made()
    return row, [*shown, planted], own


def _against_others(own: np.ndarray, itself: np.ndarray, rest: Sequence[np.ndarray]) -> dict[str, float]:
    return {
        "rank correlation with maps for other references": _mean([rank_correlation(own, other) for other in rest]),
        "relative change": _mean([_change(own, other) for other in rest]),
        "rank correlation with the map for the query itself": rank_correlation(own, itself),
    }


def _change(own: np.ndarray, other: np.ndarray) -> float:
    """Return the distance of two maps as a share of the first one's size, both about their means; nan if that is flat."""
    a, b = own - own.mean(), other - other.mean()
    return math.nan if math.isnan(rank_correlation(own, other)) else float(np.linalg.norm(a - b) / np.linalg.norm(a))


def _with_noise(
    maker: MapMaker, sample: Sample, own: np.ndarray, random: np.random.Generator
) -> tuple[dict[str, float], Shown]:
    noise = 255 * SMALL_NOISE * random.standard_normal(sample.query.pixels.shape)
    pixels = np.clip(np.rint(sample.query.pixels + noise), 0, 255).astype(np.uint8)
    noisy = dataclasses.replace(sample.query, pixels=pixels)
    (map_,) = maker.maps(noisy, [sample.reference], sample.condition)
    before, after = (similarity_of(maker.model, q, sample.reference, sample.condition) for q in (sample.query, noisy))
    figures = {"rank correlation": rank_correlation(own, map_), "change of the similarity": abs(after - before)}
    return figures, Shown("map of the query with noise", pixels, map_)


def _with_other_masks(maker: MapMaker, sample: Sample, own: np.ndarray, made: Callable[[], None]) -> float:
    """Return the rank correlation with the map of the next seed; 1 for a method that draws nothing."""
    seed = method_seed(maker.method)
    if seed is None:
        return rank_correlation(own, own)
    changes: dict[str, Any] = {"seed": (seed + 1) % 2**64}
    again = MapMaker(maker.model, dataclasses.replace(maker.method, **changes))
    (map_,) = again.maps(sample.query, [sample.reference], sample.condition)
    made()
    return rank_correlation(own, map_)


def method_seed(method: Method) -> int | None:
    """Return the seed of a method; None if it draws nothing."""
    return getattr(method, "seed", None)


def removal_figures(
    model: LoadedModel, sample: Sample, own: np.ndarray, by_chance: dict[str, float], random: np.random.Generator
) -> dict[str, float]:
    order = ranks(own).ravel()
    first, last = (_removed(model, sample, o, random) for o in (order, order.size - 1 - order))
    row = {}
    for removal in REMOVALS:
        row[f"{removal}: lowering first minus raising first"] = last[removal] - first[removal]
        row[f"{removal}: raising first"], row[f"{removal}: lowering first"] = first[removal], last[removal]
        row[f"{removal}: random order"] = by_chance[removal]
    return row


def _removed(model: LoadedModel, sample: Sample, order: np.ndarray, random: np.random.Generator) -> dict[str, float]:
    """Return the mean similarity while more and more pixels go, by removal. order: (H W,) int ranks, 0 goes first"""
    pixels = sample.query.pixels
    noise = 255 * IMPUTED_NOISE * random.standard_normal(pixels.shape)
    colour = np.array(model.preprocessing.mean_colour(), np.uint8)
    order = order.reshape(pixels.shape[:2])
    gone = [order < round(share * order.size) for share in FRACTIONS]
    made = {PAINTED: [painted(pixels, g, colour) for g in gone], IMPUTED: [imputed(pixels, g, noise) for g in gone]}
    (reference,) = model.reference_features(model.embed([sample.reference]), sample.condition)
    found = {}
    for removal, pictures in made.items():
        embeddings = model.embed([dataclasses.replace(sample.query, pixels=p) for p in pictures])
        found[removal] = float((model.query_features(embeddings, sample.condition) @ reference).mean())
    return found


def planted_figures(
    maker: MapMaker, sample: Sample, ground: Picture, random: np.random.Generator
) -> tuple[dict[str, float], Shown]:
    """Return how well the map finds a piece of the reference in another query; nan if the piece raises no similarity."""
    made = plant(ground.pixels, sample.reference.pixels, random)
    picture = dataclasses.replace(ground, pixels=made.pixels)
    (map_,) = maker.maps(picture, [sample.reference], sample.condition)
    before, after = (similarity_of(maker.model, q, sample.reference, sample.condition) for q in (ground, picture))
    found = localisation(map_, made.region, maker.method.estimator == "regression")
    names = {"AUROC": found.auroc, "mass over area": found.mass, "pointing": found.pointing}
    figures = {label: value if after > before else math.nan for label, value in names.items()}
    return {**figures, "rise of the similarity": after - before}, Shown(
        "map of a query with a piece of the reference", made.pixels, map_
    )


def _mean(values: Sequence[float]) -> float:
    """Return the mean without nan; nan if nothing else is left."""
    kept = [v for v in values if not math.isnan(v)]
    return float(np.mean(kept)) if kept else math.nan
