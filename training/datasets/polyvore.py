"""Polyvore Outfits: photos of clothes. Two items of one outfit match, under the condition of their two types.

The layout below the root folder: `polyvore_outfits/` with `images/<item_id>.jpg`, `polyvore_item_metadata.json`,
`polyvore_attributes.json`, `attribute_list.txt`, and `nondisjoint/` or `disjoint/` with `{train,valid,test}.json` and
`typespaces.p`; and, if wanted, `pairs/<split>/polyvore_outfits_pairs.txt` beside it.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import OptionError
from engine.pictures.reading import AS_USUAL, Reading
from export.checkpoints import load_typespaces
from training.datasets.photos import Photos, checked_names, existing_folder, index_by_name, read_json, read_text
from training.datasets.protocol import SPLITS, Pairs

FOLDER = "polyvore_outfits"
DIVISIONS = ("nondisjoint", "disjoint")


class Polyvore(Photos):
    """Two items match if an outfit holds both and their pair of types, in either order, is in typespaces.p.

    An item of several splits (there are some in "nondisjoint") belongs to the first of train, valid and test that has it,
    and a pair belongs to a split only if both items do. Items without an outfit are left out. The group of a pair is its
    outfit, the first one if several hold it: if all pairs that share an item were one group, everything would be one group.

    If there is a file `pairs/<split>/polyvore_outfits_pairs.txt` below the root with pairs of the split (see
    `Photos.listed_pairs`), it lists the pairs instead. A listed pair that no outfit of the split holds is its own group.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[Path],
        attributes: tuple[str, ...],
        truth: np.ndarray,
        splits: dict[str, np.ndarray],
        types: Sequence[str],
        typespaces: Sequence[tuple[str, str]],
        outfits: Mapping[str, Sequence[Sequence[int]]],
        size: int,
        reading: Reading,
    ) -> None:
        """types: (n,), of each picture; typespaces: (C,); outfits: split -> the pictures of each outfit"""
        super().__init__(files, attributes, truth, splits, tuple(",".join(pair) for pair in typespaces), size, reading)
        self.root, self.types, self.outfits = root, types, outfits
        self._condition = {pair: i for i, pair in enumerate(typespaces)}

    def pairs(self, name: str) -> Pairs:
        """Return the pairs of a split."""
        outfit = self._outfit_of(name)
        listed = self.listed_pairs(name, self.root / "pairs" / name / "polyvore_outfits_pairs.txt")
        chosen = list(outfit) if listed is None else [(left, right) for left, right in listed.tolist()]
        rows = []
        for line, (left, right) in enumerate(chosen):
            condition = self._condition_of(left, right)
            if condition is not None:
                group = outfit.get((min(left, right), max(left, right)), len(self.outfits[name]) + line)
                rows.append((left, right, group, condition))
        return Pairs(*np.array(rows, np.int64).reshape(-1, 4).T)

    def _outfit_of(self, name: str) -> dict[tuple[int, int], int]:
        """Return, for each pair of pictures of the split, the smaller one first, the first outfit that holds both."""
        found: dict[tuple[int, int], int] = {}
        inside = set(self.split(name).tolist())
        for number, outfit in enumerate(self.outfits[name]):
            for pair in itertools.combinations(sorted(inside.intersection(outfit)), 2):
                found.setdefault(pair, number)
        return found

    def _condition_of(self, left: int, right: int) -> int | None:
        pair = self.types[left], self.types[right]
        return self._condition.get(pair, self._condition.get(pair[::-1]))


def load_polyvore(root: Path, size: int = 112, split: str = "nondisjoint", reading: Reading = AS_USUAL) -> Polyvore:
    """Load the data set from the folder `root`. size: side in pixels of the networks' pictures

    split: "nondisjoint" or "disjoint", the folder of outfits. An item without annotations has no attributes.
    reading: how files are read
    Raises OptionError if a file is missing or does not fit the others, and ExportError if typespaces.p holds more than
    strings in lists; no code in it runs.
    """
    if split not in DIVISIONS:
        raise OptionError(f"the split of Polyvore must be {' or '.join(DIVISIONS)}, got {split!r}")
    folder = existing_folder(Path(root) / FOLDER)
    outfits = {name: _outfits(folder / split / f"{name}.json") for name in SPLITS}
    typespaces = _typespaces(folder / split / "typespaces.p")
    belongs: dict[str, str] = {}
    for name in SPLITS:
        for item in itertools.chain(*outfits[name]):
            belongs.setdefault(item, name)
    items = sorted(belongs)
    number = index_by_name(items)
    splits = {name: np.array([i for i, item in enumerate(items) if belongs[item] == name], np.int64) for name in SPLITS}
    attributes = checked_names(read_text(folder / "attribute_list.txt").strip().splitlines(), folder / "attribute_list.txt")
    return Polyvore(
        Path(root),
        _photos(folder / "images", items),
        attributes,
        _truth(folder / "polyvore_attributes.json", number, len(attributes)),
        splits,
        _types(folder / "polyvore_item_metadata.json", items),
        typespaces,
        {name: [[number[item] for item in outfit] for outfit in outfits[name]] for name in SPLITS},
        size,
        reading,
    )


def _typespaces(file: Path) -> list[tuple[str, str]]:
    if not file.exists():
        raise OptionError(f"cannot read {file} (no such file), which the data set needs; unpack it there again")
    typespaces = load_typespaces(file)
    if len(set(typespaces)) < len(typespaces):
        raise OptionError(f"{file} must hold each pair of types only once; unpack it again")
    return typespaces


def _outfits(file: Path) -> list[list[str]]:
    """Return the ids of each outfit's items."""
    try:
        outfits = [[item["item_id"] for item in outfit["items"]] for outfit in read_json(file, list)]
    except (KeyError, TypeError) as error:
        raise OptionError(f"{file} must hold outfits with `items`, each with an `item_id`; unpack it again") from error
    if not all(isinstance(item, str) for item in itertools.chain(*outfits)):
        raise OptionError(f"{file}: every item_id must be text; unpack it again")
    return outfits


def _photos(folder: Path, items: Sequence[str]) -> list[Path]:
    names = {file.name for file in existing_folder(folder).iterdir()}  # a missing picture is found before training starts
    missing = [item for item in items if f"{item}.jpg" not in names]
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise OptionError(f"{folder / missing[0]}.jpg{more} of the outfits' pictures are missing; unpack them again")
    return [folder / f"{item}.jpg" for item in items]


def _types(file: Path, items: Sequence[str]) -> list[str]:
    known = read_json(file, dict)
    try:
        types = [known[item]["semantic_category"] for item in items]
    except (KeyError, TypeError) as error:
        raise OptionError(f"{file} must give each item of an outfit a `semantic_category` ({error} is missing)") from error
    if not all(isinstance(kind, str) for kind in types):
        raise OptionError(f"{file}: every semantic_category must be text; unpack it again")
    return types


def _truth(file: Path, number: Mapping[str, int], attributes: int) -> np.ndarray:
    """Read which item has which attribute: (n, A) bool. number: the row of each item"""
    annotations: Any = read_json(file, dict).get("annotations")
    if not isinstance(annotations, dict):
        raise OptionError(f"{file} must hold `annotations`, from the id of an item to the indices of its attributes")
    truth = np.zeros((len(number), attributes), bool)
    for item, indices in annotations.items():
        if not isinstance(indices, list) or not all(isinstance(i, int) and 0 <= i < attributes for i in indices):
            raise OptionError(
                f"{file}: {item} must have a list of attribute indices below {attributes}, got {str(indices)[:60]}"
            )
        if item in number:
            truth[number[item], indices] = True
    return truth
