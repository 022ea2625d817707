"""The photo data sets' layouts, on pictures drawn here."""

import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from training.datasets.photos import Photos
from training.datasets.protocol import SPLITS

CLASSES = ("antelope", "grizzly+bear", "seal", "bat")
MATRIX = "1 0 1\n0 1 0\n1 1 0\n 0  0  1\n"
OUTFITS = {
    "train": {"t1": "abc", "t2": "ab"},
    "valid": {"v1": "dec", "v2": "de"},
    "test": {"s1": "fgh", "s2": "gh"},
}
TYPES = {
    "a": "tops",
    "b": "shoes",
    "c": "bags",
    "d": "shoes",
    "e": "tops",
    "f": "hats",
    "g": "bags",
    "h": "tops",
    "z": "hats",
}
TYPESPACES = [("tops", "shoes"), ("tops", "bags"), ("hats", "shoes")]
ANNOTATIONS = {"a": [0, 2], "b": [], "z": [1], "h": [3]}


def draw(file: Path, seed: int, size: tuple[int, int] = (40, 30)) -> None:
    """Write a picture of blobs: a crop of it, or its mirror image, differs from it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size).save(file)


def write_animals(root: Path) -> Path:
    """Write two classes of ten pictures to train on, and seal and bat, of three and one, to test on; returns `root`."""
    folder = root / "Animals_with_Attributes2"
    for i, (name, count) in enumerate(zip(CLASSES, (10, 10, 3, 1), strict=True)):
        for k in range(count):
            draw(folder / "JPEGImages" / name / f"{name}_{10001 + k}.jpg", 100 * i + k)
    (folder / "classes.txt").write_text("".join(f"   {i}\t{name}\n" for i, name in enumerate(CLASSES, 1)))
    (folder / "predicates.txt").write_text("    1\tfurry\n    2\tbig\n    3\tfast\n")
    (folder / "predicate-matrix-binary.txt").write_text(MATRIX)
    (folder / "trainclasses.txt").write_text("grizzly+bear\nantelope\n")
    (folder / "testclasses.txt").write_text("seal\nbat\n")
    return root


def write_outfits(root: Path) -> Path:
    """Write items a to h: c is of an outfit to train on and of one for validation. z is of none, and without a picture."""
    folder = root / "polyvore_outfits"
    for i, item in enumerate("abcdefgh"):
        draw(folder / "images" / f"{item}.jpg", i)
    for division in ("nondisjoint", "disjoint"):
        (folder / division).mkdir()
        for name in SPLITS:
            rows = OUTFITS[name].items()
            listed = [{"set_id": s, "items": [{"item_id": c, "index": i + 1} for i, c in enumerate(m)]} for s, m in rows]
            (folder / division / f"{name}.json").write_text(json.dumps(listed))
        (folder / division / "typespaces.p").write_bytes(pickle.dumps(TYPESPACES))
    metadata = {item: {"semantic_category": kind} for item, kind in TYPES.items()}
    (folder / "polyvore_item_metadata.json").write_text(json.dumps(metadata))
    (folder / "polyvore_attributes.json").write_text(json.dumps({"annotations": ANNOTATIONS}))
    (folder / "attribute_list.txt").write_text("red\nstriped\nleather\nlong sleeve\n")
    return root


def write_pairs(root: Path, split: str, name: str, lines: str) -> None:
    """Write a file of pairs in the authors' format."""
    file = root / "pairs" / split / f"{name}_pairs.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(lines)


def stems(data: Photos, split: str) -> list[tuple[str, str]]:
    """Return the pairs of a split as names of files without suffix."""
    pairs = data.pairs(split)
    return [(data.files[a].stem, data.files[b].stem) for a, b in zip(pairs.left, pairs.right, strict=True)]
