"""PyTorch modules with names like ours, and what happens if an exporter fails."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from export_models import ConvNet, MapNet
from helpers import error_line, exit_status
from torch import nn

from engine.bundle import load_bundle
from engine.errors import OptionError
from engine.pictures.preprocessing import Preprocessing
from export import ExportError, TorchSource, check, export_similarity, torch_source
from export.commands import main

SMALL = Preprocessing(32, 32)


class Named(nn.Module):
    """Tensors inside are called as our input and output are, as those of transformers are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Conv2d(3, 4, 8, 8)
        self.embedding = nn.Embedding(16, 4)
        self.register_buffer("image_ids", torch.arange(16))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.image(image).flatten(2).transpose(1, 2)
        return torch.softmax(tokens * self.embedding(self.image_ids), 1).sum(1) + self.embedding.weight.mean(0)


class TokenNet(nn.Module):
    """(N, 3, 32, 32) -> (N, 16, 4)"""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).flatten(2).transpose(1, 2)


def probabilities() -> nn.Module:
    return nn.Sequential(ConvNet(), nn.Softmax(1))


def same(out: Path, module: nn.Module) -> None:
    x = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        expected = module.eval()(torch.from_numpy(x)).numpy()
    session = ort.InferenceSession(str(out / "similarity.fp32.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": x})[0], expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def test_names_inside_a_module_do_not_clash_with_ours(tmp_path: Path) -> None:
    out = export_similarity(TorchSource(Named()), SMALL, tmp_path / "out")
    graph = load_bundle(out).manifest.base
    assert (graph.input, graph.output) == ("image", "embedding")
    same(out, Named())


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_tokens_of_a_module(pool: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--pool cls or --pool mean makes one vector of tokens"):
        export_similarity(TorchSource(TokenNet()), SMALL, tmp_path / "out")
    out = export_similarity(TorchSource(TokenNet(), pool=pool), SMALL, tmp_path / "out")
    assert load_bundle(out).manifest.embedding == 4
    assert not any(node.op_type == "NonZero" for node in onnx.load(out / "similarity.fp32.onnx").graph.node)


def test_the_origin_is_recorded(tmp_path: Path) -> None:
    out = export_similarity(TorchSource(ConvNet()), SMALL, tmp_path / "out", origin="some/model@0123abc")
    assert load_bundle(out).manifest.origin == "some/model@0123abc"
    assert "origin      some/model@0123abc" in check(out)
    with pytest.raises(OptionError, match="origin must be one line of text"):
        export_similarity(TorchSource(ConvNet()), SMALL, tmp_path / "again", origin="two\nlines")


def test_maps_of_a_module(tmp_path: Path) -> None:
    out = export_similarity(TorchSource(MapNet(), pool="mean"), SMALL, tmp_path / "out")
    assert load_bundle(out).manifest.embedding == 4


def test_the_older_exporter_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("cannot view this tensor")

    monkeypatch.setattr(torch_source, "_exported", fail)
    same(export_similarity(TorchSource(ConvNet()), SMALL, tmp_path / "out"), ConvNet())
    monkeypatch.setattr(torch_source, "_exported_by_torchscript", fail)
    message = "module: ValueError: cannot view this tensor; nor can its TorchScript exporter: ValueError: cannot view"
    with pytest.raises(ExportError, match=message):
        export_similarity(TorchSource(ConvNet()), SMALL, tmp_path / "again")


def test_what_onnx_ir_raises_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("value is not in the graph")

    monkeypatch.setattr(torch_source.onnx_files, "folded", fail)
    words = ["similarity", "--module", "export_models:build", "--size", "32", "--out", str(tmp_path / "out")]
    assert exit_status(main, words) == 2
    line = error_line(capsys)
    assert "KeyError: 'value is not in the graph'" in line
    assert "give it as --onnx" in line


def test_a_decision_by_numbers_says_what_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["similarity", "--module", "export_models:undecided", "--size", "32", "--out", str(tmp_path / "out")]
    assert exit_status(main, words) == 2
    assert "choose with torch.where" in error_line(capsys)


def test_probabilities_of_a_module_are_questioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["similarity", "--module", "test_source_torch:probabilities", "--size", "32", "--out", str(tmp_path / "out")]
    assert exit_status(main, words) == 2
    assert "probabilities of classes" in error_line(capsys)
    assert main([*words, "--yes-embedding"]) == 0


def test_options_of_other_sources_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, message in (
        (["--output", "x"], "--output is used with --onnx only"),
        (["--checkpoint", "x"], "not allowed with"),
    ):
        words = ["similarity", "--module", "export_models:build", "--size", "32", "--out", str(tmp_path / "out"), *more]
        assert exit_status(main, words) == 2
        assert message in error_line(capsys)
    assert exit_status(main, ["similarity", "--timm", "resnet18", "--pool", "cls", "--out", str(tmp_path / "out")]) == 2
    assert "--pool is used with --onnx or --module or --hf only" in error_line(capsys)
