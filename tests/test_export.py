"""PyTorch modules to bundles: the same numbers, whole bundles or none, and clear refusals."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from export_models import AcrossBatch, ConvNet, Endless, LastNet, MapNet, TracedOtherwise
from helpers import copy_bundle
from torch import nn

import export
from engine.attributes.table import AttributeTable
from engine.bundle import load_bundle
from engine.bundle.manifest import Conditions
from engine.errors import BundleError, OptionError, OutputError
from engine.pictures.preprocessing import Preprocessing
from export import ExportError, TorchSource, check, export_attributes, export_similarity, graphs, swap

SMALL = Preprocessing(32, 40, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
WORDS = AttributeTable(("red", "round", "small", "shiny"), "sigmoid", np.array([0, 1, -1, 0.5], np.float32))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed; `copied` may be."""
    out = tmp_path_factory.mktemp("export") / "convnet"
    extra = {"MODEL_CARD.md": b"# a card\n"}
    return export_similarity(TorchSource(ConvNet()), SMALL, out, metric="dot", licence="MIT", extra_files=extra)


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return copy_bundle(made, tmp_path / "copy")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def run(path: Path, batch: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: batch})[0])


@pytest.mark.parametrize("batch", [1, 5])
def test_a_module_gives_the_same_embeddings_in_any_batch(made: Path, batch: int) -> None:
    x = np.random.default_rng(batch).normal(size=(batch, 3, 32, 40)).astype(np.float32)
    with torch.inference_mode():
        expected = ConvNet().eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run(made / "similarity.fp32.onnx", x), expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def test_the_graph_is_plain(made: Path) -> None:
    model = onnx.load(made / "similarity.fp32.onnx")
    assert "Conv" in {n.op_type for n in model.graph.node}
    assert "BatchNormalization" not in {n.op_type for n in model.graph.node}
    assert [o.version for o in model.opset_import if o.domain == ""] == [18]
    for value in (model.graph.input[0], model.graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    # the exporter writes where on this machine each node came from
    assert b"export_models" not in model.SerializeToString()
    assert not any(len(n.metadata_props) or n.doc_string for n in model.graph.node)


def test_the_bundle_says_what_was_asked(made: Path) -> None:
    loaded = load_bundle(made)
    manifest = loaded.manifest
    assert manifest.preprocessing == SMALL
    assert (manifest.name, manifest.licence, manifest.metric, manifest.embedding) == ("convnet", "MIT", "dot", 5)
    graph = manifest.graphs[0]
    assert (graph.file, graph.precision, graph.target, graph.opset) == ("similarity.fp32.onnx", "fp32", "any", 18)
    assert (graph.input, graph.output) == ("image", "embedding")
    assert (made / "MODEL_CARD.md").read_bytes() == b"# a card\n"
    assert "MODEL_CARD.md" in (made / "SHA256SUMS").read_text()
    picture = loaded.canonical["picture"]
    np.testing.assert_array_equal(picture, graphs.demo_pictures(SMALL)[0])
    with torch.inference_mode():
        expected = ConvNet().eval()(torch.from_numpy(SMALL.normalised(picture[None]))).numpy()[0]
    np.testing.assert_allclose(loaded.canonical[graph.file], expected, atol=1e-5)


def test_channels_last_and_a_model_in_training_mode(tmp_path: Path) -> None:
    module = LastNet()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    preprocessing = Preprocessing(32, 32, layout="nhwc", channel_order="bgr")
    out = export_similarity(TorchSource(module), preprocessing, tmp_path / "last")
    assert module.training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    x = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = module.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run(out / "similarity.fp32.onnx", x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (TracedOtherwise(), "does not give what its source gives: it is off by"),
        (AcrossBatch(), "does not give what its source gives: it is off by"),
        (Endless(), "not finite"),
        (MapNet(), r"must be \(batch, any\), but the model gives \(batch, 4, 4, 5\)"),
        (nn.Linear(7, 2), "fails on a batch of shape"),
        (nn.Conv2d(3, 2, 3).double(), r"must be \(batch, any\)"),
    ],
)
def test_a_module_that_does_not_fit_is_refused_and_leaves_nothing(module: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export_similarity(TorchSource(module), SMALL, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_tolerance_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "EXPORT_TOLERANCE", 0.1)
    export_similarity(TorchSource(TracedOtherwise()), SMALL, tmp_path / "out")  # it is off by 0.01
    monkeypatch.setattr(graphs, "EXPORT_TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="off by"):
        export_similarity(TorchSource(ConvNet()), SMALL, tmp_path / "other")


@pytest.mark.parametrize("failing", ["export.bundles.finish", "pathlib.Path.rename"])
def test_a_failure_while_writing_leaves_the_old_bundle(copied: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = contents(copied)
    monkeypatch.setattr(swap, "exchanged", lambda *_: False)  # as where there is no exchange in one step
    monkeypatch.setattr(failing, fail)
    with pytest.raises(OutputError, match="No space left on device"):
        export_similarity(TorchSource(ConvNet()), SMALL, copied, name="new")
    assert contents(copied) == before
    assert [p.name for p in copied.parent.iterdir()] == ["copy"]
    with pytest.raises(OutputError):
        export_similarity(TorchSource(ConvNet()), SMALL, copied.with_name("fresh"))
    assert [p.name for p in copied.parent.iterdir()] == ["copy"]


def test_a_swap_that_fails_half_way_puts_the_old_bundle_back(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename, calls = contents(copied), Path.rename, []
    monkeypatch.setattr(swap, "exchanged", lambda *_: False)  # as where there is no exchange in one step

    def fail_second(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_second)
    with pytest.raises(OutputError, match="Input/output error"):
        export_similarity(TorchSource(ConvNet()), SMALL, copied, name="new")
    assert contents(copied) == before
    assert [p.name for p in copied.parent.iterdir()] == ["copy"]


def test_a_bundle_is_replaced(copied: Path) -> None:
    (copied / "similarity.fp32.onnx").write_bytes(b"damaged")
    export_similarity(TorchSource(ConvNet()), SMALL, copied, name="new")
    assert load_bundle(copied).manifest.name == "new"
    assert "MODEL_CARD.md" not in contents(copied)
    assert [p.name for p in copied.parent.iterdir()] == ["copy"]


def test_other_folders_are_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "make", lambda *_: pytest.fail("work was done"))
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "manifest.json").write_text('{"manifest_version": 3, "name": "a browser extension"}')
    (tmp_path / "file").write_text("text")
    for out, message in (
        (taken, "other than a bundle"),
        (tmp_path / "file", "it is a file"),
        (tmp_path / "no" / "out", "there is no folder"),
    ):
        with pytest.raises(OutputError, match=message):
            export_similarity(TorchSource(ConvNet()), SMALL, out)
    assert [p.name for p in taken.iterdir()] == ["manifest.json"]


def test_a_folder_that_appears_during_the_work_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = graphs.make

    def slow(*arguments: Any) -> graphs.ExportedGraph:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "notes").write_text("mine")
        return make(*arguments)

    monkeypatch.setattr(graphs, "make", slow)
    with pytest.raises(OutputError, match="other than a bundle"):
        export_similarity(TorchSource(ConvNet()), SMALL, tmp_path / "out")
    assert (tmp_path / "out" / "notes").read_text() == "mine"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    out = export_similarity(TorchSource(ConvNet()), SMALL, tmp_path / "empty")
    assert load_bundle(out).manifest.name == "empty"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "manhattan"}, "metric must be one of"),
        ({"conditions": Conditions(("a",), np.ones((1, 4), np.float32))}, r"\(C, 5\) like the embedding, got \(1, 4\)"),
        ({"extra_files": {"manifest.json": b""}}, "plain name"),
        ({"extra_files": {"../card.md": b""}}, "plain name"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        export_similarity(TorchSource(ConvNet()), SMALL, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_attributes_keep_the_identity_and_the_other_files(copied: Path) -> None:
    before, identity = contents(copied), load_bundle(copied).identity
    export_attributes(TorchSource(MapNet()), WORDS, copied)
    loaded = load_bundle(copied)
    assert loaded.identity == identity
    assert loaded.attributes is not None
    assert loaded.attributes.names == WORDS.names
    np.testing.assert_array_equal(loaded.attributes.bias, WORDS.bias)
    changed = {n for n, c in contents(copied).items() if before.get(n) != c}
    assert changed == {"manifest.json", "SHA256SUMS", "canonical.npz", "attributes.json", "attributes.fp32.onnx"}
    picture = SMALL.normalised(loaded.canonical["picture"][None])
    with torch.inference_mode():
        maps = MapNet().eval()(torch.from_numpy(picture)).numpy()
    np.testing.assert_allclose(run(copied / "attributes.fp32.onnx", picture), maps, atol=1e-5)
    np.testing.assert_allclose(loaded.canonical["attributes.fp32.onnx"], maps[0].mean((1, 2)), atol=1e-5)
    again = AttributeTable(("a", "b", "c", "d"), "softmax", np.zeros(4, np.float32), prior=np.full(4, 0.5, np.float32))
    export_attributes(TorchSource(MapNet()), again, copied)
    assert len(load_bundle(copied).manifest.graphs) == 2
    assert "a, b, c, d; softmax" in check(copied)


def test_attributes_that_do_not_fit_leave_the_bundle(copied: Path) -> None:
    before = contents(copied)
    three = AttributeTable(("a", "b", "c"), "softmax", np.zeros(3, np.float32))
    for source, table in ((MapNet(), three), (ConvNet(), WORDS)):
        with pytest.raises(ExportError, match=r"maps must be \(batch, [34], any, any\), but the model gives"):
            export_attributes(TorchSource(source), table, copied)
    with pytest.raises(BundleError, match="there is no bundle"):
        export_attributes(TorchSource(MapNet()), WORDS, copied / "nothing")
    assert contents(copied) == before


def test_check_describes_a_sound_bundle(made: Path) -> None:
    text = check(made)
    for part in ("convnet", load_bundle(made).identity, "32 x 40", "dot of embeddings (5,)", "fp32, opset 18"):
        assert part in text


@pytest.mark.parametrize("name", ["similarity.fp32.onnx", "manifest.json", "canonical.npz", "MODEL_CARD.md"])
def test_check_finds_one_changed_byte(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(BundleError, match=name):
        check(copied)


def test_check_runs_the_graphs(copied: Path) -> None:
    """A graph that was changed together with its checksum no longer gives its canonical result."""
    model = onnx.load(copied / "similarity.fp32.onnx")
    bias = next(t for t in model.graph.initializer if t.dims == [5])
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(model, copied / "similarity.fp32.onnx")
    sums = [(hashlib.sha256(c).hexdigest(), n) for n, c in contents(copied).items() if n != "SHA256SUMS"]
    (copied / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for digest, name in sums))
    with pytest.raises(BundleError, match="canonical"):
        check(copied)


def test_unexpected_weights_are_named(tmp_path: Path) -> None:
    state = ConvNet().state_dict()
    torch.save({**state, "head.weight": torch.ones(2)}, tmp_path / "more.pt")
    with pytest.raises(ExportError, match=r"head\.weight"):
        export.load_module("export_models:build", tmp_path / "more.pt")
    torch.save({**state, "fc.weight": torch.ones(2, 2)}, tmp_path / "shape.pt")
    with pytest.raises(ExportError, match=r"fc\.weight"):
        export.load_module("export_models:build", tmp_path / "shape.pt")


def test_the_same_module_gives_the_same_bundle(made: Path, tmp_path: Path) -> None:
    again = export_similarity(TorchSource(ConvNet()), SMALL, tmp_path / "again", metric="dot")
    assert load_bundle(again).identity == load_bundle(made).identity


def test_a_module_that_works_in_place(tmp_path: Path) -> None:
    class InPlace(ConvNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.mul_(2))

    export_similarity(TorchSource(InPlace()), SMALL, tmp_path / "out")
