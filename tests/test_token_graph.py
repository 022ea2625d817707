"""Vision transformers cut at their tokens: which get in, which are refused and why, and that a wrong cut is noticed."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_models import ConvNet
from gradient_graphs import Vit
from helpers import copy_bundle, seal
from token_networks import GETS_IN, REFUSED, SIDE, exported_vit, made, pictures, run
from torch import nn

from engine.bundle import load_bundle
from engine.bundle.manifest import Manifest, TokenLayout
from engine.errors import BundleError
from engine.pictures.preprocessing import Preprocessing
from engine.runtime.opening import open_tokens, verify_graph
from engine.runtime.token_tail import KEPT_INPUT, TOKENS_INPUT
from export import ExportError, TorchSource, export_similarity, token_graph
from export.light_graph import LightGraph
from export.token_check import verify_tokens
from export.token_file import STEM_FILE, TOKENS_FILE
from export.token_graph import NoPatchesError, cut

PARITY = 1e-5
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", GETS_IN)
def test_all_tokens_give_the_embedding(name: str) -> None:
    build, prefix = GETS_IN[name]
    model = made(build())
    found, whole = cut(model, False), LightGraph.of(model)
    verify_tokens(found, whole, pictures(), False)
    assert found.layout == TokenLayout(prefix, 4, 4)
    picture = model.graph.input[0].name
    (tokens,) = run(found.stem, **{picture: pictures()})
    kept = np.arange(found.layout.count)[None]
    got = run(found.tail, **{TOKENS_INPUT: tokens, KEPT_INPUT: kept})
    expected = run(whole, **{picture: pictures()})
    assert np.abs(got - expected).max() <= PARITY * np.abs(expected).max()
    fewer = run(found.tail, **{TOKENS_INPUT: tokens, KEPT_INPUT: kept[:, : prefix + 5]})
    assert np.abs(fewer - expected).max() > 10 * PARITY * np.abs(expected).max()


@pytest.mark.parametrize("name", REFUSED)
def test_the_refusal_names_the_reason(name: str) -> None:
    build, reason = REFUSED[name]
    network = build()
    with pytest.raises(ExportError, match=reason):
        model = made(network)
        verify_tokens(cut(model, False), LightGraph.of(model), pictures(), False)


def test_a_convolutional_network_is_not_even_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(ConvNet())
    monkeypatch.setattr(LightGraph, "probed", None)  # calling it would be a TypeError
    with pytest.raises(NoPatchesError, match="no vision transformer"):
        cut(model, False)


def test_a_token_too_few_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = token_graph.gathered

    def short(part: LightGraph, tokens: tuple[int, int]) -> LightGraph:
        found = gathered(part, tokens)
        nodes = found.model.graph.node
        first = onnx.numpy_helper.from_array(np.array([0]), "first")
        before_last = onnx.numpy_helper.from_array(np.array([-1]), "before_last")
        axis = onnx.numpy_helper.from_array(np.array([1]), "second_axis")
        found.model.graph.initializer.extend([first, before_last, axis])
        name = nodes[0].output[0]
        nodes[0].output[0] = "all_kept"
        cutting = onnx.helper.make_node("Slice", ["all_kept", "first", "before_last", "second_axis"], [name])
        nodes.insert(1, cutting)
        return found

    monkeypatch.setattr(token_graph, "gathered", short)
    _assert_noticed("do not give the picture's embedding")


def test_a_stale_size_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_graph, "freed", lambda tail, shapes, counts: tail)
    _assert_noticed("does not run on some of its tokens")


class SumOverConstant(Vit):
    """Divides the sum of its tokens by how many a whole picture has: half of them give half the embedding."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tokens(x).sum(1) / 17


class Lopsided(Vit):
    """Weighs its tokens by their order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tokens(x).cumsum(1).mean(1)


@pytest.mark.parametrize(("network", "fault"), [(SumOverConstant, "how many"), (Lopsided, "places|how many")])
def test_a_readout_that_counts_or_orders_is_noticed(network: type[nn.Module], fault: str) -> None:
    torch.manual_seed(0)
    model = made(network())
    with pytest.raises(ExportError, match=fault):
        verify_tokens(cut(model, False), LightGraph.of(model), pictures(), False)


def _assert_noticed(fault: str) -> None:
    torch.manual_seed(0)
    model = made(Vit())
    with pytest.raises(ExportError, match=fault):
        verify_tokens(cut(model, False), LightGraph.of(model), pictures(), False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_vit(tmp_path_factory)


def test_a_bundle_holds_the_weights_once(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    assert [graph.role for graph in loaded.manifest.graphs] == ["similarity", "stem", "tokens"]
    assert loaded.manifest.graphs[2].layout == TokenLayout(1, 4, 4)
    assert loaded.manifest.graphs == Manifest.from_json(loaded.manifest.to_json()).graphs
    weights = (bundle / "similarity.fp32.onnx.data").stat().st_size
    assert sum((bundle / file).stat().st_size for file in (STEM_FILE, TOKENS_FILE)) < weights / 2
    for graph in loaded.manifest.graphs:
        verify_graph(loaded, graph)


def test_a_changed_graph_of_tokens_is_noticed(bundle: Path, tmp_path: Path) -> None:
    changed = copy_bundle(bundle, tmp_path / "changed")
    text = json.loads((changed / "manifest.json").read_text())
    with np.load(changed / "canonical.npz") as arrays:
        kept = dict(arrays)
    kept[TOKENS_FILE] = kept[TOKENS_FILE] + 1
    np.savez(changed / "canonical.npz", **kept)
    seal(changed)
    with pytest.raises(BundleError, match="canonical result"):
        open_tokens(load_bundle(changed), "cpu", "fp32", None)
    text["graphs"][2].pop("layout")
    (changed / "manifest.json").write_text(json.dumps(text))
    seal(changed)
    with pytest.raises(BundleError, match="go together"):
        load_bundle(changed)


def test_the_export_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = REFUSED["BEiT"][0]()
    export_similarity(TorchSource(network, sure=True), Preprocessing(SIDE, SIDE), tmp_path / "beit")
    assert "without method tokens: its blocks add relative positions" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "beit").glob("*.data")] == []
    export_similarity(TorchSource(ConvNet(), sure=True), Preprocessing(SIDE, SIDE), tmp_path / "conv")
    assert capsys.readouterr().err == ""
