"""Files of labels: what is read from them, which pairs they make, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from helpers import PICTURES, write_demo_labels

from engine.errors import OptionError
from engine.evaluate.labels import Labelled, read_labels
from engine.evaluate.matching import draw_pairs, halves, joined_groups, matching_pairs, split_directions


def test_labels_are_read(tmp_path: Path) -> None:
    for name in "abcde":
        (tmp_path / f"{name}.png").write_bytes(b"")
    (tmp_path / "l.csv").write_text(
        "\ufeffattributes,image,group\nred;big,a.png,x\n red ,b.png,x\n,c.png,\nodd;;odd,d.png,\nbig;odd,e.png,5\n"
    )
    found = read_labels(tmp_path / "l.csv", tmp_path, ("big", "small", "red"))
    assert [f.name for f in found.files] == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    assert found.groups[0] == found.groups[1]
    assert len(set(found.groups)) == 4  # those without one are alone, the text "5" is no line
    assert found.truth.tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert found.unknown == {"odd": 2}
    assert found.grouped


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: the columns"),
        ("image,group\na.png,x\n", "line 1: the columns"),
        ("image,attributes,colour\na.png,x,y\n", "line 1: the columns"),
        ("image,attributes,attributes\na.png,x,y\n", "line 1: the columns"),
        ("image,attributes\na.png,x\nb.png\n", "line 3: too few"),
        ("image,attributes\na.png,x,y\n", "line 2: too many"),
        ("image,attributes\n,x\n", "line 2: a picture"),
        ("image,attributes\na.png,x\nb.png,\n./a.png,y\n", "line 4: ./a.png is already named in line 2"),
        ("image,attributes\na.png,x\nnone.png,x\n", "line 3: there is no picture"),
        ("image,attributes\na.png,x\nb.png,x\n", "names 2 pictures"),
        ("image,attributes\n" + "x" * 200_000 + ",y\n", "is not a CSV"),
    ],
)
def test_bad_labels_are_refused(text: str, said: str, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"")
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(OptionError, match=said):
        read_labels(tmp_path / "l.csv", tmp_path, ("x",))
    with pytest.raises(OptionError, match="cannot read"):
        read_labels(tmp_path / "none.csv", tmp_path, ("x",))


def labelled(groups: list[int], grouped: bool = True) -> Labelled:
    files = tuple(Path(str(i)) for i in range(len(groups)))
    return Labelled(files, np.array(groups), np.zeros((len(groups), 1), bool), grouped, {})


def test_pairs_are_those_of_a_group_or_the_most_similar() -> None:
    similarities = np.array([[9, 1, 2, 3], [1, 9, 0, 5], [2, 0, 9, 1], [3, 5, 1, 9.0]])
    assert matching_pairs(labelled([0, 1, 0, 1]), similarities).tolist() == [[0, 2], [1, 3], [2, 0], [3, 1]]
    nearest = matching_pairs(labelled([0, 1, 2, 3], grouped=False), similarities)
    assert nearest.tolist() == [[0, 3], [1, 3], [2, 0], [3, 1]]
    once, back = split_directions(nearest)
    assert once.tolist() == [[0, 2], [0, 3], [1, 3]]
    assert back.tolist() == [[2, 0], [3, 0], [3, 1]]
    with pytest.raises(OptionError, match="no two pictures"):
        matching_pairs(labelled([0, 1, 2, 3]), similarities)


def test_what_pairs_link_is_held_out_together() -> None:
    groups = np.array([7, 7, 3, 4, 5, 6, 8])
    found = joined_groups(groups, np.array([[6, 5], [5, 4], [2, 3]]))
    assert found.tolist() == [found[0]] * 2 + [found[2]] * 2 + [found[4]] * 3
    assert len(set(found)) == 3
    chain = np.column_stack([np.arange(40), np.arange(1, 41)])
    assert set(joined_groups(np.random.default_rng(0).permutation(41), chain)) == {0}
    many = np.repeat(np.arange(20), 3)
    first = halves(many, 0)
    assert first.reshape(20, 3).all(1).sum() == 10 == (~first).reshape(20, 3).all(1).sum()
    assert (first != halves(many, 1)).any()


def test_some_pairs_are_drawn_by_the_seed() -> None:
    pairs = np.arange(40).reshape(20, 2)
    found = draw_pairs(pairs, 6, 0)
    assert len(found) == 6
    assert (np.diff(found[:, 0]) > 0).all()
    assert (found == draw_pairs(pairs, 6, 0)).all()
    assert (found != draw_pairs(pairs, 6, 1)).any()
    assert draw_pairs(pairs, 20, 0) is pairs


@pytest.mark.parametrize(
    "row, words",
    [
        ("/etc/passwd,,face", "line 4: a picture must lie below"),
        ("../x.png,,face", "line 4: a picture must lie below"),
        ("nowhere.png,,face", "line 4: there is no picture"),
    ],
)
def test_a_wrong_row_is_told_by_its_line(row: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes((PICTURES / "cat-noto.png").read_bytes())
    file = tmp_path / "labels.csv"
    file.write_text(f"image,group,attributes\na.png,,face\n\n{row}\n")
    with pytest.raises(OptionError, match=words):
        read_labels(file, tmp_path, ("face",))


def test_labels_that_name_nothing_of_the_bundle_are_refused(tmp_path: Path) -> None:
    labels = write_demo_labels(tmp_path, True)
    with pytest.raises(OptionError, match=r"none of the bundle's attributes \(wheel, ...\), but "):
        read_labels(labels, tmp_path, ("wheel",))
