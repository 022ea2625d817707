"""The pairs of a sanity check, loaded as the network sees them (docs/method.md, Sanity checks)."""

import dataclasses
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from engine.errors import OptionError
from engine.evaluate.matching import joined_groups, most_similar
from engine.evaluate.pairs import Pair, read_pairs
from engine.model import LoadedModel
from engine.picture import Picture
from engine.pictures.folders import pictures_below

FEWEST_PAIRS = 2
"""Each pair is compared with the reference of another one."""
MOST_FILES = 5000
"""Of a folder: with more, the table of all similarities does not fit into memory."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One pair. condition: index, or None; names: of its files; cluster: equal for pairs that are resampled together"""

    query: Picture
    reference: Picture
    condition: int | None
    names: tuple[str, str]
    cluster: int


def load_samples(model: LoadedModel, source: Path | None, images: Path | None, limit: int) -> list[Sample]:
    """Load at most `limit` pairs.

    source: a file of pairs (`read_pairs`); a folder, each of whose pictures is paired with the most similar other one; None:
        the demo's pictures
    Raises OptionError, ImageError.
    """
    if source is None:
        pairs = _demo_pairs()
    elif source.is_dir():
        pairs = _similar_pairs(model, source)
    else:
        pairs = list(read_pairs(source, images).pairs)
    pairs = pairs[:limit]
    if len(pairs) < FEWEST_PAIRS:
        raise OptionError(
            f"{len(pairs)} pair to check, but {FEWEST_PAIRS} or more are needed: maps are compared between pairs"
        )
    return _loaded(model, pairs)


def other_references(samples: Sequence[Sample], number: int, most: int) -> list[Picture]:
    """Return at most `most` references of other pairs than this one: those after it, none that is a picture of this pair."""
    own = samples[number]
    others: dict[str, Picture] = {}
    for step in range(1, len(samples)):
        other = samples[(number + step) % len(samples)]
        if other.names[1] not in own.names:
            others.setdefault(other.names[1], other.reference)
    return list(others.values())[:most]


def _demo_pairs() -> list[Pair]:
    folder = Path(str(resources.files("engine") / "data" / "pictures"))
    return [Pair(file, file.with_name(file.name.replace("noto", "twemoji"))) for file in sorted(folder.glob("*-noto.png"))]


def _similar_pairs(model: LoadedModel, folder: Path) -> list[Pair]:
    files = pictures_below(folder)
    if not FEWEST_PAIRS <= len(files) <= MOST_FILES:
        raise OptionError(f"{folder} has {len(files)} pictures; from {FEWEST_PAIRS} to {MOST_FILES} are needed")
    embeddings = model.embed([model.picture(file) for file in files])
    similarities = model.query_features(embeddings, None) @ model.reference_features(embeddings, None).T
    return [Pair(files[query], files[reference]) for query, reference in most_similar(similarities)]


def _loaded(model: LoadedModel, pairs: Sequence[Pair]) -> list[Sample]:
    numbers = {file: i for i, file in enumerate(dict.fromkeys(file for p in pairs for file in (p.query, p.reference)))}
    ends = np.array([[numbers[p.query], numbers[p.reference]] for p in pairs])
    clusters = joined_groups(np.arange(len(numbers)), ends)[ends[:, 0]]
    return [
        Sample(
            model.picture(pair.query),
            model.picture(pair.reference),
            model.conditions(pair.condition, 1)[0],
            (str(pair.query), str(pair.reference)),
            int(cluster),
        )
        for pair, cluster in zip(pairs, clusters, strict=True)
    ]
