"""The emoji pair: every emoji as drawn in Google's Noto and in Twitter's Twemoji, with tags as attributes.

The pictures come from npm's `emoji-datasource-google` (Apache-2.0) and `emoji-datasource-twitter` (CC-BY 4.0), the tags from
`emojibase-data` (MIT). `npm pack` fetches them once into a cache folder, and they are read from the archives there.
"""

import collections
import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.errors import OptionError
from engine.pictures.loading import load_picture
from engine.pictures.preprocessing import Preprocessing
from engine.pictures.reading import AS_USUAL
from training.augment import MEAN, STD, jittered
from training.datasets.emoji_archives import SIZE, VENDORS, decoded_pictures, fetch, read_member
from training.datasets.parts import visible_parts
from training.datasets.protocol import Pairs
from training.loop import Randomness

PERSON_WORDS = ("woman", "man", "girl", "boy", "person")
MIN_POSITIVES = 30
HELD_OUT_SHARE = 0.2
SKIN_TONE_SHARE = 0.5
ATTRIBUTE_SETS = ("tags", "parts", "all")


@dataclasses.dataclass(frozen=True)
class EmojiPair:
    """All P pictures of each vendor, and the attributes and the split of the B base emoji (those without a skin tone).

    pictures:   vendor -> (P, 64, 64, 4) uint8 RGBA
    base:       (B,) int64, the picture of each base emoji
    variants:   for each base emoji, the pictures (v,) int64 of its skin tones
    labels:     (B,) names of the emoji
    attributes: (A,) names; truth: (B, A) bool
    same:       (B,) int64, group number; base emoji that either vendor drew identically are in one group
    train, held_out: disjoint base emoji, sorted int64
    """

    pictures: dict[str, np.ndarray]
    base: np.ndarray
    variants: list[np.ndarray]
    labels: list[str]
    attributes: list[str]
    truth: np.ndarray
    same: np.ndarray
    train: np.ndarray
    held_out: np.ndarray


class Emoji:
    """The emoji pair as a `DataSet`: a picture is one vendor's drawing of one base emoji, Google's first.

    A picture matches the other vendor's drawing of the same emoji. The split is by base emoji: half of the held-out ones are
    for validation, half for the test, without the few that are drawn exactly like a training emoji. Skin tones are used in
    `views` only, half of the time.
    """

    conditions: tuple[str, ...] = ()
    reading = AS_USUAL

    def __init__(self, pair: EmojiPair, attributes: tuple[str, ...], truth: np.ndarray, size: int = SIZE) -> None:
        """truth: (2B, A) bool, Google's drawings first"""
        self.pair, self.attributes, self.truth, self.size = pair, attributes, truth, size
        unseen = pair.held_out[~np.isin(pair.same[pair.held_out], pair.same[pair.train])]
        half = len(unseen) // 2
        mixed = np.random.RandomState(0).permutation(unseen)
        self._bases = {"train": pair.train, "valid": np.sort(mixed[:half]), "test": np.sort(mixed[half:])}
        self._preprocessing = Preprocessing(size, size, mean=MEAN, std=STD)

    def bases(self, name: str) -> np.ndarray:
        """Return the base emoji (b,) int64 of a split."""
        return self._bases[name]

    def split(self, name: str) -> np.ndarray:
        """Return the pictures (2b,) int64 of a split."""
        return np.concatenate([self.bases(name), self.bases(name) + len(self.pair.base)])

    def pairs(self, name: str) -> Pairs:
        """Return the pairs of a split: Google's drawing and Twitter's of each emoji."""
        bases = self.bases(name)
        return Pairs(bases, bases + len(self.pair.base), self.pair.same[bases], np.zeros(len(bases), np.int64))

    def picture(self, index: int) -> np.ndarray:
        """Return a picture (64, 64, 3) uint8 RGB, on white."""
        return np.asarray(load_picture(Image.fromarray(self._drawings(np.array([index]))[0])))

    def plain(self, indices: np.ndarray) -> Tensor:
        """Return (n, 3, size, size) float32, normalised."""
        fitted = [self._preprocessing.fitted(Image.fromarray(self.picture(i)))[0] for i in indices]
        return torch.from_numpy(self._preprocessing.normalised(np.stack(fitted)))

    def augmented(self, indices: np.ndarray, randomness: Randomness) -> Tensor:
        """Return (n, 3, size, size) float32, jittered and normalised."""
        return jittered(self._drawings(indices), randomness.torch, self.size)

    def views(self, pairs: Pairs, randomness: Randomness) -> Tensor:
        """Return (2P, 3, size, size) float32, jittered; both drawings of a pair have the same skin tone."""
        chosen, count = self.pair.base[pairs.left].copy(), len(self.pair.base)
        if (pairs.left >= count).any() or (pairs.right != pairs.left + count).any():
            raise ValueError("a pair of emoji must be Google's drawing and Twitter's drawing of the same emoji")
        for i, base in enumerate(pairs.left):
            if len(self.pair.variants[base]) and randomness.numpy.random() < SKIN_TONE_SHARE:
                chosen[i] = randomness.numpy.choice(self.pair.variants[base])
        return torch.cat([jittered(self.pair.pictures[v][chosen], randomness.torch, self.size) for v in VENDORS])

    def _drawings(self, indices: np.ndarray) -> np.ndarray:
        """Return drawings (n, 64, 64, 4) uint8 RGBA."""
        vendor, base = np.divmod(indices, len(self.pair.base))
        return np.stack([self.pair.pictures[VENDORS[v]][self.pair.base[b]] for v, b in zip(vendor, base, strict=True)])


def load_emoji(root: Path, attributes: str = "tags", split_seed: int = 0, size: int = SIZE) -> Emoji:
    """Load the emoji pair as a data set; it is fetched into the folder `root` on first use.

    attributes: "tags", with groups and subgroups, the same for both vendors; "parts", what is visible in each drawing
    (`training.datasets.parts`); or "all": both, with the tag if both have the same name
    split_seed: of the split by base emoji; size: side in pixels of the networks' pictures. Raises OptionError, OutputError.
    """
    if attributes not in ATTRIBUTE_SETS:
        raise OptionError(f"the attributes of emoji must be {' or '.join(ATTRIBUTE_SETS)}, got {attributes!r}")
    pair = load_pair(root, split_seed)
    tags, tagged = tuple(pair.attributes), np.tile(pair.truth, (2, 1))
    if attributes == "tags":
        return Emoji(pair, tags, tagged, size)
    parts, seen = visible_parts(pair.labels, [pair.pictures[v][pair.base] for v in VENDORS])
    if attributes == "parts":
        return Emoji(pair, parts, seen, size)
    new = [i for i, name in enumerate(parts) if name not in tags]
    return Emoji(pair, (*tags, *(parts[i] for i in new)), np.concatenate([tagged, seen[:, new]], 1), size)


def load_pair(cache: Path, split_seed: int = 0) -> EmojiPair:
    """Load the emoji pair, fetched and decoded into the folder `cache` on first use; raises OptionError or OutputError."""
    archives = fetch(cache)
    entries = json.loads(read_member(archives["google"], "package/emoji.json"))
    tags = tags_by_code(json.loads(read_member(archives["tags"], "package/en/data.json")))
    pictures = decoded_pictures(cache, archives)
    rows = picture_rows(entries, tags, set(pictures["google"][1]) & set(pictures["twitter"][1]))
    arrays = {}
    for vendor, (data, names) in pictures.items():
        position = {name: i for i, name in enumerate(names)}
        arrays[vendor] = data[[position[row["file"]] for row in rows]]
    return emoji_pair(rows, arrays, split_seed)


def _code(unified: str) -> str:
    return unified.upper().replace("-FE0F", "")


def tags_by_code(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the entries of emojibase by code point; a skin tone carries the tags of its base."""
    table = {}
    for entry in entries:
        table[_code(entry["hexcode"])] = entry
        for skin in entry.get("skins", []):
            table.setdefault(_code(skin["hexcode"]), {**skin, "tags": entry.get("tags", [])})
    return table


def picture_rows(entries: list[dict[str, Any]], tags: dict[str, dict[str, Any]], files: set[str]) -> list[dict[str, Any]]:
    """Return a row for each picture that both vendors drew; people with two different skin tones are left out.

    entries: of emoji-datasource; tags: as `tags_by_code` returns them; files: names that both vendors have
    """
    rows = []
    for entry in entries:
        looks = [(entry["unified"], entry["image"], None)]
        looks += [(v["unified"], v["image"], tone) for tone, v in entry.get("skin_variations", {}).items()]
        for unified, file, tone in looks:
            if file not in files or (tone and len(set(tone.split("-"))) > 1):
                continue
            tagged = tags.get(_code(unified), {})
            label = tagged.get("label") or entry["short_name"]
            words = {entry["category"], entry["subcategory"], *tagged.get("tags", [])}
            words |= {word for word in PERSON_WORDS if re.search(rf"\b{word}\b", label)}
            rows.append({"file": file, "tone": tone, "base": entry["image"], "label": label, "words": words})
    return rows


def emoji_pair(rows: list[dict[str, Any]], pictures: dict[str, np.ndarray], split_seed: int = 0) -> EmojiPair:
    """Return what both vendors drew, with attributes and a split by base emoji.

    rows: of `picture_rows`, one a picture; pictures: vendor -> (N, 64, 64, 4) uint8 RGBA in the order of the rows
    """
    base = [i for i, row in enumerate(rows) if row["tone"] is None]
    number = {rows[i]["base"]: k for k, i in enumerate(base)}
    variants: list[list[int]] = [[] for _ in base]
    for i, row in enumerate(rows):
        if row["tone"] is not None and row["base"] in number:
            variants[number[row["base"]]].append(i)
    count = collections.Counter(word for i in base for word in rows[i]["words"])
    # most frequent first, equal counts by name: the order must not depend on Python's hash seed
    attributes = sorted((w for w, n in count.items() if n >= MIN_POSITIVES), key=lambda w: (-count[w], w))
    truth = np.array([[a in rows[i]["words"] for a in attributes] for i in base])
    order = np.random.RandomState(split_seed).permutation(len(base))
    held = round(HELD_OUT_SHARE * len(base))
    return EmojiPair(
        pictures=pictures,
        base=np.array(base),
        variants=[np.array(v, dtype=int) for v in variants],
        labels=[rows[i]["label"] for i in base],
        attributes=attributes,
        truth=truth,
        same=_identical(pictures, base),
        train=np.sort(order[held:]),
        held_out=np.sort(order[:held]),
    )


def _identical(pictures: dict[str, np.ndarray], base: list[int]) -> np.ndarray:
    """Return (B,) int64: the smallest base emoji among those that share a drawing, such as flags of dependencies."""
    group = np.arange(len(base))
    for vendor in VENDORS:
        first: dict[str, int] = {}
        for k, i in enumerate(base):
            digest = hashlib.sha256(pictures[vendor][i].tobytes()).hexdigest()
            other = first.setdefault(digest, k)
            group[group == group[k]] = group[other]
    return group
