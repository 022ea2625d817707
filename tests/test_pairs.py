"""Models that take two pictures and give a score: export, maps of both sides, and what they cannot do."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from engine import BundleError, Explainer, ImageError, LearnedMask, Lime, OptionError, ProviderError, Rise, Window
from engine.bundle import load_bundle
from engine.pictures.preprocessing import Preprocessing
from export.commands import main
from export.errors import ExportError
from export.pairs import export_pair

SIZE = 48
PREPROCESSING = Preprocessing(SIZE, SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
QUERY_REGION, REFERENCE_REGION = (slice(6, 16), slice(28, 38)), (slice(30, 40), slice(8, 18))


class Regions(nn.Module):
    """A score that depends on one region of each picture."""

    def forward(self, query: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        (top, left), (other_top, other_left) = QUERY_REGION, REFERENCE_REGION
        q = query[:, :, top, left].mean((1, 2, 3))
        r = reference[:, :, other_top, other_left].mean((1, 2, 3))
        return torch.tanh(q * r) + q + 2 * r


class TwoTowers(nn.Module):
    """The cosine of two embeddings by one network."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Conv2d(3, 4, 7, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

    def forward(self, query: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cosine_similarity(self.tower(query), self.tower(reference))[:, None]


def bright(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(150, 256, (SIZE, SIZE, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pairs") / "regions"
    line = export_pair(Regions(), PREPROCESSING, out)
    assert line == f"wrote {out}"  # its pictures meet as single numbers, which are no embedding worth a model of its own
    return out


def peak(saliency: np.ndarray) -> tuple[int, int]:
    row, column = np.unravel_index(int(saliency.argmax()), saliency.shape)
    return int(row), int(column)


def within(place: tuple[int, int], region: tuple[slice, slice]) -> bool:
    return all(part.start <= at < part.stop for at, part in zip(place, region, strict=True))


@pytest.mark.parametrize(
    "method", [Rise(), Rise(masks=600, estimator="sane"), Window(size=10)], ids=["rise", "sane", "window"]
)
def test_both_maps_peak_where_the_score_looks(regions: Path, method: Rise | Window) -> None:
    explainer, query, reference = Explainer(regions), bright(0), bright(1)
    both = explainer.explain(query, reference, method, mode="pair")
    assert both.reference_saliency is not None
    assert within(peak(both.saliency), QUERY_REGION)
    assert within(peak(both.reference_saliency), REFERENCE_REGION)
    alone = explainer.explain(query, reference, method)
    np.testing.assert_array_equal(alone.saliency, both.saliency)
    assert alone.reference_saliency is None
    q, r = (PREPROCESSING.normalised(p)[None] for p in (query, reference))
    assert both.similarity == pytest.approx(Regions()(torch.tensor(q), torch.tensor(r)).item(), abs=1e-5)
    assert any("takes both pictures at once" in note for note in both.notes)


def test_errors_of_the_map_are_told_and_passes_counted(regions: Path) -> None:
    explanation = Explainer(regions).explain(bright(0), bright(1), Rise(masks=128))
    assert explanation.saliency_error is not None
    assert explanation.saliency_reliability is not None
    assert explanation.passes == 129
    assert [
        len(e.attributes) for e in Explainer(regions).explain_many(bright(0), [bright(1), bright(2)], Lime(samples=20))
    ] == [0, 0]


def test_what_needs_embeddings_is_refused_in_one_line(regions: Path) -> None:
    explainer = Explainer(regions)
    with pytest.raises(OptionError, match=r"takes both pictures at once.*use mode pair"):
        explainer.explain(bright(0), bright(1), Rise(masks=16), mode="both")
    for attempt in (
        lambda: explainer.prepare(bright(0)),
        lambda: explainer.embed([bright(0)]),
        lambda: next(explainer.refining(bright(0), bright(1))),
        lambda: explainer.load_prepared("prepared.npz"),
    ):
        with pytest.raises(OptionError, match="takes both pictures at once"):
            attempt()
    with pytest.raises(OptionError, match=r"nothing can be prepared|needs a gradient"):
        explainer.explain(bright(0), bright(1), LearnedMask(iterations=1))
    with pytest.raises(ImageError, match="must be pictures"):
        explainer.explain(bright(0), np.ones(1, np.float32))
    with pytest.raises(ProviderError, match="provider cpu alone"):
        Explainer(regions, provider="openvino")


def test_branches_that_only_meet_at_the_end_are_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    line = export_pair(TwoTowers().eval(), PREPROCESSING, tmp_path / "towers")
    assert "vectors of 5 numbers" in line
    assert "thousands of times cheaper" in line
    (graph,) = load_bundle(tmp_path / "towers").manifest.graphs
    assert (graph.input, graph.second_input) == ("query", "reference")


def test_the_command_takes_modules_and_files(regions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pair.onnx"
    file.write_bytes((regions / "pair.fp32.onnx").read_bytes())
    common = ["similarity", "--siamese", "--size", str(SIZE), "--mean", *["0.5"] * 3, "--std", *["0.5"] * 3]
    out = tmp_path / "bundle"
    assert main([*common, "--onnx", str(file), "--out", str(out)]) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    one, other = (Explainer(b).explain(bright(0), bright(1), Rise(masks=64)) for b in (regions, out))
    np.testing.assert_allclose(one.saliency, other.saliency, atol=1e-6)
    assert main([*common, "--onnx", str(file), "--gradient", "--out", str(tmp_path / "x")]) == 2
    assert "no embedding" in capsys.readouterr().err
    assert main(["similarity", "--siamese", "--onnx", str(file), "--out", str(tmp_path / "x")]) == 2
    assert "--size is needed" in capsys.readouterr().err
    single = onnx.helper.make_graph(
        [onnx.helper.make_node("ReduceMean", ["a"], ["b"], keepdims=0)],
        "one",
        [onnx.helper.make_tensor_value_info("a", 1, ["n", 3, SIZE, SIZE])],
        [onnx.helper.make_tensor_value_info("b", 1, [])],
    )
    onnx.save(
        onnx.helper.make_model(single, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), tmp_path / "one.onnx"
    )
    assert main([*common, "--onnx", str(tmp_path / "one.onnx"), "--out", str(tmp_path / "x")]) == 2
    assert "two inputs and one output" in capsys.readouterr().err


def test_modules_that_give_no_score_are_refused(tmp_path: Path) -> None:
    class Embedding(nn.Module):
        def forward(self, query: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
            return query.mean((2, 3))

    with pytest.raises(ExportError, match="one score"):
        export_pair(Embedding(), PREPROCESSING, tmp_path / "x")
    with pytest.raises(ExportError, match="fails on two pictures"):
        export_pair(nn.Linear(2, 2), PREPROCESSING, tmp_path / "x")


def test_a_changed_graph_is_noticed(regions: Path, tmp_path: Path) -> None:
    bundle = load_bundle(regions)
    wrong = dataclasses.replace(bundle, canonical={**bundle.canonical, "pair.fp32.onnx": np.ones(1, np.float32) * 9})
    from engine.runtime.opening import open_graph  # noqa: PLC0415

    with pytest.raises(BundleError, match="canonical"):
        open_graph(wrong, bundle.manifest.base, "cpu", None)


def test_what_needs_an_embedding_is_refused_in_one_line(
    regions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(4):
        Image.fromarray(bright(i)).save(tmp_path / f"{i}.png")
    rows = [f"{i}.png,{i // 2},bright" for i in range(4)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,group,attributes", *rows]) + "\n")
    np.savez(tmp_path / "v.npz", names=np.array(["bright"]), vectors=np.ones((1, 1)))
    labels = ["--labels", str(tmp_path / "labels.csv"), "--images", str(tmp_path)]
    for command, message in (
        (["quantize", str(regions), "--images", str(tmp_path)], "takes two pictures at once: only networks of one picture"),
        (["attributes", str(regions), *labels], "takes two pictures and has no embedding"),
        (["attributes", str(regions), "--vectors", str(tmp_path / "v.npz")], "can have no attributes by vector"),
        (["calibrate", str(regions), *labels], "takes both pictures at once"),
    ):
        assert main(command) == 2
        told = capsys.readouterr().err.splitlines()
        assert message in told[-1]
