"""Animals with Attributes 2: photos of 50 species, with 85 attributes of each species (not of each picture).

The layout below the root folder is the published one: `Animals_with_Attributes2/` with
`JPEGImages/<class>/<class>_<id>.jpg`, `classes.txt`, `predicates.txt`, `predicate-matrix-binary.txt`, `trainclasses.txt` and
`testclasses.txt`; and, if wanted, `pairs/<split>/awa_pairs.txt` beside it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.errors import OptionError
from engine.pictures.reading import AS_USUAL, Reading
from training.datasets.photos import Photos, checked_names, existing_folder, read_text
from training.datasets.protocol import SPLITS, Pairs

FOLDER = "Animals_with_Attributes2"
VALID_SHARE = 0.1


class AwA2(Photos):
    """Pictures of one class match each other; the class is also their group.

    The classes of testclasses.txt are the test split. The pictures of the classes of trainclasses.txt are divided by a
    permutation drawn from the seed, a tenth for validation. The pairs are those that `pairs/<split>/awa_pairs.txt` below the
    root labels 1. Without that file, or if none of its pairs is of the split (see `Photos.listed_pairs`), each picture is
    paired with another one of its class and split, drawn from the seed; the only picture of a class has no pair.
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
        reading: Reading,
    ) -> None:
        """classes: (n,) int64, the row of each picture in matrix (C, A) bool"""
        super().__init__(files, attributes, matrix[classes], splits, (), size, reading)
        self.root, self.classes, self.seed = root, classes, seed

    def pairs(self, name: str) -> Pairs:
        file = self.root / "pairs" / name / "awa_pairs.txt"
        found = self.listed_pairs(name, file)
        if found is None:
            found = self._drawn(name)
        left, right = found.T
        differ = np.flatnonzero(self.classes[left] != self.classes[right])
        if len(differ):
            stems = " and ".join(self.files[i].stem for i in found[differ[0]])
            raise OptionError(
                f"{file}: {stems} are of two classes and cannot match; change the label of that line from 1 to 0"
            )
        return Pairs(left, right, self.classes[left], np.zeros(len(left), np.int64))

    def _drawn(self, name: str) -> np.ndarray:
        """Draw pairs (P, 2) int64: every picture with another one of its class."""
        generator = np.random.default_rng([self.seed, SPLITS.index(name)])
        pictures, pairs = self.split(name), [np.empty((0, 2), np.int64)]
        for kind in np.unique(self.classes[pictures]):
            members = pictures[self.classes[pictures] == kind]
            if len(members) > 1:
                steps = generator.integers(1, len(members), len(members))  # a step of 0 would give the picture itself
                others = members[(np.arange(len(members)) + steps) % len(members)]
                pairs.append(np.stack([members, others], 1))
        return np.concatenate(pairs)


def load_awa2(root: Path, size: int = 112, seed: int = 0, reading: Reading = AS_USUAL) -> AwA2:
    """Load the data set from the folder `root`. size: side in pixels of the networks' pictures

    seed: of the division into train and valid, and of drawn pairs; reading: how files are read
    Raises OptionError if a file is missing or does not fit the others.
    """
    folder = existing_folder(Path(root) / FOLDER)
    names = _numbered(folder / "classes.txt")
    attributes = _numbered(folder / "predicates.txt")
    matrix = _matrix(folder / "predicate-matrix-binary.txt", len(names), len(attributes))
    test = _chosen(folder / "testclasses.txt", names)
    train = _chosen(folder / "trainclasses.txt", names)
    if test & train:
        raise OptionError(
            f"{folder}: {sorted(test & train)[0]} is in trainclasses.txt and in testclasses.txt; remove it from one of them"
        )
    files: list[Path] = []
    classes: list[int] = []
    for i, name in enumerate(names):
        if name in test | train:
            found = _photos(folder / "JPEGImages" / name)
            files += found
            classes += [i] * len(found)
    in_test = np.array([names[c] in test for c in classes])
    return AwA2(Path(root), files, np.array(classes), attributes, matrix, _divided(in_test, seed), size, seed, reading)


def _divided(in_test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Divide pictures into splits. in_test: (n,) bool"""
    mixed = np.random.default_rng(seed).permutation(np.flatnonzero(~in_test))
    held = round(VALID_SHARE * len(mixed))
    return {"train": np.sort(mixed[held:]), "valid": np.sort(mixed[:held]), "test": np.flatnonzero(in_test)}


def _photos(folder: Path) -> list[Path]:
    found = sorted(existing_folder(folder).glob("*.jpg"))  # the order of a folder differs between machines
    if not found:
        raise OptionError(f"{folder} holds no .jpg files; unpack the pictures of that class again")
    return found


def _numbered(file: Path) -> tuple[str, ...]:
    """Read names from lines that are numbered from 1."""
    rows = [line.split(maxsplit=1) for line in read_text(file).splitlines() if line.strip()]
    if [row[0] for row in rows] != [str(i + 1) for i in range(len(rows))]:
        raise OptionError(f"{file} must have a number, a tab and a name on each line, numbered from 1; unpack it again")
    return checked_names([row[1].strip() if len(row) > 1 else "" for row in rows], file)


def _matrix(file: Path, classes: int, attributes: int) -> np.ndarray:
    """Read the matrix (C, A) bool: which class has which attribute."""
    rows = [line.split() for line in read_text(file).splitlines() if line.strip()]
    widths = {len(row) for row in rows}
    if len(rows) != classes or widths != {attributes}:
        got = f"{len(rows)} rows of {' or '.join(map(str, sorted(widths))) or 'no'} entries"
        raise OptionError(f"{file} must have {classes} rows of {attributes} entries, one per class; got {got}")
    if not {entry for row in rows for entry in row} <= {"0", "1"}:
        raise OptionError(f"{file} must hold only 0 and 1; unpack it again")
    return np.array(rows, np.uint8).astype(bool)


def _chosen(file: Path, names: Sequence[str]) -> set[str]:
    chosen = {line.strip() for line in read_text(file).splitlines()} - {""}
    if not chosen or not chosen <= set(names):
        unknown = ", ".join(sorted(chosen - set(names))) or "nothing"
        raise OptionError(f"{file} must name classes that are in classes.txt, got {unknown}")
    return chosen
