"""Saliency maps of training pictures, made by the engine before attribute training and kept in one memory-mapped file."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from engine import Explainer, Rise
from engine.attributes import area_means
from engine.errors import OptionError
from engine.files import write_whole
from training.datasets.protocol import DataSet

SIDE = 28
"""Of a stored map, as published."""
PUBLISHED_MASKS = 2000
"""A raw map grows with its masks; the losses know it at this number. Softmax over space forgets the constant it also has."""
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
        rows = np.searchsorted(self.pictures, indices)
        if (rows >= len(self.pictures)).any() or (self.pictures[rows] != indices).any():
            raise OptionError("a picture has no maps here: they were made for another split")
        chosen = torch.from_numpy(self.stored[rows][:, :keep])
        valid = ~chosen[:, :, 0, 0].isnan()
        resized = F.interpolate(chosen.nan_to_num(), size, mode="bilinear", align_corners=True)
        return resized.flatten(2), valid.float()

    def shuffled(self, seed: int) -> "Maps":
        """Each picture with the maps of another: what the maps' own content is worth is the difference to this."""
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
    if not any(map(len, references)):
        raise OptionError("no training picture has one that matches it: there is nothing to explain")
    settings = {
        **{"graph": explainer._model.graph_digest, "masks": masks, "nearest": nearest, "seed": seed},
        "pictures": hashlib.sha256(pictures.tobytes()).hexdigest(),
    }
    stored = _opened(path, (len(pictures), max(map(len, references)), SIDE, SIDE), settings)
    for row in tqdm(range(len(pictures)), desc="saliency maps", disable=None):
        chosen = references[row]
        if not len(chosen) or not np.isnan(stored[row, len(chosen) - 1, -1, -1]):
            continue
        made = explainer.explain_many(
            data.picture(pictures[row]), list(vectors[chosen]), Rise(masks=masks, seed=seed), top=0
        )
        stored[row, : len(chosen)] = PUBLISHED_MASKS * area_means(np.stack([e.saliency for e in made]), SIDE, SIDE)
    stored.flush()
    return Maps(pictures, stored)


def _references(data: DataSet, pictures: np.ndarray, vectors: np.ndarray, nearest: int) -> list[np.ndarray]:
    """Per picture, rows of `pictures` that match it: labelled ones, then the most similar."""
    pairs = data.pairs("train")
    left, right = np.searchsorted(pictures, pairs.left), np.searchsorted(pictures, pairs.right)
    labelled: list[dict[int, None]] = [{} for _ in pictures]
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        labelled[a][b] = labelled[b][a] = None
    if nearest:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -np.inf)
        for row, known in enumerate(labelled):
            most = np.argsort(-cosines[row], kind="stable")[: nearest + len(known)]
            known.update(dict.fromkeys([i for i in most.tolist() if i not in known][:nearest]))
    return [np.array(list(known)[:MOST], np.int64) for known in labelled]


def _opened(path: Path, shape: tuple[int, ...], settings: dict[str, object]) -> np.ndarray:
    """The memory-mapped file, made where it is missing; its settings lie beside it as JSON."""
    beside = path.with_suffix(".json")
    if path.exists() and beside.exists():
        if json.loads(beside.read_text()) != settings:
            raise OptionError(f"{path} holds maps of other settings; choose another folder or delete it")
        return np.lib.format.open_memmap(path, mode="r+")
    path.parent.mkdir(parents=True, exist_ok=True)
    made = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    made[:] = np.nan
    made.flush()
    write_whole(beside, (json.dumps(settings) + "\n").encode())
    return made
