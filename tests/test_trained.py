"""What training writes, the export reads: without options of its own, and without running code."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engine import Explainer
from engine.attributes.table import AttributeTable
from engine.bundle import load_bundle
from engine.bundle.manifest import Conditions
from engine.pictures.preprocessing import Preprocessing
from export import TorchSource, export_similarity
from export.architectures import AttributeNet, SimilarityNet
from export.bundles import export_file
from export.commands import main
from export.errors import ExportError
from export.trained import Trained, load_trained, save_trained

SQUARE = Preprocessing(32, 32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))
CONDITIONS = Conditions(("a,b", "c,d"), np.array([[1.0] * 16, [0.5] * 16], np.float32))
TABLE = AttributeTable(("red", "blue"), "sigmoid", np.array([-1.0, 0.5], np.float32), 0.3)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    similarity, attributes = SimilarityNet(8, 16).eval(), AttributeNet(2, 8).eval()
    save_trained(folder / "s.pt", "similarity", {"width": 8, "embedding": 16}, Trained(similarity, SQUARE, CONDITIONS))
    save_trained(folder / "a.pt", "attributes", {"attributes": 2, "width": 8}, Trained(attributes, SQUARE, table=TABLE))
    return folder / "s.pt", folder / "a.pt"


@pytest.fixture(scope="module")
def bundle(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "bundle"
    assert main(["similarity", "--trained", str(files[0]), "--out", str(out)]) == 0
    assert main(["attributes", str(out), "--trained", str(files[1])]) == 0
    return out


def test_a_trained_file_says_all_that_an_export_needs(bundle: Path) -> None:
    made = load_bundle(bundle)
    assert made.manifest.preprocessing == SQUARE
    assert made.manifest.conditions is not None and made.manifest.conditions.names == CONDITIONS.names
    np.testing.assert_array_equal(made.manifest.conditions.weights, CONDITIONS.weights)
    assert made.attributes is not None and made.attributes.names == TABLE.names
    assert (made.attributes.confidence, made.attributes.threshold) == ("sigmoid", 0.3)
    np.testing.assert_array_equal(made.attributes.bias, TABLE.bias)


def test_the_exported_network_is_the_trained_one(bundle: Path, files: tuple[Path, Path]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    with torch.inference_mode():
        expected = load_trained(files[0]).network(torch.from_numpy(SQUARE.normalised(picture)[None]))[0].numpy()
    np.testing.assert_allclose(Explainer(bundle, precision="fp32").embed([picture])[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["similarity", "--trained", "{a}"], "holds a network for attributes"),
        (["attributes", "--trained", "{s}"], "holds a network for similarity"),
        (["similarity", "--trained", "{s}", "--size", "64"], "leave those options out"),
        (["similarity", "--trained", "{s}", "--mean", "0", "0", "0"], "leave those options out"),
        (["similarity", "--trained", "{s}", "--conditions", "c.npz"], "holds its own"),
        (["attributes", "--trained", "{a}", "--names", "n.txt"], "leave out --names"),
        (["attributes", "--module", "json:loads"], "--names is needed"),
        (["similarity", "--trained", "{s}", "--weights", "w.pt"], "--weights is used with --module"),
        (["similarity", "--trained", "nowhere.pt"], "there is no file"),
        (["similarity", "--trained", "{x}"], "was not written by training"),
    ],
)
def test_what_does_not_fit_is_one_line(
    arguments: list[str], words: str, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "x.pt")
    named = {"s": files[0], "a": files[1], "x": tmp_path / "x.pt"}
    target = [str(tmp_path / "out")] if arguments[0] == "attributes" else ["--out", str(tmp_path / "out")]
    assert main([*(a.format(**named) for a in arguments), *target]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_attributes_of_other_pictures_do_not_fit(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    export_similarity(TorchSource(SimilarityNet(8, 16).eval()), Preprocessing(32, 32), out)
    assert main(["attributes", str(out), "--trained", str(files[1])]) == 2
    assert "was trained on pictures prepared as" in capsys.readouterr().err


def test_a_file_with_code_is_not_read(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"format": "sane-trained", "state": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ExportError, match="was not written by"):
        load_trained(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_a_further_file_joins_a_bundle(bundle: Path) -> None:
    before = load_bundle(bundle)
    export_file(bundle, "MODEL_CARD.md", b"# card\n")
    after = load_bundle(bundle)
    assert (bundle / "MODEL_CARD.md").read_bytes() == b"# card\n"
    assert "MODEL_CARD.md" in after.digests and after.identity == before.identity
    with pytest.raises(Exception, match="plain name"):
        export_file(bundle, "manifest.json", b"")
