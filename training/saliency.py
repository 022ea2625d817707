"""Saliency maps of training pictures, made by the engine before attribute training and kept in one memory-mapped file."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from engine import Explainer, Rise
from engine.attributes.ranking import area_means
from engine.errors import OptionError
from engine.files import write_whole
from training.datasets.protocol import DataSet
from training.loop import digest

SIDE = 28
"""Of a stored map, as published."""
PUBLISHED_MASKS = 2000
"""A raw map grows with its masks; the losses know it at this number. Softmax over space forgets the constant it also has."""
BLOCK = 1024
"""Pictures whose maps are in memory at once."""
MOST = 20
"""Maps kept of one picture, as published."""


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """pictures: (m,) int64, indices into the data set

    stored: (m, K, 28, 28) float32, raw maps at the scale of 2000 masks; NaN where a picture has fewer than K
    """

    pictures: np.ndarray
    stored: np.ndarray

    def of(self, indices: np.ndarray, size: tuple[int, int], keep: int | None = None) -> tuple[Tensor, Tensor]:
        """Maps (n, K, h * w) float32, resized with corners aligned, and which there are (n, K): 1 or 0.

        indices: (n,), pictures that have maps; keep: at most so many of each
        """
        rows = np.minimum(np.searchsorted(self.pictures, indices), len(self.pictures) - 1)
        if (self.pictures[rows] != indices).any():
            raise OptionError("a picture has no maps here: they were made for another split")
        resized, valid = [], []
        for start in range(0, len(rows), BLOCK):  # the file may be larger than the memory
            chosen = torch.from_numpy(self.stored[rows[start : start + BLOCK], :keep])
            valid.append((~chosen[:, :, 0, 0].isnan()).float())
            resized.append(F.interpolate(chosen.nan_to_num(), size, mode="bilinear", align_corners=True).flatten(2))
        return torch.cat(resized), torch.cat(valid)

    def shuffled(self, seed: int) -> "Maps":
        """Maps permuted over the pictures: what the maps' own content is worth is the difference to this."""
        order = np.random.default_rng(seed).permutation(len(self.pictures))
        return Maps(self.pictures, self.stored[order])


def saliency_maps(
    data: DataSet, bundle: Path, path: Path, masks: int = 256, nearest: int = 0, seed: int = 0, threads: int | None = None
) -> Maps:
    """Maps of every training picture against training pictures that match it, at the scale of 2000 masks.

    path: an .npy file that is memory-mapped; what an earlier, stopped call wrote there is not made again
    masks: of estimator "regression", at most 512
    nearest: references beside the labelled ones, the most similar by the model; 20 references in all at most
    Raises OptionError where `path` holds maps of other settings.
    """
    if not 32 <= masks <= 512:
        raise OptionError(f"training maps take 32 to 512 masks, got {masks}")
    explainer = Explainer(bundle, threads=threads)
    pictures = data.split("train")
    vectors = np.concatenate([explainer.embed([data.picture(i)]) for i in tqdm(pictures, desc="embeddings", disable=None)])
    references = _references(data, pictures, vectors, nearest)
    if not any(rows.size for rows, _ in references):
        raise OptionError("no training picture has one that matches it: there is nothing to explain")
    settings = {
        **{"graph": explainer.model.graph_digest, "identity": explainer.model.bundle.identity},
        **{"masks": masks, "nearest": nearest, "seed": seed},
        "pictures": digest(pictures, vectors, *(part for each in references for part in each)),
    }
    stored = _opened(path, (len(pictures), max(rows.size for rows, _ in references), SIDE, SIDE), settings)
    for row in tqdm(range(len(pictures)), desc="saliency maps", disable=None):
        chosen, types = references[row]
        if not chosen.size or not np.isnan(stored[row, chosen.size - 1, -1, -1]):
            continue
        conditions = [data.conditions[t] if t >= 0 else None for t in types] if data.conditions else None
        made = explainer.explain_many(
            data.picture(pictures[row]), list(vectors[chosen]), Rise(masks=masks, seed=seed), condition=conditions, top=0
        )
        stored[row, : len(chosen)] = PUBLISHED_MASKS * area_means(np.stack([e.saliency for e in made]), SIDE, SIDE)
    stored.flush()
    return Maps(pictures, stored)


def _references(
    data: DataSet, pictures: np.ndarray, vectors: np.ndarray, nearest: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per picture, rows of `pictures` that match it, labelled ones, then the most similar; and each pair's type, or -1."""
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
    return [(np.array(list(k)[:MOST], np.int64), np.array(list(k.values())[:MOST], np.int64)) for k in known]


def _opened(path: Path, shape: tuple[int, ...], settings: dict[str, object]) -> np.ndarray:
    """The memory-mapped file, made where it is missing; its settings lie beside it as JSON."""
    beside = path.with_suffix(".json")
    if path.exists() and beside.exists():
        try:
            same = json.loads(beside.read_text()) == settings
        except ValueError:
            same = False
        if not same:
            raise OptionError(f"{path} holds maps of other settings; choose another folder or delete it")
        return np.lib.format.open_memmap(path, mode="r+")
    path.parent.mkdir(parents=True, exist_ok=True)
    made = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    made[:] = np.nan
    made.flush()
    write_whole(beside, (json.dumps(settings) + "\n").encode())
    return made
