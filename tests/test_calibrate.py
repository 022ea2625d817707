"""Calibration of confidences, the search for phi, and what `calibrate` writes into a bundle."""

import json
from pathlib import Path

import numpy as np
import pytest
from export_models import ConvNet, MapNet
from helpers import copy_bundle, error_line, write_demo_labels
from PIL import Image
from sklearn.linear_model import LogisticRegression

from engine import Explainer, OptionError
from engine.attributes.probability import joint_probability
from engine.attributes.table import AttributeTable
from engine.bundle import ATTRIBUTES, CALIBRATION, SUMS, demo_bundle, load_bundle
from engine.evaluate.network_outputs import NetworkOutputs
from engine.evaluate.recognition import reliability
from engine.methods.rise import Rise
from engine.pictures.preprocessing import Preprocessing
from export import TorchSource, calibrate, export_attributes, export_similarity, platt
from export.calibration import held_out_confidences
from export.commands import main
from export.joint import fit_joint, most_likely
from export.phi import search, weightings
from export.platt import FLAT
from export.vectors import export_vectors

PREPROCESSING = Preprocessing(32, 32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def table(count: int, confidence: str = "sigmoid") -> AttributeTable:
    names = tuple(f"word {i}" for i in range(count))
    numbers = np.arange(1, count + 1, dtype=np.float32)
    return AttributeTable(names, confidence, -numbers, scale=numbers)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def test_platt_recovers_probabilities() -> None:
    random = np.random.default_rng(0)
    slope, bias = np.array([0.5, 2.0, 8.0]), np.array([-2.0, 1.0, -30.0])
    scores = random.normal(size=(20_000, 3)) * [3, 1, 1] + [0, 0, 3.5]
    probability = sigmoid(slope * scores + bias)
    truth = random.random(scores.shape) < probability
    found = platt.fit(scores, truth, table(3))
    assert found.how.tolist() == ["fitted"] * 3
    assert found.scale == pytest.approx(slope, rel=0.08)
    assert found.bias == pytest.approx(bias, rel=0.08)
    assert np.abs(found.confidences(scores) - probability).max() < 0.05
    assert reliability(truth, found.confidences(scores)).error < 0.01
    assert reliability(truth, sigmoid(scores)).error > 0.1


def test_platt_is_a_logistic_regression_on_smoothed_targets() -> None:
    random = np.random.default_rng(1)
    scores = random.normal(size=(80, 1)) * 5 + 100
    truth = random.random((80, 1)) < sigmoid(scores - 101)
    found = platt.fit(scores, truth, table(1))
    have, lack = int(truth.sum()), int((~truth).sum())
    target = np.where(truth[:, 0], (have + 1) / (have + 2), 1 / (lack + 2))
    wanted = LogisticRegression(C=1e12, tol=1e-10, max_iter=10_000).fit(
        np.concatenate([scores, scores]) - 100,
        np.repeat([1, 0], 80),
        np.concatenate([target, 1 - target]),
    )
    assert found.scale[0] == pytest.approx(wanted.coef_[0, 0], rel=1e-4)
    assert found.bias[0] == pytest.approx(wanted.intercept_[0] - 100 * wanted.coef_[0, 0], rel=1e-4)


def test_attributes_that_cannot_be_fitted() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(300, 5))
    truth = random.random((300, 5)) < sigmoid(3 * scores - 1)
    truth[:, 1] = random.random(300) < sigmoid(-3 * scores[:, 1])  # falls with its score
    truth[:, 2] = np.arange(300) < 4  # too few
    truth[:, 3] = False
    truth[:, 4] = scores[:, 4] > 0  # told apart
    found = platt.fit(scores, truth, table(5))
    assert found.how.tolist() == ["fitted", "flat", "kept", "kept", "fitted"]
    assert found.scale[1] == pytest.approx(FLAT / scores[:, 1].std())
    assert found.confidences(scores)[:, 1].mean() == pytest.approx(truth[:, 1].mean(), abs=0.01)
    assert found.scale[2:4].tolist() == [3, 4]
    assert found.bias[2:4].tolist() == [-3, -4]
    assert np.isfinite(found.scale).all()
    assert (found.scale > 0).all()
    pooled = platt.fit(scores, truth, table(5, "softmax"))
    assert pooled.how.tolist() == ["fitted", "flat", "pooled", "pooled", "fitted"]
    assert pooled.scale[2:4] == pytest.approx(np.median(found.scale[[0, 4]]))
    means = pooled.confidences(scores).mean(0)
    assert means[2:4] == pytest.approx([(4 * 5 / 6 + 296 / 298) / 300, 1 / 302], abs=1e-6)


def test_constant_scores_are_no_error() -> None:
    truth = np.arange(40)[:, None] % 4 == 0
    found = platt.fit(np.full((40, 1), 7.0), truth, table(1))
    assert found.confidences(np.array([[7.0]]))[0, 0] == pytest.approx(0.25, abs=0.05)


def test_each_half_is_judged_by_the_other() -> None:
    random = np.random.default_rng(0)
    scores, truth, first = random.normal(size=(60, 2)), random.random((60, 2)) < 0.4, np.arange(60) < 25
    found = held_out_confidences(NetworkOutputs(np.empty((60, 0)), scores, scores), truth, first, table(2))
    assert found[:25] == pytest.approx(platt.fit(scores[25:], truth[25:], table(2)).confidences(scores[:25]))
    assert found[25:] == pytest.approx(platt.fit(scores[:25], truth[:25], table(2)).confidences(scores[25:]))


def test_every_weighting_is_tried() -> None:
    every = weightings()
    assert len(every) == len(set(every)) == 55
    assert every[:3] == ((1.0, 0.0, 0.0), (0.9, 0.1, 0.0), (0.9, 0.0, 0.1))
    assert all(sum(one) == pytest.approx(1) and one[0] >= 0.1 for one in every)


@pytest.mark.parametrize("term", [1, 2])
def test_phi_weighs_what_finds_the_costly_attribute(term: int) -> None:
    """One term names the attribute with the largest drop, confidence another."""
    random = np.random.default_rng(0)
    confidences, matches = 0.4 * random.random((60, 5)), 0.4 * random.random((60, 5))
    prior = np.array([0, 0, 0, 1.0, 0]) if term == 2 else np.zeros(5)
    costly = np.full(60, 3) if term == 2 else np.arange(60) % 5
    if term == 1:
        matches[np.arange(60), costly] = 1
    drops = random.normal(0, 0.01, (60, 5))
    drops[np.arange(60), costly] += 1
    half = np.arange(60) < 30
    found = search(confidences, matches, prior, drops, 0.0, np.arange(60), half)
    assert found.phi[term] > 0
    assert found.best.mean > 0.99
    assert found.gain.low > 0.5
    assert found.held_out.mean > 0.5
    assert found.gain.mean == pytest.approx(found.best.mean - found.confidence.mean)
    assert dict(found.grid)[found.phi] == max(drop for _, drop in found.grid) == pytest.approx(found.best.mean)
    barred = search(confidences + 0.5 * (np.arange(5) == 0), matches, prior, drops, 0.5, np.arange(60), half)
    assert barred.phi == (1.0, 0.0, 0.0)  # one attribute alone reaches the threshold, and equals go to confidence


def test_what_chose_the_weights_does_not_judge_them() -> None:
    """Noise: the best of many weightings looks good on the pairs that chose it alone."""
    random = np.random.default_rng(0)
    confidences, matches, drops = (random.random((80, 12)) for _ in range(3))
    gains, held_out = [], []
    for seed in range(12):
        order = np.random.default_rng(seed).permutation(80)
        found = search(confidences, matches[order], random.random(12), drops, 0.0, np.arange(80), np.arange(80) < 40)
        gains.append(found.gain.mean)
        held_out.append(found.held_out.mean)
    assert np.mean(gains) > np.mean(held_out) + 0.03


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small networks with a softmax over four words."""
    folder = tmp_path_factory.mktemp("made") / "bundle"
    export_similarity(TorchSource(ConvNet().eval()), PREPROCESSING, folder)
    return export_attributes(TorchSource(MapNet().eval()), softmax_words(), folder)


def softmax_words() -> AttributeTable:
    return AttributeTable(("love", "animal", "Objects", "woman"), "softmax", np.zeros(4, np.float32))


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return copy_bundle(made, tmp_path / "bundle")


def test_the_model_stays_and_its_words_change(bundle: Path, tmp_path: Path) -> None:
    labels = write_demo_labels(tmp_path)
    before = load_bundle(bundle)
    found = calibrate(bundle, tmp_path, labels, method=Rise(masks=16))
    after = load_bundle(bundle)
    assert after.identity == before.identity
    assert after.manifest.to_json() == before.manifest.to_json()
    assert CALIBRATION in after.digests
    record = json.loads((bundle / CALIBRATION).read_text())
    assert record == json.loads(json.dumps(found.record))
    assert record["identity"] == after.identity
    assert (record["pictures"], record["groups"], record["explained_pairs"]) == (8, 4, 8)
    assert [row["name"] for row in record["attributes"]] == ["love", "animal", "Objects", "woman"]
    assert len(record["phi"]["grid"]) == 10  # no prior is significant on eight pictures, so none is weighed
    assert sum(record["confidence"]["after"]["count"]) == 32
    written = after.attributes
    assert written is not None
    assert written.confidence == "sigmoid"
    assert written.phi == found.search.phi == tuple(record["phi"]["phi"])
    assert written.prior is not None
    assert written.prior.tolist() == [row["prior"] for row in record["attributes"]]
    assert written.scale.tolist() == [row["scale"] for row in record["attributes"]]
    assert written.bias.tolist() == [row["bias"] for row in record["attributes"]]
    assert Explainer(bundle).explain(tmp_path / "cat-noto.png", tmp_path / "cat-twemoji.png", Rise(masks=16)).attributes


def test_the_same_seed_writes_the_same(bundle: Path, tmp_path: Path) -> None:
    labels = write_demo_labels(tmp_path, grouped=False)
    again = copy_bundle(bundle, tmp_path / "again")
    texts = []
    for folder in (bundle, again):
        calibrate(folder, tmp_path, labels, method=Rise(masks=16), seed=3)
        texts.append([(folder / name).read_text() for name in (ATTRIBUTES, CALIBRATION)])
    assert texts[0] == texts[1]
    assert json.loads(texts[0][1])["pairing"] == "most similar"


def test_a_new_attribute_network_drops_the_record_of_the_old(bundle: Path, tmp_path: Path) -> None:
    calibrate(bundle, tmp_path, write_demo_labels(tmp_path), method=Rise(masks=16))
    export_attributes(TorchSource(MapNet().eval()), softmax_words(), bundle)
    assert not (bundle / CALIBRATION).exists()
    assert CALIBRATION not in load_bundle(bundle).digests


def test_what_fails_leaves_the_bundle(bundle: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    labels = write_demo_labels(tmp_path)
    before = (bundle / SUMS).read_text()
    with pytest.raises(OptionError, match="seed"):
        calibrate(bundle, tmp_path, labels, seed=-1)
    with pytest.raises(OptionError, match="pairs"):
        calibrate(bundle, tmp_path, labels, pairs=0)
    labels.write_text(labels.read_text().replace(",bandage,", ",,"))
    with pytest.raises(OptionError, match="no attributes"):
        calibrate(tiny_bundle, tmp_path, labels)
    one = [line.replace(",couple,", ",cat,").replace(",gesture,", ",cat,") for line in labels.read_text().splitlines()]
    labels.write_text("\n".join(line for line in one if ",," not in line))
    with pytest.raises(OptionError, match="several groups"):
        calibrate(bundle, tmp_path, labels)
    assert (bundle / SUMS).read_text() == before


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = copy_bundle(demo_bundle(), tmp_path / "bundle")
    labels = write_demo_labels(tmp_path)
    arguments = ["calibrate", str(bundle), "--images", str(tmp_path), "--labels", str(labels)]
    assert main([*arguments, "--seed", "1"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "left out attributes that the bundle does not have (1: odd)"
    assert told[2].startswith("prior: significant for 0 of 63 attributes")  # eight pictures are too few
    assert told[3].startswith("calibration error: 0.")
    assert told[-1] == f"wrote {bundle}"
    assert json.loads((bundle / CALIBRATION).read_text())["seed"] == 1
    assert main(["check", str(bundle)]) == 0
    capsys.readouterr()
    labels.write_text("image,attributes,colour\n")
    for wrong, said in ((arguments, "line 1"), ([*arguments[:1], "nowhere", *arguments[2:]], "nowhere")):
        assert main(wrong) == 2
        assert said in error_line(capsys)


def test_the_joint_probability_is_fitted_where_it_fits_better() -> None:
    random = np.random.default_rng(0)
    ours, theirs = sigmoid(random.normal(-1, 2, (400, 12))), sigmoid(random.normal(-1, 2, (400, 12)))
    planted = (0.7, 0.5, -0.3)
    both = random.random((400, 12)) < joint_probability(ours, theirs, planted)
    first = random.random(400) < 0.5
    found = fit_joint(ours, theirs, both, first)
    assert found.joint == pytest.approx(planted, abs=0.1)
    assert found.fitted_error < 0.03 < found.product_error
    independent = random.random((400, 12)) < ours * theirs
    few = fit_joint(ours[:10], theirs[:10], both[:10], first[:10])
    assert (few.joint, few.fitted_error, few.pairs) == (None, None, 10)
    # what cannot be better than the product is not kept: pairs that do not tell
    assert fit_joint(ours, theirs, independent, np.ones(400, bool)).joint is None


@pytest.mark.parametrize("centre", [-1, -4, -8])
def test_the_joint_fit_is_the_most_likely_one_however_small_the_confidences(centre: int) -> None:
    """A full step of Newton's method overshoots where the confidences are far too small, as those of a softmax are."""
    random = np.random.default_rng(0)
    shown = random.normal(size=(400, 12))
    drawings = centre + shown + 2 * random.normal(size=(2, 400, 12))
    both = shown + random.normal(size=(400, 12)) > 2
    z = np.column_stack([drawings.min(0).ravel(), drawings.max(0).ravel()])
    wanted = LogisticRegression(C=1e12, tol=1e-10, max_iter=10_000).fit(z, both.ravel())
    assert most_likely(*sigmoid(drawings), both) == pytest.approx((*wanted.coef_[0], wanted.intercept_[0]), abs=1e-3)


def planted_labels(explainer: Explainer, folder: Path, count: int = 60) -> Path:
    """Pictures in pairs, and attributes drawn with the very probabilities that the bundle gives."""
    random, lines = np.random.default_rng(0), ["image,group,attributes"]
    names = explainer.model.bundle.attributes.names
    pictures = random.integers(0, 256, (count, 1, 1, 3)) + random.integers(-60, 60, (count, 8, 8, 3))
    for i, pixels in enumerate(pictures):
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8).repeat(8, 0).repeat(8, 1)).save(folder / f"{i}.png")
    confident = explainer.confidences([folder / f"{i}.png" for i in range(count)])
    for i, row in enumerate(random.random(confident.shape) < confident):
        lines.append(f"{i}.png,{i // 2},{';'.join(n for n, yes in zip(names, row, strict=True) if yes)}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


@pytest.mark.parametrize("spoiled", [False, True])
def test_vectors_are_calibrated_only_where_that_helps(bundle: Path, tmp_path: Path, spoiled: bool) -> None:
    folder = copy_bundle(bundle, tmp_path / "own")
    random = np.random.default_rng(1)
    (tmp_path / "pictures").mkdir()
    size = load_bundle(folder).manifest.embedding
    vectors = {"names": np.array(["one", "two", "three"]), "vectors": random.normal(size=(3, size)), "scale": 3.0}
    np.savez(tmp_path / "v.npz", **vectors)
    export_vectors(folder, tmp_path / "v.npz")
    labels = planted_labels(Explainer(folder), tmp_path / "pictures")
    if spoiled:
        np.savez(tmp_path / "v.npz", **(vectors | {"bias": 9.0}))
        export_vectors(folder, tmp_path / "v.npz")
    before = load_bundle(folder).vectors
    found = calibrate(folder, labels.parent, labels, method=Rise(masks=16))
    after = load_bundle(folder).vectors
    assert found.scaled == spoiled
    assert json.loads((folder / CALIBRATION).read_text())["confidence"]["applied"] == spoiled
    if spoiled:
        assert found.after.error < found.before.error
        assert (after.bias < before.bias - 3).all()
    else:
        np.testing.assert_array_equal(after.to_arrays()["bias"], before.to_arrays()["bias"])
    np.testing.assert_array_equal(after.vectors, before.vectors)
