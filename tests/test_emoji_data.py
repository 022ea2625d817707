"""What the emoji data set makes of its pictures and tags, on four drawings made here."""

import numpy as np
import pytest
import torch

from training import emoji_data
from training.augment import augmented, normalise, plain
from training.emoji import calibration, positive_weights
from training.emoji_report import precision_above


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> emoji_data.EmojiPair:
    monkeypatch.setattr(emoji_data, "MIN_POSITIVES", 2)
    words = ({"face", "x"}, {"face"}, {"hand"}, {"hand", "face"})
    rows = [{"file": f"{i}.png", "tone": None, "base": f"{i}.png", "label": str(i), "words": w} for i, w in enumerate(words)]
    rows.insert(3, {"file": "2-dark.png", "tone": "dark", "base": "2.png", "label": "2 dark", "words": {"hand"}})
    drawn = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.full((5, 64, 64, 4), 40, np.uint8)
    twin = drawn.copy()
    twin[4] = twin[0]  # Twitter draws the last as the first
    return emoji_data._pair(rows, {"google": drawn, "twitter": twin})


def test_bases_variants_words_and_twins(pair: emoji_data.EmojiPair) -> None:
    assert pair.base.tolist() == [0, 1, 2, 4]
    assert [v.tolist() for v in pair.variants] == [[], [], [3], []]
    assert pair.attributes == ["face", "hand"]  # most frequent first; x has one emoji
    assert pair.truth.tolist() == [[True, False], [True, False], [False, True], [True, True]]
    assert pair.same.tolist() == [0, 1, 2, 0]
    assert sorted([*pair.train, *pair.held_out]) == [0, 1, 2, 3]


def test_skin_tones_carry_the_tags_of_their_base() -> None:
    entries = [{"hexcode": "1F44B", "tags": ["hand"], "skins": [{"hexcode": "1F44B-1F3FB", "label": "light"}]}]
    assert emoji_data._tags_by_code(entries)["1F44B-1F3FB"]["tags"] == ["hand"]


def test_two_skin_tones_and_pictures_of_one_vendor_are_left_out() -> None:
    variations = {"1F3FB": {"unified": "B", "image": "b.png"}, "1F3FB-1F3FC": {"unified": "C", "image": "c.png"}}
    entry = {"unified": "A", "image": "a.png", "category": "People", "subcategory": "two", "short_name": "old man"}
    rows = emoji_data._rows(
        [entry | {"skin_variations": variations}, entry | {"image": "only.png"}], {}, {"a.png", "b.png", "c.png"}
    )
    assert [r["file"] for r in rows] == ["a.png", "b.png"]
    assert rows[0]["words"] == {"People", "two", "man"}


def test_calibration_takes_back_the_weight_of_positives(pair: emoji_data.EmojiPair) -> None:
    share = pair.truth[pair.train].mean(0)
    weights = positive_weights(pair)
    np.testing.assert_allclose(weights, np.minimum((1 - share) / share, 20))
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(calibration(pair), -np.log(weights), rtol=1e-6)


def test_precision_counts_what_is_named() -> None:
    truth = np.array([[True, False], [True, True]])
    found = precision_above(truth, np.array([[0.9, 0.7], [0.2, 0.1]]), 0.6)
    assert found == {"named_true": 0.5, "pictures_with_a_name": 0.5}


def test_pictures_lie_on_white_and_augmentation_is_seeded() -> None:
    clear = np.zeros((3, 64, 64, 4), np.uint8)
    np.testing.assert_allclose(plain(clear), normalise(torch.ones(3, 3, 64, 64)))
    solid = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 4), np.uint8)
    once, again, other = (augmented(solid, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert once.shape == (3, 3, 64, 64)
