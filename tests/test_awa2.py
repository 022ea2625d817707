"""What the data set of animals makes of its layout, on pictures drawn here."""

from pathlib import Path

import numpy as np
import pytest
from photo_sets import CLASSES, stems, write_animals, write_pairs

from engine.errors import OptionError
from training.datasets.awa2 import load_awa2
from training.datasets.protocol import SPLITS


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    return write_animals(tmp_path)


def test_animals_are_split_by_class_and_seed(animals: Path) -> None:
    data = load_awa2(animals)
    assert sorted(np.concatenate([data.split(name) for name in SPLITS]).tolist()) == list(range(24))
    assert [len(data.split(name)) for name in SPLITS] == [18, 2, 4]
    assert all((np.diff(data.split(name)) > 0).all() for name in SPLITS)
    assert {data.files[i].parent.name for i in data.split("test")} == {"seal", "bat"}
    assert (load_awa2(animals).split("valid") == data.split("valid")).all()
    assert any((load_awa2(animals, seed=s).split("valid") != data.split("valid")).any() for s in (1, 2, 3))


def test_the_attributes_of_animals_are_their_classes(animals: Path) -> None:
    data = load_awa2(animals)
    assert (data.attributes, data.conditions, data.truth.dtype) == (("furry", "big", "fast"), (), bool)
    rows = dict(
        zip(CLASSES, [[True, False, True], [False, True, False], [True, True, False], [False, False, True]], strict=True)
    )
    assert all(truth.tolist() == rows[file.parent.name] for file, truth in zip(data.files, data.truth, strict=True))


@pytest.mark.parametrize("split", SPLITS)
def test_drawn_pairs_of_animals_are_of_one_class_and_split(animals: Path, split: str) -> None:
    data = load_awa2(animals, seed=3)
    pairs = data.pairs(split)
    inside = set(data.split(split).tolist())
    kinds = [data.files[i].parent.name for i in data.split(split)]
    assert sorted(pairs.left.tolist()) == [i for i, k in zip(data.split(split), kinds, strict=True) if kinds.count(k) > 1]
    assert set(pairs.right.tolist()) <= inside
    assert all(data.files[a].parent == data.files[b].parent and a != b for a, b in zip(pairs.left, pairs.right, strict=True))
    assert (pairs.groups == data.classes[pairs.left]).all() and not pairs.conditions.any()
    again = load_awa2(animals, seed=3).pairs(split)
    assert (pairs.right == again.right).all() and (pairs.right == data.pairs(split).right).all()
    assert {a.dtype for a in (pairs.left, pairs.right, pairs.groups, pairs.conditions)} == {np.dtype(np.int64)}


def test_the_pair_file_of_animals_comes_first(animals: Path) -> None:
    write_pairs(animals, "test", "awa", "seal_10003 seal_10001 1\nseal_10001 bat_10001 0\n\nseal_10002 seal_10003 1\n")
    data = load_awa2(animals)
    assert stems(data, "test") == [("seal_10003", "seal_10001"), ("seal_10002", "seal_10003")]
    assert data.pairs("test").groups.tolist() == [2, 2]
    assert len(data.pairs("train")) == 18


def test_lines_of_other_splits_are_left_out_with_a_warning(animals: Path) -> None:
    """The published file for validation is of test classes: its pairs would show training what the test asks."""
    data = load_awa2(animals)
    drawn = stems(data, "train")
    left, right = drawn[0]
    write_pairs(animals, "train", "awa", f"seal_10001 seal_10002 1\n{left} nobody 1\n{left} {right} 1\n")
    with pytest.warns(UserWarning, match="1 of 3 matches are train pictures$"):
        assert stems(data, "train") == [(left, right)]
    write_pairs(animals, "train", "awa", "seal_10001 seal_10002 1\n")
    with pytest.warns(UserWarning, match="0 of 1 .* as if there were no file"):
        assert stems(data, "train") == drawn


@pytest.mark.parametrize(
    ("line", "said"), [("seal_10001 bat_10001 1", "seal_10001 and bat_10001"), ("seal_10001 seal_10002", "line 1")]
)
def test_pair_files_that_cannot_be_are_refused(animals: Path, line: str, said: str) -> None:
    write_pairs(animals, "test", "awa", f"{line}\n")
    with pytest.raises(OptionError, match=said):
        load_awa2(animals).pairs("test")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("predicate-matrix-binary.txt", "1 0\n" * 4, "4 rows of 3 entries.*got 4 rows of 2"),
        ("predicate-matrix-binary.txt", "1 0 1\n" * 3, "got 3 rows of 3"),
        ("predicate-matrix-binary.txt", "1 0 1\n" * 3 + "1 0\n", "got 4 rows of 2 or 3"),
        ("predicate-matrix-binary.txt", "1 0 2\n" * 4, "0 and 1"),
        ("predicates.txt", "1\tfurry\n2\tbig\n2\tfast\n", "number"),
        ("predicates.txt", "1\tfurry\n2\tbig\n3\tbig\n", "twice"),
        ("testclasses.txt", "seal\nunicorn\n", "unicorn"),
        ("testclasses.txt", "seal\nantelope\n", "antelope"),
        ("classes.txt", "1\tantelope\n2\tyeti\n3\tseal\n4\tbat\n", "grizzly"),
    ],
)
def test_files_of_animals_that_do_not_fit_are_refused(animals: Path, name: str, text: str, said: str) -> None:
    (animals / "Animals_with_Attributes2" / name).write_text(text)
    with pytest.raises(OptionError, match=said) as refused:
        load_awa2(animals)
    assert "\n" not in str(refused.value)
