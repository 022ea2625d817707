"""The authors' checkpoints, made here with random weights in their format (docs/method.md, Data layouts)."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_models import ConvNet
from helpers import Trap
from torch import Tensor, nn

from engine.bundle import load_bundle
from engine.errors import OptionError
from engine.protocol import GraphSignature
from engine.runtime.session import Session
from engine.saliency.similarity import query_features, reference_features
from export import ExportError, load_checkpoint, load_typespaces
from export.architectures import SimilarityNet
from export.commands import main

PAIRS = [("tops", "shoes"), ("shoes", "bags"), ("bags", "tops")]


@pytest.fixture(scope="module")
def trunk() -> SimilarityNet:
    torch.manual_seed(3)
    return SimilarityNet().eval()


def state(trunk: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The keys of a published Polyvore checkpoint, the training-only ones among them."""
    torch.manual_seed(4)
    keys = {f"embeddingnet.embeddingnet.{k}": v for k, v in trunk.state_dict().items()}
    keys |= {"embeddingnet.masks.weight": torch.randn(3, 64), "text_branch.fc1.weight": torch.randn(4, 4)}
    return {prefix + k: v for k, v in keys.items()}


def save(path: Path, content: dict[str, Tensor]) -> Path:
    checkpoint = {"epoch": 7, "state_dict": content, "best_prec1": np.float64(0.875)}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    return path


def pickled(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def test_the_format_is_the_awkward_one(trunk: SimilarityNet, tmp_path: Path) -> None:
    path = save(tmp_path / "m.pth.tar", state(trunk))
    assert path.read_bytes()[:2] != b"PK"
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_polyvore_gives_each_conditions_cosine(trunk: SimilarityNet, tmp_path: Path) -> None:
    content = state(trunk)
    path = save(tmp_path / "polyvore_model.pth.tar", content)
    names = pickled(tmp_path / "typespaces.p", PAIRS)
    words = ["similarity", "--checkpoint", str(path), "--arch", "sane-polyvore", "--typespaces", str(names)]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    loaded = load_bundle(tmp_path / "out")
    manifest, graph = loaded.manifest, loaded.manifest.graphs[0]
    assert manifest.conditions is not None
    assert manifest.conditions.names == ("tops,shoes", "shoes,bags", "bags,tops")
    p = manifest.preprocessing
    assert (p.height, p.width, p.fit, manifest.metric) == (112, 112, "crop", "cosine")
    assert (p.mean, p.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    session = Session(
        tmp_path / "out" / graph.file, "cpu", None, GraphSignature(graph.input, p.input_shape, graph.output, (64,))
    )
    x = p.normalised(np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), np.uint8))
    query, reference = session.run(x)[:1], session.run(x)[1:]
    with torch.inference_mode():
        a, b = trunk(torch.from_numpy(x))
    for index, weights in enumerate(content["embeddingnet.masks.weight"]):
        mask = torch.relu(weights)
        expected = float(nn.functional.cosine_similarity(a * mask, b * mask, dim=0))
        own = manifest.conditions.weights[index]
        features = (query_features(query, "cosine", own), reference_features(reference, "cosine", own))
        assert float((features[0] @ features[1].T).item()) == pytest.approx(expected, abs=1e-5)


def test_awa_is_normalised_and_has_no_conditions(trunk: SimilarityNet, tmp_path: Path) -> None:
    content = state(trunk)
    del content["embeddingnet.masks.weight"]
    module, conditions = load_checkpoint(save(tmp_path / "awa_model.pth.tar", content), "sane-awa")
    assert conditions is None
    x = torch.randn(2, 3, 112, 112)
    with torch.inference_mode():
        torch.testing.assert_close(module.eval()(x), nn.functional.normalize(trunk(x)))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_without_typespaces_conditions_are_numbered(prefix: str, trunk: SimilarityNet, tmp_path: Path) -> None:
    module, conditions = load_checkpoint(save(tmp_path / "m.tar", state(trunk, prefix)), "sane-polyvore")
    torch.testing.assert_close(module.state_dict(), trunk.state_dict())
    assert conditions is not None
    assert conditions.names == ("0", "1", "2")
    np.testing.assert_array_equal(conditions.weights, state(trunk)["embeddingnet.masks.weight"].numpy())


def test_checkpoints_that_do_not_fit(trunk: SimilarityNet, tmp_path: Path) -> None:
    content = state(trunk)
    path = save(tmp_path / "m.tar", content)
    with pytest.raises(ExportError, match="try --arch sane-polyvore"):
        load_checkpoint(path, "sane-awa")
    with pytest.raises(OptionError, match="sane-polyvore, sane-awa"):
        load_checkpoint(path, "resnet")
    with pytest.raises(ExportError, match="names 2 type pairs"):
        load_checkpoint(path, "sane-polyvore", pickled(tmp_path / "two.p", PAIRS[:2]))
    missing = {k: v for k, v in content.items() if not k.endswith("layer2.0.conv1.weight")}
    with pytest.raises(ExportError, match=r"lacks layer2\.0\.conv1\.weight"):
        load_checkpoint(save(tmp_path / "missing.tar", missing), "sane-polyvore")
    with pytest.raises(ExportError, match="lacks embeddingnet"):
        load_checkpoint(save(tmp_path / "other.tar", ConvNet().state_dict()), "sane-polyvore")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--size 224", "112"),
        ("--layout nhwc", "nchw"),
        ("--conditions {tmp}/c.npz", "holds its own"),
    ],
)
def test_options_that_the_authors_networks_do_not_take(
    words: str, message: str, trunk: SimilarityNet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "m.tar", state(trunk))
    arguments = ["similarity", "--checkpoint", str(path), "--arch", "sane-polyvore", "--out", str(tmp_path / "out")]
    assert main([*arguments, *words.format(tmp=tmp_path).split()]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pickles_with_code_are_refused_without_running_it(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    with pytest.raises(ExportError, match=r"asks for \w+\.mkdir"):
        load_typespaces(pickled(tmp_path / "typespaces.p", [("a", "b"), Trap(trap)]))
    torch.save({"state_dict": {"x": torch.ones(1)}, "best_prec1": Trap(trap)}, tmp_path / "m.tar")
    with pytest.raises(ExportError, match="since it could run code"):
        load_checkpoint(tmp_path / "m.tar", "sane-polyvore")
    assert not trap.exists()


@pytest.mark.parametrize("content", [{"a": 1}, ["ab", "cd"], [("a", "b", "c")], [("a", 1)]])
def test_typespaces_of_another_shape(content: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="list of pairs"):
        load_typespaces(pickled(tmp_path / "t.p", content))


def test_typespaces_that_are_no_pickle(tmp_path: Path) -> None:
    for content in (b"", b"text", pickle.dumps(PAIRS)[:-4]):
        (tmp_path / "t.p").write_bytes(content)
        with pytest.raises(ExportError, match=r"not a pickled list"):
            load_typespaces(tmp_path / "t.p")


def test_typespaces_of_python_2(tmp_path: Path) -> None:
    (tmp_path / "t.p").write_bytes(b"(lp0\n(S'tops'\np1\nS'shoes'\np2\ntp3\na.")
    assert load_typespaces(tmp_path / "t.p") == [("tops", "shoes")]


def test_a_memo_number_that_asks_for_gigabytes_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "typespaces.p"
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")  # an empty list, put at memo 2^31 - 1
    with pytest.raises(ExportError, match="LONG_BINPUT"):
        load_typespaces(path)
