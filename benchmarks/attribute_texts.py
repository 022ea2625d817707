"""Attributes by text: a text tower trained to the demo's embeddings names held-out emoji without a single label.

A small joint image-text model: the demo's similarity network is the image tower and stays as it is; a text tower, the mean
of word vectors and two layers, is trained on the names of the training emoji (InfoNCE). Its embeddings of the attributes'
names go into a bundle by `export attributes --vectors`, and are calibrated on the validation emoji.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.attribute_sets import DEMO_NAMES, EMOJI, emoji_labels
from benchmarks.attribute_sources import demo_copy, judged
from engine import Explainer, Rise
from engine.attributes.vectors import unit_rows
from export.calibration import calibrate
from export.vectors import export_vectors
from training.datasets.emoji import load_emoji

WIDTH, EPOCHS, BATCH, RATE, DROPPED = 256, 60, 256, 2e-3, 0.3
SEED = 0
KIND = re.compile(r"^(mostly|some) | (above|below)$|-")
"""What an attribute's name says beside its words."""


class TextTower(nn.Module):
    """Words -> unit embeddings (n, D)."""

    def __init__(self, words: int, size: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(words + 1, WIDTH, mode="mean", padding_idx=0)
        self.layers = nn.Sequential(nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, size))
        self.scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, texts: Tensor) -> Tensor:
        """texts: (n, w) int64, numbers of words, 0 for none"""
        return F.normalize(self.layers(self.words(texts)), dim=1)


def by_text(cache: Path) -> list[dict[str, Any]]:
    """Train the text tower, and judge the attributes that its vectors give, before and after calibration."""
    torch.manual_seed(SEED)
    data = load_emoji(EMOJI, "all")
    bundle = demo_copy(cache / "texts")
    bases = data.bases("train")
    count = len(data.pair.base)
    drawn = [data.picture(i) for i in (*bases, *(bases + count))]
    pictures = torch.from_numpy(unit_rows(Explainer(bundle, precision="fp32").embed(drawn))).float()
    texts = [_words(data.pair.labels[i]) for i in (*bases, *bases)]
    vocabulary = {word: i for i, word in enumerate(sorted({w for text in texts for w in text}), 1)}
    tower = _trained(texts, vocabulary, pictures)
    named = [name for name in DEMO_NAMES if any(word in vocabulary for word in _words(name))]
    with torch.inference_mode():
        vectors = tower(_numbers([_words(name) for name in named], vocabulary)).numpy()
    file = cache / "texts.npz"
    np.savez(file, names=np.array(named), vectors=vectors, scale=float(tower.scale.detach().exp()), bias=0.0)
    export_vectors(bundle, file, confidence="softmax")
    labels = {split: emoji_labels(split, cache / split) for split in ("valid", "test")}
    plain = cache / "texts-plain"
    shutil.rmtree(plain, ignore_errors=True)
    shutil.copytree(bundle, plain)
    calibrate(bundle, labels["valid"].parent, labels["valid"], seed=SEED, method=Rise(masks=64))
    return [
        {"network": "demo", "source": source, "words": len(vocabulary), "trained_texts": len(bases), **judged(b, labels)}
        for source, b in (("texts", plain), ("texts, calibrated", bundle))
    ]


def _trained(texts: list[list[str]], vocabulary: dict[str, int], pictures: Tensor) -> TextTower:
    tower = TextTower(len(vocabulary), pictures.shape[1])
    numbers = _numbers(texts, vocabulary)
    optimizer = torch.optim.AdamW(tower.parameters(), RATE, weight_decay=0.05)
    for _ in range(EPOCHS):
        for part in torch.randperm(len(texts)).split(BATCH):
            dropped = torch.where(torch.rand(numbers[part].shape) < DROPPED, 0, numbers[part])
            scores = tower.scale.exp() * tower(dropped) @ pictures[part].T
            target = torch.arange(len(part))
            loss = (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return tower.eval()


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", KIND.sub(" ", text).lower())


def _numbers(texts: list[list[str]], vocabulary: dict[str, int]) -> Tensor:
    longest = max(len(text) for text in texts)
    rows = [[vocabulary.get(word, 0) for word in text] + [0] * (longest - len(text)) for text in texts]
    return torch.tensor(rows)
