"""Blocks that read positions from tables, as with RoPE: rows follow the tokens, and whatever does not is noticed."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from gradient_graphs import Vit
from token_networks import GETS_IN, SIDE, made, pictures
from torch import nn

from engine.bundle import load_bundle
from engine.pictures.preprocessing import Preprocessing
from engine.runtime.opening import open_tokens
from export import ExportError, TorchSource, export_similarity, token_graph, token_positions
from export.light_graph import LightGraph
from export.token_check import verify_tokens
from export.token_graph import cut

pytestmark = pytest.mark.filterwarnings("ignore")


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
    torch.manual_seed(0)
    model = made(Vit())
    with pytest.raises(ExportError, match="does not run on some"):
        verify_tokens(cut(model, False), LightGraph.of(model), pictures(), False)


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


class Stacked(Vit):
    """Turns queries and keys by their positions at once, (2, N, heads, T, d): pictures are not first there."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turn", torch.randn(17, 16))

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[0]
        t = torch.cat([self.token.expand(n, -1, -1), self.patches(x).flatten(2).transpose(1, 2)], 1)
        qkv = self.qkv(self.norm(t)).view(n, 17, 3, 2, 16).permute(2, 0, 3, 1, 4)
        turned = qkv[:2] * self.turn
        scores = turned[0] @ turned[1].transpose(-1, -2) / 4
        return t + self.out((scores.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(n, 17, 32))


class Chosen(Vit):
    """Chooses tokens by a table, in an operator that reads two things besides it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.arange(17)[:, None].expand(17, 32) % 2 > 0)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(self.kept, super().tokens(x), 0.5)


class Wandering(Vit):
    """Adds positions to its tokens where no Softmax over tokens follows that would show whether they follow."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("more", torch.randn(17, 32))

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        t = self.patches(x).flatten(2).transpose(1, 2)
        t = torch.cat([self.token.expand(x.shape[0], -1, -1), t], 1)
        return self.up(self.norm(t))[..., :32] + self.more


@pytest.mark.parametrize(
    ("network", "fault"),
    [
        (Stacked, "in which pictures are not first"),
        (Chosen, "a table that Where reads"),
        (Wandering, "no Softmax over tokens"),
    ],
)
def test_tables_that_cannot_follow_the_tokens_are_refused(
    network: type[nn.Module], fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    export_similarity(TorchSource(network(), sure=True), Preprocessing(SIDE, SIDE), tmp_path / "bundle")
    assert f"without method tokens: its blocks {'know' if network is not Stacked else 'read'}" in (
        err := capsys.readouterr().err
    )
    assert fault in err


def test_rows_that_depend_on_each_other_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The positions of the first row for all."""
    right = token_positions._gathering

    def of_first(tail: LightGraph, name: str, *rest: Any) -> list[onnx.NodeProto]:
        nodes = right(tail, name, *rest)
        limits = {f"{name}_from": [0], f"{name}_to": [1]}
        tail.model.graph.initializer.extend(
            onnx.numpy_helper.from_array(np.array(v, np.int64), n) for n, v in limits.items()
        )
        (kept,) = nodes[-1].output
        nodes[-1].output[0] = f"{kept}_each"
        return [*nodes, onnx.helper.make_node("Slice", [f"{kept}_each", *limits, f"{name}_from"], [kept])]

    monkeypatch.setattr(token_positions, "_gathering", of_first)
    model = turned(TURNED[0])
    with pytest.raises(ExportError, match="depends on the others that run with it"):
        verify_tokens(cut(model, False), LightGraph.of(model), pictures(), False)


def test_a_network_with_positions_in_its_blocks_explains_in_batches(tmp_path: Path) -> None:
    out = export_similarity(TorchSource(GETS_IN[TURNED[1]][0](), sure=True), Preprocessing(SIDE, SIDE), tmp_path / "eva")
    network = open_tokens(load_bundle(out), "cpu", "fp32", None)
    kept = np.stack([np.random.default_rng(i).permutation(16)[:8] for i in range(6)])
    image = Preprocessing(SIDE, SIDE).normalised(np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8))
    found = []
    for batch in (1, 6):
        with network.stage(image, lambda start, stop: kept[start:stop], batch) as stage:
            for first in range(0, 6, batch):
                stage.embed(first, batch)
            found.append(np.concatenate(stage.embeddings()))
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)
