"""Where an attribute of a colour is seen: activation maps against the pixels that have the colour."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attribute_sets import DEMO_NAMES, EMOJI, emoji_labels
from benchmarks.attribute_sources import demo_copy, with_embedding_only, with_probes
from engine import Explainer, Rise
from engine.evaluate.bootstrap import bootstrap
from kernels.areas import areas
from training.datasets.emoji import VENDORS, Emoji, load_emoji
from training.datasets.parts import COLOURS, colours

OF_COLOUR = re.compile(rf"^(mostly|some) ({'|'.join(COLOURS)})$")
SOURCES = ("saliency", "passes", "network", "probes", "random")
MASKS = 256


def places(cache: Path) -> list[dict[str, Any]]:
    """Return the mean area under the curve of telling a colour's pixels from the others, by source of the map.

    Test pictures and their true attributes of colours; `saliency` is the map against the other vendor's drawing
    """
    data = load_emoji(EMOJI, "all")
    labels = emoji_labels("train", cache / "train", DEMO_NAMES)
    probed = with_probes(demo_copy(cache / "probes"), labels)
    explainers = {
        "network": Explainer(demo_copy(cache / "network")),
        "probes": Explainer(probed),
        "passes": Explainer(with_embedding_only(probed, cache / "embedding")),
    }
    count, random = len(data.pair.base), np.random.default_rng(0)
    found: dict[str, list[float]] = {source: [] for source in SOURCES}
    clusters: list[int] = []
    for index in data.split("test"):
        vendor, base = divmod(int(index), count)
        masks = _pixels(data, index)
        if not masks:
            continue
        seen = _maps(explainers, data.picture(index), data.picture(base + (1 - vendor) * count), list(masks), random)
        for name, mask in masks.items():
            for source, maps in seen.items():
                found[source].append(area_under_curve(maps[name], mask))
            clusters.append(base)
    return [
        {
            "source": source,
            "network": "demo",
            "masks": MASKS,
            "maps": len(values),
            "auc": bootstrap(np.array(values), np.array(clusters)),
        }
        for source, values in found.items()
    ]


def _pixels(data: Emoji, index: int) -> dict[str, np.ndarray]:
    """Return the pixels (64, 64) bool of each colour that is a true attribute of a picture, by the attribute."""
    vendor, base = divmod(int(index), len(data.pair.base))
    drawing = data.pair.pictures[VENDORS[vendor]][data.pair.base[base]]
    colour, shown = colours(drawing[..., :3]), drawing[..., 3] > 127
    found = {}
    for name, true in zip(data.attributes, data.truth[index], strict=True):
        matched = OF_COLOUR.match(name)
        if true and matched and name in DEMO_NAMES:
            mask = (colour == COLOURS.index(matched[2])) & shown
            if mask.any() and not mask.all():
                found[name] = mask
    return found


def _maps(
    explainers: dict[str, Explainer], picture: np.ndarray, other: np.ndarray, names: list[str], random: np.random.Generator
) -> dict[str, dict[str, np.ndarray]]:
    """Return a map (64, 64) of each attribute, by source."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for source, explainer in explainers.items():
        prepared = explainer.prepare(picture, Rise(masks=MASKS))
        table, seen = explainer.model.bundle.attributes, prepared.seen
        if table is not None and seen is not None:
            found[source] = {name: _enlarged(seen.maps[table.names.index(name)]) for name in names if name in table.names}
    saliency = explainers["network"].prepare(picture, Rise(masks=MASKS)).explain(other, top=0).saliency
    found["saliency"] = dict.fromkeys(names, saliency)
    found["random"] = {name: _enlarged(random.random((8, 8))) for name in names}
    return found


def _enlarged(map_: np.ndarray) -> np.ndarray:
    down, across = (areas(side, 64) for side in map_.shape)
    return np.asarray(down @ map_ @ across.T)


def area_under_curve(values: np.ndarray, truth: np.ndarray) -> float:
    """Return how often a pixel of `truth` (H, W) bool has the larger value (H, W); ties count half."""
    _, ranks, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    inside = truth.ravel()
    have, lack = int(inside.sum()), int((~inside).sum())
    return float((middle[ranks][inside].sum() - have * (have + 1) / 2) / (have * lack))
