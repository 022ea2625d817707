"""Attributes from labels: planted ones are found in every kind of network, and the maps' means are the logits."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from export_models import ConvNet, LastNet
from helpers import copy_bundle, error_line, python
from PIL import Image
from torch import Tensor, nn

from engine import Explainer, OptionError, Rise
from engine.bundle import PROBES, load_bundle
from engine.errors import EngineError
from engine.pictures.preprocessing import Preprocessing
from export import TorchSource, export_similarity
from export.commands import main
from export.demo_pictures import demo_pictures
from export.logistic import FOLDS, cross_fit, folds, log_loss, logistic
from export.probes import FEWEST_POSITIVES, export_probes
from export.taps import Tap, find_taps, pooling_runner, similarity_model

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 220)}
PICTURES = 72


class TokenNet(nn.Module):
    """A transformer of one block with a class token and a register: (N, 3, 32, 32) -> (N, 16)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.extra = nn.Parameter(torch.randn(1, 2, 16))
        self.position = nn.Parameter(torch.randn(1, 18, 16) / 4)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.extra.expand(x.shape[0], -1, -1), tokens], 1) + self.position
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.norm(tokens + attended)[:, 0]


class Untapped(nn.Module):
    """A network whose every layer is flat: (N, 3, 32, 32) -> (N, 12)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.fc = nn.Linear(3 * 32 * 32, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(x, 1))


def preprocessing(side: int = 32, layout: str = "nchw") -> Preprocessing:
    return Preprocessing(side, side, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), layout=layout)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Preprocessing, list[str]]] = {
    "nchw": (ConvNet, preprocessing(), ["nchw", "nchw"]),
    "nhwc": (LastNet, preprocessing(layout="nhwc"), ["nchw", "nchw"]),
    "odd side": (ConvNet, preprocessing(65), ["nchw", "nchw"]),
    "tokens": (TokenNet, preprocessing(), ["tokens"]),
    "untapped": (Untapped, preprocessing(), []),
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    return {
        name: export_similarity(TorchSource(network().eval()), how, folder / name)
        for name, (network, how, _) in NETWORKS.items()
    }


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise with a square of one or two colours in it; two pictures of each group have the same colours."""
    folder, random = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    lines = ["image,group,attributes"]
    for group in range(PICTURES // 2):
        names = sorted(random.choice(list(COLOURS), 1 + group % 2, replace=False))
        for twin in range(2):
            pixels = random.integers(100, 156, (40, 40, 3)).astype(np.uint8)
            for i, name in enumerate(names):
                row, column = random.integers(0, 8, 2)
                pixels[row + 20 * i : row + 20 * i + 14, column : column + 26] = COLOURS[name]
            Image.fromarray(pixels).save(folder / f"{group}-{twin}.png")
            rare = ["rare"] if group < FEWEST_POSITIVES // 2 - 1 else []
            lines.append(f"{group}-{twin}.png,{group},{';'.join([*names, *rare])}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


@pytest.mark.parametrize("name", NETWORKS)
def test_taps_are_found_in_every_kind_of_network(name: str, bundles: dict[str, Path]) -> None:
    _, how, layouts = NETWORKS[name]
    model = similarity_model(bundles[name], "similarity.fp32.onnx")
    pictures = how.normalised(demo_pictures(how)[:2])
    taps = find_taps(model, pictures)
    assert [tap.layout for tap in taps] == layouts
    sides = {"odd side": [17, 9], "tokens": [4], "untapped": []}.get(name, [8, 4])
    assert [(tap.height, tap.width) for tap in taps] == [(side, side) for side in sides]
    assert [tap.prefix for tap in taps] == ([2] if name == "tokens" else [0] * len(taps))
    embedded, *means = pooling_runner(model, taps).run(pictures)
    assert [mean.reshape(2, -1).shape for mean in means] == [(2, tap.channels) for tap in taps]
    np.testing.assert_allclose(embedded, Explainer(bundles[name]).embed(list(demo_pictures(how)[:2])), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_planted_attributes_are_found_and_the_maps_means_are_the_logits(
    name: str, bundles: dict[str, Path], labels: Path, tmp_path: Path
) -> None:
    bundle = copy_bundle(bundles[name], tmp_path / "bundle")
    identity = load_bundle(bundle).identity
    found = export_probes(bundle, labels.parent, labels)
    assert found.table.names == ("blue", "green", "red")
    assert found.left_out == {"rare": FEWEST_POSITIVES - 2}
    explainer = Explainer(bundle, precision="fp32")
    assert explainer.model.bundle.identity == identity
    record = json.loads((bundle / PROBES).read_text())
    assert record["left_out"] == found.left_out
    best = record["probes"]["taps" if found.taps else "embedding"]["mean_average_precision"]["mean"]
    assert best > 0.8
    files = sorted(labels.parent.glob("*.png"))[:6]
    confidences = explainer.confidences(files)
    if not found.taps:
        assert explainer.model.attributes is None
        return
    model, how = similarity_model(bundle, "similarity.fp32.onnx"), NETWORKS[name][1]
    pixels = how.normalised(np.stack([explainer.model.picture(file).pixels for file in files]))
    _, *means = pooling_runner(model, list(found.taps)).run(pixels)
    features = np.concatenate([mean.reshape(len(files), -1) for mean in means], axis=1)
    maps = explainer.model.attributes.run(pixels)
    logits = maps.mean((2, 3), dtype=np.float64)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), confidences, atol=1e-6)
    probe = refitted(features_of(explainer, model, found.taps, labels), labels)
    np.testing.assert_allclose(logits, probe.logits(features), atol=1e-4 * max(1, np.abs(logits).max()))


def features_of(explainer: Explainer, model: object, taps: tuple[Tap, ...], labels: Path) -> np.ndarray:
    files = [labels.parent / line.split(",")[0] for line in labels.read_text().splitlines()[1:]]
    pixels = explainer.model.preprocessing.normalised(np.stack([explainer.model.picture(f).pixels for f in files]))
    _, *means = pooling_runner(model, list(taps)).run(pixels)  # type: ignore[arg-type]
    return np.concatenate([mean.reshape(len(files), -1) for mean in means], axis=1)


def refitted(features: np.ndarray, labels: Path) -> object:
    rows = [line.split(",") for line in labels.read_text().splitlines()[1:]]
    truth = np.array([[name in row[2].split(";") for name in sorted(COLOURS)] for row in rows])
    return cross_fit(features, truth, np.array([int(row[1]) for row in rows]), 0).probe


def test_a_probed_bundle_explains(bundles: dict[str, Path], labels: Path, tmp_path: Path) -> None:
    bundle = copy_bundle(bundles["nchw"], tmp_path / "bundle")
    export_probes(bundle, labels.parent, labels, threshold=0.2)
    explainer, pair = Explainer(bundle, precision="fp32"), [labels.parent / f"0-{i}.png" for i in range(2)]
    prepared = explainer.prepare(pair[0], Rise(masks=32))
    shown, bare = prepared.explain(pair[1]), prepared.explain(explainer.embed([pair[1]])[0])
    assert shown.attributes
    assert shown.attributes[0].map.shape == (8, 8)
    assert bare.attributes[0].reference_confidence is not None  # by the probe on the embedding
    assert not bare.notes


def test_attributes_from_data_need_no_pytorch() -> None:
    done = python("-c", "import export.attribute_handlers, sys; print(sorted(sys.modules))")
    assert done.returncode == 0, done.stderr
    assert "'onnx'" in done.stdout
    assert "'torch'" not in done.stdout


def test_passes_are_for_networks_without_taps(bundles: dict[str, Path], labels: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.csv"
    few.write_text("\n".join(labels.read_text().splitlines()[: PICTURES // 2 + 1]) + "\n")
    with pytest.raises(OptionError, match="has 2 of them: leave it out"):
        export_probes(bundles["nchw"], labels.parent, few, passes=True)
    bundle = copy_bundle(bundles["untapped"], tmp_path / "bundle")
    found = export_probes(bundle, labels.parent, few, passes=True)
    assert set(found.record["probes"]) == {"passes", "embedding"}
    explainer = Explainer(bundle)
    assert explainer.model.bundle.vectors.pass_mean is not None
    assert explainer.explain(labels.parent / "0-0.png", labels.parent / "0-1.png", Rise(masks=16)).ranking == "joint"


def test_the_fit_is_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    random = np.random.default_rng(0)
    features = random.normal(size=(120, 9)) * random.uniform(0.1, 5, 9) + 3
    features[:, 4] = 2.0  # a constant
    scores = features @ random.normal(size=(9, 4)) + random.normal(size=(120, 4))
    truth = scores > np.quantile(scores, [0.3, 0.5, 0.8, 0.9], axis=0).diagonal()
    found = logistic(features, truth, 10.0)
    spread = features.std(0)
    z = np.delete((features - features.mean(0)) / np.where(spread > 0, spread, 1), 4, axis=1)
    for i in range(4):
        wanted = linear_model.LogisticRegression(C=0.1, tol=1e-9, max_iter=10_000).fit(z, truth[:, i])

        def objective(weights: np.ndarray, bias: float, i: int = i) -> float:
            logits = z @ weights + bias
            return float((np.logaddexp(0, logits) - truth[:, i] * logits).sum() + 5 * weights @ weights)

        ours = objective(np.delete(found.weights[i] * spread, 4), found.bias[i] + found.weights[i] @ features.mean(0))
        assert ours == pytest.approx(objective(wanted.coef_[0], wanted.intercept_[0]), rel=1e-3)
    assert found.weights[:, 4] == pytest.approx(0)


def test_a_group_is_never_on_both_sides() -> None:
    groups = np.repeat(np.arange(20), 3)
    which = folds(groups, 1)
    assert set(which) == set(range(FOLDS))
    assert all(len(set(which[groups == group])) == 1 for group in range(20))
    # labels that only a twin could tell: held-out logits must not know them
    random = np.random.default_rng(0)
    twins = np.repeat(random.normal(size=(40, 30)), 2, axis=0)
    truth = np.repeat(random.random((40, 2)) < 0.5, 2, axis=0)
    fair = cross_fit(twins, truth, np.repeat(np.arange(40), 2), 0)
    leaking = cross_fit(twins, truth, np.arange(80), 0)
    assert log_loss(leaking.logits, truth) < 0.9 * log_loss(fair.logits, truth)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "{l}"], "--labels needs --images"),
        (["--labels", "{l}", "--images", "{d}", "--names", "n.txt"], "--names is about an attribute model"),
        (["--labels", "{l}", "--images", "{d}", "--confidence", "softmax"], "have confidence sigmoid, got softmax"),
        (["--labels", "{l}", "--images", "{d}", "--seed", "-1"], "seed must be"),
        (["--labels", "{d}/nowhere.csv", "--images", "{d}"], "cannot read the labels"),
        (["--labels", "{few}", "--images", "{d}"], "label more pictures"),
        (["--labels", "{none}", "--images", "{d}"], "names no attributes"),
        (["--module", "export_models:maps", "--images", "{d}", "--names", "n.txt"], "--images is used with --labels only"),
    ],
)
def test_what_does_not_fit_is_one_line(
    arguments: list[str],
    message: str,
    bundles: dict[str, Path],
    labels: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    bundle = copy_bundle(bundles["nchw"], tmp_path / "bundle")
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    lines = labels.read_text().splitlines()
    (tmp_path / "few.csv").write_text("\n".join(lines[:9]) + "\n")
    (tmp_path / "none.csv").write_text("image,group,attributes\n0-0.png,0,\n0-1.png,0,\n1-0.png,1,\n1-1.png,1,\n")
    named = {"l": labels, "d": labels.parent, "few": tmp_path / "few.csv", "none": tmp_path / "none.csv"}
    assert main(["attributes", str(bundle), *(a.format(**named) for a in arguments)]) == 2
    assert message in error_line(capfd)
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before


def test_the_command_says_what_was_found(
    bundles: dict[str, Path], labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, said in (
        ("nchw", "read off 2 layers of the network (8 x 8, 4 x 4 cells)"),
        ("untapped", "read off the embedding alone"),
    ):
        bundle = copy_bundle(bundles[name], tmp_path / name)
        assert main(["attributes", str(bundle), "--labels", str(labels), "--images", str(labels.parent)]) == 0
        told = capsys.readouterr().out
        assert f"3 attributes {said}, from 72 pictures" in told
        assert "left out for too few pictures (1: rare)" in told
        assert "mean average precision" in told
        assert ("--passes looks at every picture" in told) == (name == "untapped")


def test_vectors_of_ones_own(
    bundles: dict[str, Path], labels: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = copy_bundle(bundles["untapped"], tmp_path / "bundle")
    vectors = np.random.default_rng(0).normal(size=(3, 12))
    file, names = tmp_path / "v.npz", np.array(["red", "green", "blue"])
    np.savez(file, names=names, vectors=vectors, scale=20.0, bias=np.array([-1.0, 0.0, 1.0]))
    assert main(["attributes", str(bundle), "--vectors", str(file), "--threshold", "0.3"]) == 0
    capfd.readouterr()
    made = load_bundle(bundle)
    assert (made.attributes.names, made.attributes.threshold) == (("red", "green", "blue"), 0.3)
    np.testing.assert_array_equal(made.vectors.vectors, vectors.astype(np.float32))
    assert made.vectors.scale.tolist() == [20, 20, 20]
    picture = labels.parent / "0-0.png"
    explainer = Explainer(bundle)
    embedding = explainer.embed([picture])[0].astype(np.float64)
    scores = 20 * vectors @ embedding / np.linalg.norm(embedding) + [-1, 0, 1]
    np.testing.assert_allclose(explainer.confidences([picture])[0], 1 / (1 + np.exp(-scores)), rtol=1e-4)
    assert main(["attributes", str(bundle), "--vectors", str(file), "--confidence", "softmax"]) == 0
    capfd.readouterr()
    assert load_bundle(bundle).vectors.confidence == "softmax"
    for arrays, message in (
        ({"names": names}, "must hold names and vectors"),
        ({"names": names, "vectors": vectors[:, :5]}, "must be numbers (3, 12)"),
        ({"names": np.arange(3), "vectors": vectors}, "names must be text"),
        ({"names": names, "vectors": vectors, "scale": np.ones(2)}, "scale must be one number or 3, one for each name"),
        ({"names": names, "vectors": vectors * np.inf}, "finite float32"),
        ({"names": np.array(["a", "a", "b"]), "vectors": vectors}, "distinct names"),
        ({"names": names, "vectors": vectors, "odd": names}, "got names, odd, vectors"),
    ):
        np.savez(file, **arrays)
        assert main(["attributes", str(bundle), "--vectors", str(file)]) == 2
        assert message in error_line(capfd)
    with pytest.raises(EngineError):
        dataclasses.replace(made.attributes, names=("a", "a", "b"))
