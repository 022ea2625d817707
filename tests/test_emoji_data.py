"""What the emoji data set makes of its pictures and tags, on four drawings made here."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from training.augment import jittered, normalise
from training.datasets import emoji as emoji_data
from training.datasets.emoji import Emoji
from training.datasets.parts import COLOURS, colours, outline, visible_parts
from training.loop import Randomness


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> emoji_data.EmojiPair:
    monkeypatch.setattr(emoji_data, "MIN_POSITIVES", 2)
    words = ({"face", "x"}, {"face"}, {"hand"}, {"hand", "face"})
    rows = [{"file": f"{i}.png", "tone": None, "base": f"{i}.png", "label": str(i), "words": w} for i, w in enumerate(words)]
    rows.insert(3, {"file": "2-dark.png", "tone": "dark", "base": "2.png", "label": "2 dark", "words": {"hand"}})
    drawn = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.full((5, 64, 64, 4), 40, np.uint8)
    twin = drawn.copy()
    twin[4] = twin[0]  # Twitter draws the last as the first
    return emoji_data.emoji_pair(rows, {"google": drawn, "twitter": twin})


def test_bases_variants_words_and_twins(pair: emoji_data.EmojiPair) -> None:
    assert pair.base.tolist() == [0, 1, 2, 4]
    assert [v.tolist() for v in pair.variants] == [[], [], [3], []]
    assert pair.attributes == ["face", "hand"]  # most frequent first; x has one emoji
    assert pair.truth.tolist() == [[True, False], [True, False], [False, True], [True, True]]
    assert pair.same.tolist() == [0, 1, 2, 0]
    assert sorted([*pair.train, *pair.held_out]) == [0, 1, 2, 3]


def test_skin_tones_carry_the_tags_of_their_base() -> None:
    entries = [{"hexcode": "1F44B", "tags": ["hand"], "skins": [{"hexcode": "1F44B-1F3FB", "label": "light"}]}]
    assert emoji_data.tags_by_code(entries)["1F44B-1F3FB"]["tags"] == ["hand"]


def test_two_skin_tones_and_pictures_of_one_vendor_are_left_out() -> None:
    variations = {"1F3FB": {"unified": "B", "image": "b.png"}, "1F3FB-1F3FC": {"unified": "C", "image": "c.png"}}
    entry = {"unified": "A", "image": "a.png", "category": "People", "subcategory": "two", "short_name": "old man"}
    rows = emoji_data.picture_rows(
        [entry | {"skin_variations": variations}, entry | {"image": "only.png"}], {}, {"a.png", "b.png", "c.png"}
    )
    assert [r["file"] for r in rows] == ["a.png", "b.png"]
    assert rows[0]["words"] == {"People", "two", "man"}


def test_augmentation_is_seeded() -> None:
    solid = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 4), np.uint8)
    once, again, other = (jittered(solid, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert once.shape == (3, 3, 64, 64)


@pytest.fixture
def emoji(pair: emoji_data.EmojiPair) -> Emoji:
    return Emoji(pair, tuple(pair.attributes), np.tile(pair.truth, (2, 1)))


def test_a_picture_is_one_vendors_drawing_on_white(emoji: Emoji) -> None:
    clear = dataclasses.replace(emoji.pair, pictures={v: np.zeros((5, 64, 64, 4), np.uint8) for v in emoji_data.VENDORS})
    white = Emoji(clear, emoji.attributes, emoji.truth).plain(np.array([0, 7]))
    np.testing.assert_allclose(white, normalise(torch.ones(2, 3, 64, 64)))
    opaque = dataclasses.replace(
        emoji.pair,
        pictures={v: p | np.uint8(255) * (np.arange(4) == 3).astype(np.uint8) for v, p in emoji.pair.pictures.items()},
    )
    solid = Emoji(opaque, emoji.attributes, emoji.truth)
    assert solid.picture(3)[0, 0].tolist() == [160] * 3  # Google's last emoji
    assert solid.picture(7)[0, 0].tolist() == [0] * 3  # Twitter draws it as the first
    assert np.array_equal(solid.truth[3], solid.truth[7])


def test_splits_are_by_base_emoji_and_pairs_are_of_both_vendors(emoji: Emoji) -> None:
    splits = [emoji.split(name) for name in ("train", "valid", "test")]
    assert len(set(np.concatenate(splits).tolist())) == sum(map(len, splits))
    for name, pictures in zip(("train", "valid", "test"), splits, strict=True):
        pairs = emoji.pairs(name)
        assert (pairs.right == pairs.left + 4).all()
        assert sorted([*pairs.left, *pairs.right]) == sorted(pictures)
        assert (pairs.groups == emoji.pair.same[pairs.left]).all()


def test_a_drawing_that_is_trained_on_is_in_no_other_split(pair: emoji_data.EmojiPair) -> None:
    """Emoji 0 and 3 are drawn alike."""
    held = dataclasses.replace(pair, train=np.array([0, 1]), held_out=np.array([2, 3]))
    emoji = Emoji(held, tuple(pair.attributes), np.tile(pair.truth, (2, 1)))
    assert sorted([*emoji.bases("valid"), *emoji.bases("test")]) == [2]


def test_both_views_of_a_pair_have_one_skin_tone(pair: emoji_data.EmojiPair) -> None:
    """The third emoji is drawn in grey 80, its skin tone in 120; without jitter both views are of one of them."""
    drawn = {
        v: np.arange(1, 6, dtype=np.uint8)[:, None, None, None] * np.full((5, 64, 64, 4), 40, np.uint8)
        for v in emoji_data.VENDORS
    }
    emoji = Emoji(dataclasses.replace(pair, pictures=drawn), tuple(pair.attributes), np.tile(pair.truth, (2, 1)))
    only = emoji.pairs("train")[np.array([], int)]
    third = type(only)(np.array([2]), np.array([6]), np.array([0]), np.array([0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            emoji_data, "jittered", lambda pictures, *_: torch.from_numpy(pictures[:, :1, :1, 0].astype(np.float32))
        )
        seen = [emoji.views(third, Randomness.seeded(s)).flatten().tolist() for s in range(20)]
    assert all(left == right for left, right in seen)
    assert {left for left, _ in seen} == {120.0, 160.0}


def test_colours_of_plain_pixels() -> None:
    known = {
        **{"red": (230, 30, 40), "orange": (240, 130, 20), "brown": (120, 70, 30), "yellow": (255, 200, 40)},
        **{"green": (60, 160, 60), "blue": (40, 120, 220), "purple": (140, 60, 200), "pink": (240, 90, 170)},
        **{"black": (20, 20, 25), "white": (250, 250, 248), "grey": (128, 130, 128)},
    }
    found = colours(np.array(list(known.values()), np.uint8))
    assert [COLOURS[i] for i in found] == list(known)


@pytest.mark.parametrize(
    "word, drawn",
    [
        ("wide", lambda y, x: abs(y - 32) < 10),
        ("tall", lambda y, x: abs(x - 32) < 10),
        ("square", lambda y, x: (abs(y - 32) < 20) & (abs(x - 32) < 20)),
        ("round", lambda y, x: (y - 32) ** 2 + (x - 32) ** 2 < 400),
        ("thin", lambda y, x: abs(y - x) < 4),
        ("pieces", lambda y, x: abs(x - 32) > 10),
        ("hole", lambda y, x: ((y - 32) ** 2 + (x - 32) ** 2 < 400) & ((y - 32) ** 2 + (x - 32) ** 2 > 100)),
    ],
)
def test_outlines_of_drawn_shapes(word: str, drawn: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    y, x = np.mgrid[:64, :64]
    assert word in outline(drawn(y, x))
    others = set(outline(drawn(y, x))) - {word}
    assert others <= {"pieces", "square", "thin"}


def test_parts_are_of_each_drawing_and_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.datasets.parts.MIN_DRAWINGS", 1)
    flag = np.zeros((64, 64, 4), np.uint8)
    flag[10:54, 10:54] = (230, 30, 40, 255)
    flag[32:54, 10:54, :3] = (40, 120, 220)
    plain = flag.copy()
    plain[10:54, 10:54, :3] = (230, 30, 40)
    names, truth = visible_parts(["waving hand"], [flag[None], plain[None]])
    said = [{n for n, t in zip(names, row, strict=True) if t} for row in truth]
    assert said[0] == {"hand", "square", "mostly red", "mostly blue", "red above", "blue below"}
    assert said[1] == {"hand", "square", "mostly red", "red above", "red below"}
