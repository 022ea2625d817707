"""Labels, figures of attributes on cases worked by hand and against slow twins, and the command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from engine import Explainer
from engine.bundle import demo_bundle
from engine.errors import OptionError
from engine.evaluate.attributes import evaluate, main
from engine.evaluate.bootstrap import bootstrap
from engine.evaluate.labels import Labelled, read_labels
from engine.evaluate.matching import both_ways, halves, linked, matching_pairs, some_of
from engine.evaluate.network_outputs import matches, observe
from engine.evaluate.recognition import average_precisions, mean_average_precision, reliability
from engine.evaluate.removal import direction_agreement, first_named, removal, removal_drops, top_true
from engine.methods.rise import Rise

PICTURES = Path(__file__).parent.parent / "engine" / "data" / "pictures"
NAMES = ("cat", "bandage", "couple", "gesture")
WORDS = {
    "cat": "Animals & Nature;animal; animal-mammal",
    "bandage": "Objects;odd",
    "couple": "People & Body;love",
    "gesture": "People & Body;person",
}


def labels_in(folder: Path, grouped: bool = True) -> Path:
    """The demo's eight pictures and a CSV about them."""
    lines = ["image,group,attributes" if grouped else "image,attributes"]
    for name in NAMES:
        for vendor in ("noto", "twemoji"):
            shutil.copy(PICTURES / f"{name}-{vendor}.png", folder)
            lines.append(",".join([f"{name}-{vendor}.png", *([name] if grouped else []), WORDS[name]]))
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


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
        ("image,attributes\n,x\n", "line 2: an image"),
        ("image,attributes\na.png,x\nb.png,\n./a.png,y\n", "line 4: ./a.png is named in line 2"),
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
    once, back = both_ways(nearest)
    assert once.tolist() == [[0, 2], [0, 3], [1, 3]]
    assert back.tolist() == [[2, 0], [3, 0], [3, 1]]
    with pytest.raises(OptionError, match="no two pictures"):
        matching_pairs(labelled([0, 1, 2, 3]), similarities)


def test_what_pairs_link_is_held_out_together() -> None:
    groups = np.array([7, 7, 3, 4, 5, 6, 8])
    found = linked(groups, np.array([[6, 5], [5, 4], [2, 3]]))
    assert found.tolist() == [found[0]] * 2 + [found[2]] * 2 + [found[4]] * 3
    assert len(set(found)) == 3
    chain = np.column_stack([np.arange(40), np.arange(1, 41)])
    assert set(linked(np.random.default_rng(0).permutation(41), chain)) == {0}
    many = np.repeat(np.arange(20), 3)
    first = halves(many, 0)
    assert first.reshape(20, 3).all(1).sum() == 10 == (~first).reshape(20, 3).all(1).sum()
    assert (first != halves(many, 1)).any()


def test_some_pairs_are_drawn_by_the_seed() -> None:
    pairs = np.arange(40).reshape(20, 2)
    found = some_of(pairs, 6, 0)
    assert len(found) == 6
    assert (np.diff(found[:, 0]) > 0).all()
    assert (found == some_of(pairs, 6, 0)).all()
    assert (found != some_of(pairs, 6, 1)).any()
    assert some_of(pairs, 20, 0) is pairs


def test_average_precision_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 12, 60) / 12  # with ties
    truth = random.random(60) < 0.3
    weights = random.integers(0, 3, (5, 60)).astype(np.float32)
    found = average_precisions(truth, scores, np.concatenate([weights, np.zeros((1, 60), np.float32)]))
    for row, got in zip(weights.astype(int), found, strict=False):
        assert got == pytest.approx(average_precision_score(truth.repeat(row), scores.repeat(row)), abs=1e-6)
    assert np.isnan(found[-1])


def test_the_mean_leaves_out_attributes_without_a_positive() -> None:
    random = np.random.default_rng(0)
    truth = random.random((50, 4)) < 0.3
    truth[:, 2] = False
    scores = random.normal(size=(50, 4)) + truth
    mean, single = mean_average_precision(truth, scores)
    wanted = [average_precision_score(truth[:, i], scores[:, i]) for i in (0, 1, 3)]
    assert single[[0, 1, 3]] == pytest.approx(wanted, abs=1e-6)
    assert np.isnan(single[2])
    assert mean.mean == pytest.approx(np.mean(wanted), abs=1e-6)
    assert mean.low < mean.mean < mean.high
    doubled = mean_average_precision(truth.repeat(2, 0), scores.repeat(2, 0), np.arange(50).repeat(2))[0]
    assert (doubled.low, doubled.high) == pytest.approx((mean.low, mean.high), abs=1e-6)


def test_reliability_by_hand() -> None:
    confidences = np.array([[0.05, 0.0], [0.95, 1.0], [0.42, 0.48]])
    truth = np.array([[1, 0], [1, 1], [1, 0]], bool)
    found = reliability(truth, confidences)
    assert found.count.tolist() == [2, 0, 0, 0, 2, 0, 0, 0, 0, 2]
    assert found.confidence[[0, 4, 9]] == pytest.approx([0.025, 0.45, 0.975])
    assert found.share[[0, 4, 9]] == pytest.approx([0.5, 0.5, 1])
    assert np.isnan(found.share[1])
    assert found.error == pytest.approx((2 * 0.475 + 2 * 0.05 + 2 * 0.025) / 6)


def test_intervals_resample_clusters() -> None:
    values = np.random.default_rng(0).normal(size=40)
    single, repeated = bootstrap(values), bootstrap(values.repeat(5), np.arange(40).repeat(5))
    assert (repeated.mean, repeated.low, repeated.high) == pytest.approx((single.mean, single.low, single.high))
    alone = bootstrap(values.repeat(5))
    assert alone.high - alone.low < 0.6 * (single.high - single.low)
    assert bootstrap(np.append(values, np.nan)).mean == single.mean
    assert bootstrap(np.array([np.nan])).to_dict() == {"mean": None, "low": None, "high": None}


def test_removal_by_hand() -> None:
    truth = np.array(
        [
            [1, 1, 0],  # query
            [1, 1, 0],  # reference, its group
            [0, 1, 0],  # lacks 0, else alike
            [0, 1, 0],  # the same: the mean of both
            [0, 0, 0],  # lacks 0, one off; lacks 1, one off
            [1, 0, 1],  # lacks 1, one off; lacks 0 not
            [0, 1, 1],
        ],
        bool,
    )
    groups = np.array([0, 0, 1, 2, 3, 4, 5])
    similarities = np.zeros((7, 7))
    similarities[:, 1] = [0.9, 1, 0.5, 0.3, 0.2, 0.1, 0.6]
    similarities[1] = 99  # not the reference's row
    found = removal_drops(similarities, truth, groups, np.array([[0, 1]]))
    # 1: pictures 4 and 5 lack it, both one off; 2: those that lack it and differ least have 0 1 0
    assert found == pytest.approx(np.array([[0.9 - 0.4, 0.9 - 0.15, 0.9 - 0.4]]))


def test_the_reference_does_not_replace_the_query() -> None:
    """It is in another group where pairs are of most similar pictures, and may lack the attribute."""
    truth, similarities = np.array([[1], [0], [0]], bool), np.array([[1, 0.8, 0], [0.8, 1, 0.3], [0, 0.3, 1]])
    assert removal_drops(similarities, truth, np.arange(3), np.array([[0, 1]])) == pytest.approx(np.array([[0.5]]))


def test_removal_is_that_of_a_slow_loop() -> None:
    random = np.random.default_rng(0)
    n, count = 24, 6
    truth = random.random((n, count)) < 0.5
    truth[:, 3] = True  # none lacks it
    groups = np.arange(n) // 2
    similarities = random.normal(size=(n, n))
    pairs = np.array([[0, 1], [1, 0], [4, 5], [7, 20]])  # the last one across groups
    found = removal_drops(similarities, truth, groups, pairs)
    for (q, r), row in zip(pairs, found, strict=True):
        for i in range(count):
            others = [c for c in range(n) if groups[c] != groups[q] and c != r and not truth[c, i]]
            if not others:
                assert np.isnan(row[i])
                continue
            rest = np.arange(count) != i
            distance = {c: int((truth[c, rest] != truth[q, rest]).sum()) for c in others}
            alike = [c for c in others if distance[c] == min(distance.values())]
            assert row[i] == pytest.approx(similarities[q, r] - np.mean([similarities[c, r] for c in alike]))
    assert np.isnan(found[:, 3]).all()


def test_ways_to_choose_an_attribute_by_hand() -> None:
    drops = np.array([[0.1, 0.5, np.nan], [0.3, -0.1, 0.4], [np.nan] * 3])
    truth = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], bool)
    found = removal(drops, truth, {"confidence": np.array([0, 0, 0]), "all": np.array([1, 2, 1])}, np.arange(3))
    means = {name: drop.mean.mean for name, drop in found.items()}
    assert means == pytest.approx({"confidence": 0.2, "all": 0.45, "random": 0.25, "random_true": 0.1, "best": 0.45})
    assert found["all"].over_random.mean == pytest.approx((0.5 - 0.3 + 0.4 - 0.2) / 2)
    assert found["all"].over_confidence.mean == pytest.approx((0.4 + 0.1) / 2)
    assert [found[name].pairs for name in ("confidence", "random_true", "best")] == [2, 1, 2]


def test_attributes_below_the_threshold_are_not_named_first() -> None:
    scores = np.array([[1, 5, 3], [1, 5, 3], [2, 2, 1.0]])
    confidences = np.array([[0.6, 0.4, 0.5], [0.1, 0.2, 0.1], [0.9, 0.9, 0.9]])
    assert first_named(scores, confidences, 0.5).tolist() == [2, 1, 0]


def test_agreement_by_hand() -> None:
    clusters = np.arange(4)
    assert direction_agreement(np.array([1, 2, 3, 0]), np.array([1, 0, 3, 0]), clusters).mean == 0.75
    truth = np.array([[1, 0], [1, 1]], bool)
    pairs = np.array([[0, 1], [1, 0], [0, 1], [1, 0]])
    assert top_true(np.array([0, 0, 1, 1]), truth, pairs, clusters).mean == 0.5


def test_scores_and_matches_are_those_of_explanations() -> None:
    explainer = Explainer()
    files = [PICTURES / f"{name}-{vendor}.png" for name in NAMES for vendor in ("noto", "twemoji")]
    seen = observe(explainer, files, lambda done, total: None)
    pairs = np.array([[2, 3], [0, 1], [2, 0]])
    found = matches(explainer, files, seen.embeddings, pairs, Rise(masks=32), lambda done, total: None)
    table = explainer.model.bundle.attributes
    assert table is not None
    assert seen.confidences == pytest.approx(1 / (1 + np.exp(-(table.scale * seen.scores + table.bias))))
    for (query, reference), row in zip(pairs, found, strict=True):
        said = explainer.explain(files[query], files[reference], Rise(masks=32))
        for word in said.attributes:
            i = table.names.index(word.name)
            assert row[i] == pytest.approx(word.match, abs=1e-5)
            assert seen.confidences[query, i] == pytest.approx(word.confidence, abs=1e-5)


def test_both_directions_are_compared() -> None:
    """Faces with couples, so that the surest words of a pair differ, then two pairs of one drawing."""
    files = [PICTURES / f"{name}-{vendor}.png" for name in NAMES for vendor in ("noto", "twemoji")]
    groups = np.array([0, 1, 2, 2, 0, 1, 3, 3])
    explainer = Explainer()
    found = evaluate(explainer, Labelled(tuple(files), groups, np.zeros((8, 63), bool), True, {}), 9, Rise(masks=8))
    surest = observe(explainer, files, lambda done, total: None).confidences.argmax(1)
    same = surest[[0, 1, 2, 6]] == surest[[4, 5, 3, 7]]
    assert 0 < same.mean() < 1
    assert found["direction_agreement"]["confidence"].mean == same.mean()


@pytest.mark.parametrize("grouped", [True, False])
def test_the_command_writes_a_report(grouped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, out = labels_in(tmp_path, grouped), tmp_path / "report.json"
    arguments = [str(labels), "--images", str(tmp_path), "--out", str(out), "--masks", "32", "--quiet"]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "same both ways" in told
    assert ("no groups given" in told) == (not grouped)
    found = json.loads(out.read_text())
    assert found["pictures"]["pairing"] == ("groups" if grouped else "most similar")
    assert found["pictures"]["unknown_attributes"] == {"odd": 2}
    assert set(found["removal"]) == {
        *("confidence", "confidence + match", "confidence + prior", "all", "random", "random_true", "best")
    }
    drops = {name: row["mean"]["mean"] for name, row in found["removal"].items()}
    assert drops["best"] >= max(drops["all"], drops["random"], drops["random_true"])
    assert found["calibration"]["count"] and len(found["calibration"]["share"]) == 10
    assert found["recognition"]["by_attribute"].keys() >= {"animal", "love"}
    assert 0 <= found["direction_agreement"]["all"]["mean"] <= 1
    if grouped:
        assert found["pictures"]["ordered_pairs"] == 8
        assert main([*arguments, "--pairs-limit", "2"]) == 0
        assert json.loads(out.read_text())["pictures"]["ordered_pairs"] == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "report.txt"], "must end in .json"),
        (["--out", "nowhere/report.json"], "no folder"),
        (["--out", "r.json", "--pairs-limit", "0"], "pairs-limit"),
        (["--out", "r.json", "--masks", "0"], "masks"),
        (["--out", "r.json", "--seed", "-1"], "seed"),
        (["--out", "r.json", "--bundle", "nowhere"], "no bundle"),
        (["--out", "r.json", "--images", "nowhere"], "line 2: there is no picture"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = labels_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main([str(labels), "--images", ".", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_what_is_no_picture_and_a_bundle_without_words_are_one_line(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = labels_in(tmp_path)
    arguments = [str(labels), "--images", str(tmp_path), "--out", str(tmp_path / "r.json")]
    assert main([*arguments, "--bundle", str(tiny_bundle)]) == 2
    assert "no attribute network" in capsys.readouterr().err
    (tmp_path / "cat-noto.png").write_text("no picture")
    assert main([*arguments, "--bundle", str(demo_bundle())]) == 2
    error = capsys.readouterr().err
    assert "cat-noto.png" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "row, words",
    [
        ("/etc/passwd,,face", "line 4: an image must lie below"),
        ("../x.png,,face", "line 4: an image must lie below"),
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
    labels = labels_in(tmp_path, True)
    with pytest.raises(OptionError, match=r"none of the bundle's attributes \(wheel, ...\), it has "):
        read_labels(labels, tmp_path, ("wheel",))
