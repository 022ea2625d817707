"""Saliency maps of training pictures, made before attribute training and kept in one memory-mapped file."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engine import Explainer, Rise
from engine.attributes.ranking import area_means
from engine.errors import OptionError
from engine.files import write_whole
from export.progress import progress_bar
from export.write import as_output_error
from training.datasets.protocol import DataSet
from training.loop import digest

SIDE = 28
"""Side of a stored map, as published."""
PUBLISHED_MASKS = 2000
"""The values of a raw map grow with the number of masks; the losses expect this number. A raw map also has a constant, which
the softmax over space removes."""
BLOCK = 1024
"""Pictures whose maps are in memory at once."""
MOST_MAPS = 20
"""Most maps that are kept of one picture, as published."""


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """Saliency maps of m pictures. pictures: (m,) int64, sorted indices into the data set

    stored: (m, K, 28, 28) float32, raw maps at the scale of 2000 masks; NaN for the maps of a picture with fewer than K
    """

    pictures: np.ndarray
    stored: np.ndarray

    def resized(self, indices: np.ndarray, size: tuple[int, int], keep: int | None = None) -> tuple[Tensor, Tensor]:
        """Return maps (n, K, h * w) float32, resized with corners aligned, and validity (n, K): 1 for a map, 0 for none.

        indices: (n,) int64, pictures that have maps; size: (h, w); keep: at most this many maps of each
        Raises OptionError if a picture has no maps.
        """
        rows = np.minimum(np.searchsorted(self.pictures, indices), len(self.pictures) - 1)
        if (self.pictures[rows] != indices).any():
            raise OptionError("a picture has no saliency maps, because they were made for another split: make them again")
        resized, valid = [], []
        for start in range(0, len(rows), BLOCK):  # the file may be larger than memory
            chosen = torch.from_numpy(self.stored[rows[start : start + BLOCK], :keep])
            valid.append((~chosen[:, :, 0, 0].isnan()).float())
            resized.append(F.interpolate(chosen.nan_to_num(), size, mode="bilinear", align_corners=True).flatten(2))
        return torch.cat(resized), torch.cat(valid)

    def shuffled(self, seed: int) -> "Maps":
        """Return the maps permuted over the pictures; the difference to them is what the content of the maps is worth."""
        order = np.random.default_rng(seed).permutation(len(self.pictures))
        return Maps(self.pictures, self.stored[order])


def saliency_maps(
    data: DataSet, bundle: Path, path: Path, masks: int = 256, nearest: int = 0, seed: int = 0, threads: int | None = None
) -> Maps:
    """Make maps of every training picture against training pictures that match it, at the scale of 2000 masks.

    path: an .npy file that is memory-mapped; maps that an earlier, stopped call wrote there are kept
    masks: 32 to 512, of estimator "regression"
    nearest: how many references are added to the labelled ones, the most similar by the model; at most 20 in all
    Raises OptionError if `path` holds maps of other settings, OutputError if it cannot be written.
    """
    if not 32 <= masks <= 512:
        raise OptionError(f"saliency maps for training take 32 to 512 masks, got {masks}")
    explainer = Explainer(bundle, threads=threads)
    pictures = data.split("train")
    with progress_bar(pictures, "embeddings", leave=True) as indices:
        vectors = np.concatenate([explainer.embed([data.picture(i)]) for i in indices])
    references = _references(data, pictures, vectors, nearest)
    if not any(rows.size for rows, _ in references):
        raise OptionError("no two training pictures match each other, so there is nothing to explain; use other data")
    settings = {
        **{"graph": explainer.model.graph_digest, "identity": explainer.model.bundle.identity},
        **{"masks": masks, "nearest": nearest, "seed": seed},
        "pictures": digest(pictures, vectors, *(part for each in references for part in each)),
    }
    stored = _open_map_file(path, (len(pictures), max(rows.size for rows, _ in references), SIDE, SIDE), settings)
    method = Rise(masks=masks, seed=seed)
    with progress_bar(range(len(pictures)), "saliency maps", leave=True) as rows_to_fill:
        for row in rows_to_fill:
            chosen, types = references[row]
            if not chosen.size or not np.isnan(stored[row, chosen.size - 1, -1, -1]):
                continue
            conditions = [data.conditions[t] if t >= 0 else None for t in types] if data.conditions else None
            made = explainer.explain_many(
                data.picture(pictures[row]), list(vectors[chosen]), method, condition=conditions, top=0
            )
            stored[row, : len(chosen)] = PUBLISHED_MASKS * area_means(np.stack([e.saliency for e in made]), SIDE, SIDE)
    stored.flush()
    return Maps(pictures, stored)


def _references(
    data: DataSet, pictures: np.ndarray, vectors: np.ndarray, nearest: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return, for each picture, the rows of `pictures` that match it, and the types of those pairs.

    The labelled ones come first, then the most similar ones, which have type -1. pictures: (m,) int64; vectors: (m, D)
    """
    pairs = data.pairs("train")
    left, right = np.searchsorted(pictures, pairs.left), np.searchsorted(pictures, pairs.right)
    known: list[dict[int, int]] = [{} for _ in pictures]
    for a, b, kind in zip(left.tolist(), right.tolist(), pairs.conditions.tolist(), strict=True):
        known[a][b] = known[b][a] = kind
    if nearest:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for row, labelled in enumerate(known):
            cosines = unit @ unit[row]
            cosines[row] = -np.inf
            most = np.argsort(-cosines, kind="stable")[: nearest + len(labelled)].tolist()
            labelled.update(dict.fromkeys([i for i in most if i not in labelled][:nearest], -1))
    return [(np.array(list(k)[:MOST_MAPS], np.int64), np.array(list(k.values())[:MOST_MAPS], np.int64)) for k in known]


def _open_map_file(path: Path, shape: tuple[int, ...], settings: dict[str, object]) -> np.ndarray:
    """Open the memory-mapped file, or make it if it is missing; its settings lie beside it as JSON."""
    beside = path.with_suffix(".json")
    if path.exists() and beside.exists():
        try:
            same = json.loads(beside.read_text()) == settings
        except ValueError:
            same = False
        if not same:
            raise OptionError(f"{path} holds maps of other settings: choose another folder, or delete it")
        with as_output_error(path):
            return np.lib.format.open_memmap(path, mode="r+")
    with as_output_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        made = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        made[:] = np.nan
        made.flush()
    write_whole(beside, (json.dumps(settings) + "\n").encode())
    return made
