"""What the data set of outfits makes of its layout, on pictures drawn here."""

import json
import pickle
from pathlib import Path

import pytest
from helpers import Trap
from photo_sets import TYPESPACES, draw, stems, write_outfits, write_pairs

from engine.errors import OptionError
from export import ExportError
from training.datasets.polyvore import load_polyvore
from training.datasets.protocol import SPLITS


@pytest.fixture
def outfits(tmp_path: Path) -> Path:
    return write_outfits(tmp_path)


def test_outfits_are_split_with_a_shared_item_in_the_first(outfits: Path) -> None:
    data = load_polyvore(outfits)
    members = {name: "".join(data.files[i].stem for i in data.split(name)) for name in SPLITS}
    assert members == {"train": "abc", "valid": "de", "test": "fgh"}
    assert (data.conditions, data.attributes[-1]) == (("tops,shoes", "tops,bags", "hats,shoes"), "long sleeve")
    assert [[i for i, true in enumerate(row) if true] for row in data.truth] == [[0, 2], [], [], [], [], [], [], [3]]


def test_pairs_of_an_outfit_have_their_types_in_either_order(outfits: Path) -> None:
    """b, c are shoes and bags, f, g and f, h have a hat: no space for those; d, e are shoes and tops: the space of e, d."""
    data = load_polyvore(outfits)
    found = {name: [*zip(stems(data, name), data.pairs(name).conditions.tolist(), strict=True)] for name in SPLITS}
    assert found["train"] == [(("a", "b"), 0), (("a", "c"), 1)]
    assert found["valid"] == [(("d", "e"), 0)]  # c is of train
    assert found["test"] == [(("g", "h"), 1)]
    assert data.pairs("train").groups.tolist() == [0, 0]


def test_the_pair_file_of_outfits_comes_first(outfits: Path) -> None:
    write_pairs(outfits, "test", "polyvore_outfits", "h g 1\nf g 1\ng f 0\n")
    write_pairs(outfits, "train", "polyvore_outfits", "c a 1\nb a 1\n")
    write_pairs(outfits, "valid", "polyvore_outfits", "")  # as published
    data = load_polyvore(outfits)
    assert stems(data, "test") == [("h", "g")]
    assert stems(data, "train") == [("c", "a"), ("b", "a")]
    assert (data.pairs("train").conditions.tolist(), data.pairs("train").groups.tolist()) == ([1, 0], [0, 0])
    with pytest.warns(UserWarning, match="0 of 0"):
        assert stems(data, "valid") == [("d", "e")]


def test_listed_pairs_of_no_outfit_are_groups_of_their_own(outfits: Path) -> None:
    folder = outfits / "polyvore_outfits" / "nondisjoint"
    (folder / "train.json").write_text(json.dumps([{"items": [{"item_id": c} for c in m]} for m in ("ab", "c", "z", "ab")]))
    draw(outfits / "polyvore_outfits" / "images" / "z.jpg", 9)
    write_pairs(outfits, "train", "polyvore_outfits", "a c 1\nb z 1\nb a 1\n")
    assert load_polyvore(outfits).pairs("train").groups.tolist() == [4, 5, 0]


def test_the_division_is_one_of_two_folders(outfits: Path) -> None:
    one = outfits / "polyvore_outfits" / "disjoint" / "valid.json"
    one.write_text("[]")
    assert len(load_polyvore(outfits, split="disjoint").split("valid")) == 0
    assert len(load_polyvore(outfits).split("valid")) == 2
    with pytest.raises(OptionError, match="nondisjoint or disjoint, got 'joint'"):
        load_polyvore(outfits, split="joint")


def test_code_in_typespaces_is_refused_without_running_it(outfits: Path) -> None:
    trap = outfits / "trap"
    (outfits / "polyvore_outfits" / "nondisjoint" / "typespaces.p").write_bytes(pickle.dumps([("a", "b"), Trap(trap)]))
    with pytest.raises(ExportError, match=r"asks for \w+\.mkdir"):
        load_polyvore(outfits)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("nondisjoint/train.json", "[{", "not JSON"),
        ("nondisjoint/train.json", "{}", "must hold a list, got a dict"),
        ("nondisjoint/test.json", '[{"items": [{"id": "a"}]}]', "item_id"),
        ("nondisjoint/test.json", '[{"items": [{"item_id": 5}]}]', "must be text"),
        ("polyvore_item_metadata.json", '{"a": {"semantic_category": "tops"}}', "semantic_category.*'b'"),
        ("polyvore_item_metadata.json", "[]", "must hold a dict"),
        ("polyvore_attributes.json", "{}", "annotations"),
        ("polyvore_attributes.json", '{"annotations": {"a": [4]}}', "below 4"),
        ("attribute_list.txt", "red\n\nlong\n", "one name per line"),
    ],
)
def test_files_of_outfits_that_do_not_fit_are_refused(outfits: Path, name: str, content: str, said: str) -> None:
    (outfits / "polyvore_outfits" / name).write_text(content)
    with pytest.raises(OptionError, match=said) as refused:
        load_polyvore(outfits)
    assert name in str(refused.value) and "\n" not in str(refused.value)


def test_types_that_are_there_twice_are_refused(outfits: Path) -> None:
    (outfits / "polyvore_outfits" / "nondisjoint" / "typespaces.p").write_bytes(pickle.dumps([TYPESPACES[0]] * 2))
    with pytest.raises(OptionError, match="once"):
        load_polyvore(outfits)
