"""What the photo data sets have in common: missing files, plain pictures and jittered views."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import IMAGENET, exit_status
from photo_sets import write_animals, write_outfits
from PIL import Image
from test_colour_profiles import profile

import training.datasets
from engine.errors import ImageError, OptionError
from engine.pictures.loading import load_picture
from engine.pictures.reading import Reading
from training import attributes, similarity
from training.augment import normalise
from training.datasets.awa2 import AwA2, load_awa2
from training.datasets.photos import crop, recoloured
from training.datasets.polyvore import Polyvore, load_polyvore
from training.datasets.protocol import DataSet
from training.loop import Randomness


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    return write_animals(tmp_path)


@pytest.fixture
def outfits(tmp_path: Path) -> Path:
    return write_outfits(tmp_path)


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


def test_photos_are_read_as_the_command_was_told(animals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = load_awa2(animals).files[0]
    Image.open(file).save(file, icc_profile=profile(gamma=1.0), quality=95)
    plain, changed = (training.datasets.load("awa2", animals, Reading(apply_profiles=apply)) for apply in (False, True))
    assert np.abs(plain.picture(0).astype(int) - changed.picture(0)).max() > 2
    np.testing.assert_array_equal(changed.picture(0), np.asarray(load_picture(file, Reading(apply_profiles=True))))
    for shown in (lambda data: data.plain(np.array([0])), lambda data: data.augmented(np.array([0]), Randomness.seeded(0))):
        assert not torch.equal(shown(plain), shown(changed))
    with pytest.raises(ImageError, match="at most 10 in all are read"):
        training.datasets.load("awa2", animals, Reading(max_pixels=10)).picture(0)
    told = ["--data", "awa2", "--root", str(animals), "--out", str(animals / "run"), "--max-pixels", "10"]
    for command in (similarity, attributes):
        assert exit_status(command.main, told) == 2
        assert "at most 10 in all are read" in capsys.readouterr().err
    with pytest.raises(OptionError, match="emoji has none: leave them out"):
        training.datasets.load("emoji", animals, Reading(max_pixels=10))


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
