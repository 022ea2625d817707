"""What the photo data sets make of their layouts, on pictures drawn here."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import IMAGENET
from PIL import Image

import training.datasets
from engine.errors import ImageError, OptionError
from engine.pictures.loading import load_picture
from export import ExportError
from training.augment import normalise
from training.datasets.awa2 import AwA2, load_awa2
from training.datasets.photos import Photos, crop, recoloured
from training.datasets.polyvore import Polyvore, load_polyvore
from training.datasets.protocol import SPLITS, DataSet
from training.loop import Randomness

CLASSES = ("antelope", "grizzly+bear", "seal", "bat")
MATRIX = "1 0 1\n0 1 0\n1 1 0\n 0  0  1\n"


def draw(file: Path, seed: int, size: tuple[int, int] = (40, 30)) -> None:
    """Blobs, so that a crop or a mirrored picture differs from the picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size).save(file)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Two classes of ten pictures to train on, seal and bat, of three and one, for the test."""
    folder = tmp_path / "Animals_with_Attributes2"
    for i, (name, count) in enumerate(zip(CLASSES, (10, 10, 3, 1), strict=True)):
        for k in range(count):
            draw(folder / "JPEGImages" / name / f"{name}_{10001 + k}.jpg", 100 * i + k)
    (folder / "classes.txt").write_text("".join(f"   {i}\t{name}\n" for i, name in enumerate(CLASSES, 1)))
    (folder / "predicates.txt").write_text("    1\tfurry\n    2\tbig\n    3\tfast\n")
    (folder / "predicate-matrix-binary.txt").write_text(MATRIX)
    (folder / "trainclasses.txt").write_text("grizzly+bear\nantelope\n")
    (folder / "testclasses.txt").write_text("seal\nbat\n")
    return tmp_path


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


@pytest.fixture
def outfits(tmp_path: Path) -> Path:
    """Items a to h; c is of an outfit to train on and of one for validation, z of none, and without a picture."""
    folder = tmp_path / "polyvore_outfits"
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
    return tmp_path


def write_pairs(root: Path, split: str, name: str, lines: str) -> None:
    file = root / "pairs" / split / f"{name}_pairs.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(lines)


def stems(data: Photos, split: str) -> list[tuple[str, str]]:
    pairs = data.pairs(split)
    return [(data.files[a].stem, data.files[b].stem) for a, b in zip(pairs.left, pairs.right, strict=True)]


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
    with pytest.warns(UserWarning, match="1 of 3 matches are of train pictures$"):
        assert stems(data, "train") == [(left, right)]
    write_pairs(animals, "train", "awa", "seal_10001 seal_10002 1\n")
    with pytest.warns(UserWarning, match="0 of 1 .* as if the file were not there"):
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


class Trap:
    """Unpickled without care, it makes the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


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
        ("attribute_list.txt", "red\n\nlong\n", "names"),
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


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("awa2", ["classes.txt", "predicates.txt", "predicate-matrix-binary.txt", "trainclasses.txt", "testclasses.txt"]),
        ("awa2", ["JPEGImages/bat/bat_10001.jpg", "JPEGImages/bat"]),
        (
            "polyvore",
            ["nondisjoint/typespaces.p", "nondisjoint/train.json", "nondisjoint/valid.json", "nondisjoint/test.json"],
        ),
        ("polyvore", ["polyvore_item_metadata.json", "polyvore_attributes.json", "attribute_list.txt", "images/g.jpg"]),
    ],
)
def test_a_missing_file_is_named(animals: Path, outfits: Path, name: str, files: list[str]) -> None:
    folder = animals / {"awa2": "Animals_with_Attributes2", "polyvore": "polyvore_outfits"}[name]
    for file in files:
        away = folder.parent / "away"
        (folder / file).rename(away)
        said = "bat holds no .jpg" if "bat_" in file else Path(file).name
        with pytest.raises(OptionError, match=said) as refused:
            training.datasets.load(name, animals)
        assert "\n" not in str(refused.value)
        away.rename(folder / file)
    assert training.datasets.load(name, animals).size == 112
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(OptionError, match=folder.name):
        training.datasets.load(name, animals)


def test_a_picture_that_is_no_picture_is_named(animals: Path) -> None:
    data = load_awa2(animals)
    data.files[0].write_bytes(b"text")
    with pytest.raises(ImageError, match=data.files[0].name):
        data.plain(np.array([0]))


def test_unknown_names_are_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"'awa'.*emoji, emoji-parts, awa2, polyvore"):
        training.datasets.load("awa", tmp_path)


def test_plain_is_what_the_engine_would_feed(outfits: Path) -> None:
    data: DataSet = load_polyvore(outfits)
    files = [outfits / "polyvore_outfits" / "images" / f"{item}.jpg" for item in "fa"]
    turned = Image.open(files[0])
    turned.getexif()[0x0112] = 6  # lies on its side
    turned.save(files[0], exif=turned.getexif())
    indices = np.array([5, 0])
    wanted = np.stack([IMAGENET.normalised(IMAGENET.fitted(load_picture(file))[0]) for file in files])
    assert np.array_equal(data.plain(indices).numpy(), wanted)
    assert (data.plain(indices).dtype, data.plain(indices[:0]).shape) == (torch.float32, (0, 3, 112, 112))
    assert (data.picture(5).shape, data.picture(0).shape, data.picture(0).dtype) == ((40, 30, 3), (30, 40, 3), np.uint8)
    torch.testing.assert_close(
        torch.from_numpy(wanted[1:]),
        normalise(torch.from_numpy(IMAGENET.fitted(load_picture(files[1]))[0].copy()).permute(2, 0, 1)[None] / 255),
    )


@pytest.mark.parametrize("made", [load_awa2, load_polyvore])
def test_views_are_jittered_by_the_seed(animals: Path, outfits: Path, made: Callable[..., AwA2 | Polyvore]) -> None:
    data = made(animals, size=24)
    pairs = data.pairs("train")[np.array([0, 1])]
    once, again, other = (data.views(pairs, Randomness.seeded(s)) for s in (1, 1, 2))
    assert (once.shape, once.dtype) == ((4, 3, 24, 24), torch.float32)
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    both = np.concatenate([pairs.left, pairs.right])
    assert torch.equal(once, data.augmented(both, Randomness.seeded(1)))
    plain = data.plain(both)
    distances = (once[:, None] - plain[None]).abs().mean((2, 3, 4))
    assert (distances.diagonal() > 0.05).all()  # jittered
    twin, seen = torch.Generator().manual_seed(0), plain[:1].repeat(4, 1, 1, 1)
    assert not torch.equal(*(recoloured(x, twin) for x in (seen, seen)))


def test_left_views_come_first(outfits: Path) -> None:
    """One colour a picture: no crop hides which it is."""
    for item, colour in (("a", (250, 10, 10)), ("b", (10, 10, 250)), ("c", (10, 250, 10))):
        Image.new("RGB", (40, 30), colour).save(outfits / "polyvore_outfits" / "images" / f"{item}.jpg")
    data = load_polyvore(outfits, size=16)
    shown = data.views(data.pairs("train"), Randomness.seeded(0)).mean((2, 3))
    assert shown.argmax(1).tolist() == [0, 0, 2, 1]  # a, a, b, c
    assert (shown - data.plain(np.array([0, 0, 1, 2])).mean((2, 3))).abs().amin(1).max() < 0.5  # normalised as well


def test_half_of_the_jittered_pictures_are_mirrored(outfits: Path) -> None:
    across = np.broadcast_to(np.linspace(0, 255, 40, dtype=np.uint8)[None, :, None], (30, 40, 3))
    Image.fromarray(across).save(outfits / "polyvore_outfits" / "images" / "a.jpg")
    shown = load_polyvore(outfits, size=16).augmented(np.zeros(60, np.int64), Randomness.seeded(0))
    mirrored = (shown[..., :4].mean((1, 2, 3)) > shown[..., -4:].mean((1, 2, 3))).float().mean()
    assert 0.3 < mirrored < 0.7


@pytest.mark.parametrize(("width", "height"), [(40, 30), (1, 1), (3000, 2), (7, 1001)])
def test_crops_lie_inside_and_show_half_or_more(width: int, height: int) -> None:
    generator, picture = np.random.default_rng(0), Image.new("RGB", (width, height))
    boxes = [crop(width, height, generator) for _ in range(200)]
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        picture.resize((4, 4), box=(left, top, right, bottom))
    if (width, height) == (40, 30):
        assert min((r - a) * (b - t) for a, t, r, b in boxes) > 0.45 * width * height
        assert len({round(a, 6) for a, *_ in boxes}) > 100


def test_colours_stay_near_what_they_were() -> None:
    grey = torch.full((200, 3, 2, 2), 0.5)
    seen = recoloured(grey, torch.Generator().manual_seed(0))
    assert seen.min() >= 0.5 * 0.85 * 0.95 and seen.max() <= 0.5 * 1.15 * 1.05
    assert seen.std() > 0.03
    assert recoloured(torch.ones(50, 3, 2, 2), torch.Generator().manual_seed(0)).max() == 1
