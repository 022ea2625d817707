"""Vision transformers cut at their tokens: which get in, which are refused and why, and that a wrong cut is noticed."""

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_models import ConvNet
from gradient_graphs import Vit
from helpers import copy_bundle, seal
from torch import nn

from engine.bundle import load_bundle
from engine.bundle.manifest import Manifest, TokenLayout
from engine.errors import BundleError
from engine.pictures.preprocessing import Preprocessing
from engine.runtime.opening import open_tokens, verify_graph
from engine.runtime.token_tail import KEPT_INPUT, TOKENS_INPUT
from export import ExportError, TorchSource, export_similarity, graphs, token_graph, token_positions
from export.hf_embedder import HfEmbedder
from export.light_graph import LightGraph
from export.runtime import silence
from export.token_check import verify_tokens
from export.token_file import STEM_FILE, TOKENS_FILE
from export.token_graph import NoPatchesError, cut
from export.torchvision_absence import hidden, works

SIDE = 32
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": SIDE}
PATCHES = {**VISION, "patch_size": 8}
TEXT = {**VISION, "vocab_size": 50, "bos_token_id": None, "eos_token_id": None}
PARITY = 1e-5
pytestmark = pytest.mark.filterwarnings("ignore")


def of_transformers(kind: str, pool: str | None = None, **settings: Any) -> nn.Module:
    """A model of transformers with random weights, also where they would begin as 0."""
    with hidden(not works()):
        transformers = pytest.importorskip("transformers")
        transformers.utils.is_torchvision_available()
    torch.manual_seed(0)
    with silence():
        config = getattr(transformers, f"{kind}Config")(**settings, attn_implementation="eager")
        model = getattr(transformers, f"{kind}Model")(config).eval()
        filled(model)
        return HfEmbedder(model, pool, False)


def of_timm(name: str, **settings: Any) -> nn.Module:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    from export.timm_source import RANDOM, load_timm  # noqa: PLC0415

    load_timm("test_vit", Path(RANDOM))  # imports timm as the package does
    import timm  # noqa: PLC0415

    torch.manual_seed(0)
    return filled(timm.create_model(name, pretrained=False, num_classes=0, **settings).eval())


def filled(model: nn.Module) -> nn.Module:
    """Make what begins as 0 or 1, such as the scales of blocks and relative positions, random."""
    with torch.no_grad():
        for weights in model.parameters():
            if weights.unique().numel() == 1:
                weights.normal_(std=0.5)
    return model


def both(kind: str, **vision: Any) -> nn.Module:
    return of_transformers(kind, text_config=TEXT, vision_config={**PATCHES, **vision})


GETS_IN: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "plain": (Vit, 1),
    "CLIP": (lambda: both("CLIP"), 1),
    "SigLIP": (lambda: both("Siglip"), 0),
    "ViT": (lambda: of_transformers("ViT", **PATCHES), 1),
    "DINOv2": (lambda: of_transformers("Dinov2", **{**PATCHES, "image_size": 56}), 1),
    "DINOv2, class token and mean": (lambda: of_transformers("Dinov2", "mean", **PATCHES), 1),
    "DINOv2 with registers": (lambda: of_transformers("Dinov2WithRegisters", num_register_tokens=3, **PATCHES), 4),
    "timm's ViT": (lambda: of_timm("test_vit", img_size=SIDE, patch_size=8), 1),
    "timm's ViT, mean": (lambda: of_timm("test_vit", img_size=SIDE, patch_size=8, global_pool="avg"), 1),
    "timm's SigLIP": (
        lambda: of_timm("vit_base_patch16_siglip_224", img_size=SIDE, patch_size=8, embed_dim=32, depth=2, num_heads=2),
        0,
    ),
    "timm's DINOv2 with registers": (
        lambda: of_timm("vit_small_patch14_reg4_dinov2", img_size=SIDE, patch_size=8, embed_dim=32, depth=2, num_heads=2),
        5,
    ),
    "DINOv3": (lambda: of_transformers("DINOv3ViT", num_register_tokens=2, **PATCHES), 3),
    "timm's EVA-02": (
        lambda: of_timm("eva02_small_patch14_224", img_size=SIDE, patch_size=8, embed_dim=32, depth=2, num_heads=2),
        1,
    ),
}
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "BEiT": (lambda: of_transformers("Beit", use_relative_position_bias=True, **PATCHES), "relative positions .* BEiT"),
    "Swin": (
        lambda: of_transformers(
            "Swin", image_size=SIDE, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=4
        ),
        "windows",
    ),
    "ConvNeXt": (lambda: of_transformers("ConvNextV2", hidden_sizes=[8] * 4, depths=[1] * 4), "ConvNeXt"),
    "timm's ConvNeXt": (lambda: of_timm("test_convnext"), "ConvNeXt"),
}


def made(network: nn.Module) -> onnx.ModelProto:
    return graphs.make(TorchSource(network, sure=True), Preprocessing(SIDE, SIDE), "embedding", (None,)).model


def pictures() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)


def run(light: LightGraph, **feeds: np.ndarray) -> np.ndarray:
    (found,) = light.runner().run(feeds).values()
    return found


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


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is taken before positions are added: they are a table of the blocks then."""
    find = token_graph.token_stream

    def before_positions(light: LightGraph, shapes: Any, grid: tuple[int, int]) -> str:
        name = find(light, shapes, grid)
        (adds,) = [n for n in light.model.graph.node if name in n.output]
        return next(i for i in adds.input if i in light.active())

    monkeypatch.setattr(token_graph, "token_stream", before_positions)


@pytest.mark.usefixtures("early")
def test_positions_that_blocks_add_follow_their_tokens() -> None:
    torch.manual_seed(0)
    model = made(Vit())
    found = cut(model, False)
    assert found.attending is not None
    verify_tokens(found, LightGraph.of(model), pictures(), False)


@pytest.mark.usefixtures("early")
def test_positions_after_the_gather_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_graph, "follow_kept", lambda *_: False)
    _assert_noticed("does not run on some")


TURNED = ("DINOv3", "timm's EVA-02")


def turned(name: str) -> onnx.ModelProto:
    """A network with RoPE whose attention depends on it: with its first weights, all tokens are attended to alike."""
    network = GETS_IN[name][0]()
    with torch.no_grad():
        for weights in network.parameters():
            if weights.ndim == 2:
                weights.normal_(std=0.5)
    return made(network)


@pytest.mark.parametrize("name", TURNED)
def test_kept_tokens_are_what_they_are_where_none_attends_to_the_others(name: str) -> None:
    model = turned(name)
    found = cut(model, False)
    assert found.attending is not None
    broken = dataclasses.replace(found, blocks=shorter_attention(found.blocks))
    with pytest.raises(ExportError, match="attends to those left out"):
        verify_tokens(broken, LightGraph.of(model), pictures(), False)


def shorter_attention(blocks: LightGraph) -> LightGraph:
    """What depends on how many tokens there are, but on nothing else: a logarithm of the number beside the scores."""
    graph = blocks.model.graph
    at = next(i for i, node in enumerate(graph.node) if node.op_type == "Softmax")
    scores = graph.node[at].input[0]
    sizes = onnx.helper.make_node("Shape", [scores], ["sizes"], start=3)
    as_float = onnx.helper.make_node("Cast", ["sizes"], ["real_sizes"], to=onnx.TensorProto.FLOAT)
    scaled = onnx.helper.make_node("Mul", [scores, "real_sizes"], ["scaled_scores"])
    graph.node[at].input[0] = "scaled_scores"
    for node in (scaled, as_float, sizes):
        graph.node.insert(at, node)
    return blocks


@pytest.mark.parametrize("name", TURNED)
@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (lambda table: np.roll(table, 1, -2), "all of the tokens do not give"),  # a row too far
        (lambda table: np.repeat(table[..., :1, :], table.shape[-2], -2), "all of the tokens do not give"),
    ],
)
def test_rows_of_other_tokens_are_noticed(
    name: str, wrong: Callable[[np.ndarray], np.ndarray], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = token_positions._gathering
    monkeypatch.setattr(token_positions, "_gathering", lambda tail, n, table, *rest: right(tail, n, wrong(table), *rest))
    model = turned(name)
    with pytest.raises(ExportError, match=fault):
        verify_tokens(cut(model, False), LightGraph.of(model), pictures(), False)


@pytest.mark.parametrize("name", TURNED)
def test_rows_in_the_order_of_the_table_are_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tokens in their order give the embedding then: only other tokens tell."""
    monkeypatch.setattr(token_positions, "_gathering", rows_by_order)
    model = turned(name)
    with pytest.raises(ExportError, match="places in another way"):
        verify_tokens(cut(model, False), LightGraph.of(model), pictures(), False)


def rows_by_order(tail: LightGraph, name: str, table: np.ndarray, rank: int, _prefixed: bool) -> list[onnx.NodeProto]:
    graph = tail.model.graph
    numbers = {f"{name}_rows": table, f"{name}_0": np.zeros(1, np.int64)}
    graph.initializer.extend(onnx.numpy_helper.from_array(array, of) for of, array in numbers.items())
    make = onnx.helper.make_node
    return [
        make("Shape", [token_positions.PLACES], [f"{name}_kept"], start=1),
        make("Slice", [f"{name}_rows", f"{name}_0", f"{name}_kept", f"{name}_0"], [f"{name}_of_kept_{rank}"]),
    ]


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
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("tokens") / "vit"
    return export_similarity(TorchSource(Vit(), sure=True), Preprocessing(SIDE, SIDE), out)


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
