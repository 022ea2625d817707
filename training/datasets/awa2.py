"""Animals with Attributes 2: photos of 50 species; 85 attributes that are a species', not a picture's.

The layout is the published one, below the root folder: `Animals_with_Attributes2/` with
`JPEGImages/<class>/<class>_<id>.jpg`, `classes.txt`, `predicates.txt`, `predicate-matrix-binary.txt`, `trainclasses.txt` and
`testclasses.txt`; where wanted, `pairs/<split>/awa_pairs.txt` beside it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.errors import OptionError
from training.datasets.photos import Photos, distinct, folder_of, text_of
from training.datasets.protocol import SPLITS, Pairs

FOLDER = "Animals_with_Attributes2"
VALID_SHARE = 0.1


class AwA2(Photos):
    """Pictures match that are of one class, which is also their group.

    The classes of testclasses.txt are the test; the pictures of trainclasses.txt are divided by a permutation drawn from the
    seed, a tenth for validation. The pairs are those that `pairs/<split>/awa_pairs.txt` below the root labels 1. Without
    that file (or with none of this split in it: `Photos.listed`) each picture has another of its class and split, drawn from
    the seed; a picture that is alone there has no pair.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[Path],
        classes: np.ndarray,
        attributes: tuple[str, ...],
        matrix: np.ndarray,
        splits: dict[str, np.ndarray],
        size: int,
        seed: int,
    ) -> None:
        """classes: (n,) int64, rows of matrix (C, A) bool"""
        super().__init__(files, attributes, matrix[classes], splits, (), size)
        self.root, self.classes, self.seed = root, classes, seed

    def pairs(self, name: str) -> Pairs:
        file = self.root / "pairs" / name / "awa_pairs.txt"
        found = self.listed(name, file)
        if found is None:
            found = self._drawn(name)
        left, right = found.T
        differ = np.flatnonzero(self.classes[left] != self.classes[right])
        if len(differ):
            stems = " and ".join(self.files[i].stem for i in found[differ[0]])
            raise OptionError(f"{file}: {stems} are of two classes and cannot match; correct the line's label, 1, to 0")
        return Pairs(left, right, self.classes[left], np.zeros(len(left), np.int64))

    def _drawn(self, name: str) -> np.ndarray:
        """(P, 2): every picture with another of its class"""
        generator = np.random.default_rng([self.seed, SPLITS.index(name)])
        pictures, pairs = self.split(name), [np.empty((0, 2), np.int64)]
        for kind in np.unique(self.classes[pictures]):
            members = pictures[self.classes[pictures] == kind]
            if len(members) > 1:
                steps = generator.integers(1, len(members), len(members))  # a step of 0 would be the picture itself
                others = members[(np.arange(len(members)) + steps) % len(members)]
                pairs.append(np.stack([members, others], 1))
        return np.concatenate(pairs)


def load_awa2(root: Path, size: int = 112, seed: int = 0) -> AwA2:
    """size: side in pixels of what the networks see; seed: of what divides train from valid, and of drawn pairs

    Raises OptionError where a file is missing or does not fit the others.
    """
    folder = folder_of(Path(root) / FOLDER)
    names = _numbered(folder / "classes.txt")
    attributes = _numbered(folder / "predicates.txt")
    matrix = _matrix(folder / "predicate-matrix-binary.txt", len(names), len(attributes))
    test = _chosen(folder / "testclasses.txt", names)
    train = _chosen(folder / "trainclasses.txt", names)
    if test & train:
        raise OptionError(
            f"{folder}: {sorted(test & train)[0]} is in trainclasses.txt and in testclasses.txt; it must be in one"
        )
    files: list[Path] = []
    classes: list[int] = []
    for i, name in enumerate(names):
        if name in test | train:
            found = _photos(folder / "JPEGImages" / name)
            files += found
            classes += [i] * len(found)
    in_test = np.array([names[c] in test for c in classes])
    return AwA2(Path(root), files, np.array(classes), attributes, matrix, _divided(in_test, seed), size, seed)


def _divided(in_test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """in_test: (n,) bool"""
    mixed = np.random.default_rng(seed).permutation(np.flatnonzero(~in_test))
    held = round(VALID_SHARE * len(mixed))
    return {"train": np.sort(mixed[held:]), "valid": np.sort(mixed[:held]), "test": np.flatnonzero(in_test)}


def _photos(folder: Path) -> list[Path]:
    found = sorted(folder_of(folder).glob("*.jpg"))  # a folder's own order differs between machines
    if not found:
        raise OptionError(f"{folder} holds no .jpg; unpack the pictures of that class again")
    return found


def _numbered(file: Path) -> tuple[str, ...]:
    """Lines of a number, from 1, and a name."""
    rows = [line.split(maxsplit=1) for line in text_of(file).splitlines() if line.strip()]
    if [row[0] for row in rows] != [str(i + 1) for i in range(len(rows))]:
        raise OptionError(f"{file} must number its lines from 1: a number, a tab and a name on each")
    return distinct([row[1].strip() if len(row) > 1 else "" for row in rows], file)


def _matrix(file: Path, classes: int, attributes: int) -> np.ndarray:
    """(C, A) bool"""
    rows = [line.split() for line in text_of(file).splitlines() if line.strip()]
    widths = {len(row) for row in rows}
    if len(rows) != classes or widths != {attributes}:
        got = f"{len(rows)} rows of {' or '.join(map(str, sorted(widths))) or 'no'} entries"
        raise OptionError(f"{file} must have {classes} rows of {attributes} entries, a class each; got {got}")
    if not {entry for row in rows for entry in row} <= {"0", "1"}:
        raise OptionError(f"{file} must hold 0 and 1 alone")
    return np.array(rows, np.uint8).astype(bool)


def _chosen(file: Path, names: Sequence[str]) -> set[str]:
    chosen = {line.strip() for line in text_of(file).splitlines()} - {""}
    if not chosen or not chosen <= set(names):
        unknown = ", ".join(sorted(chosen - set(names))) or "nothing"
        raise OptionError(f"{file} must name classes of classes.txt, got {unknown}")
    return chosen
