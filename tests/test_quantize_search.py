"""How `python -m export quantize` finds its graphs: what it reads, tries, leaves in fp32 and says, and when it ends."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_models import ConvNet
from helpers import copy_bundle, error_line, seal, write_blurred
from onnx import helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

from engine import BundleError
from engine.bundle import PRECISION, demo_bundle, load_bundle
from engine.bundle.report import Report
from engine.pictures.loading import load_picture
from engine.pictures.preprocessing import Preprocessing
from engine.runtime.precision import fast_int8
from export import TorchSource, export_quantized, export_similarity
from export.commands import main
from export.graph_trials import PER_TOKEN
from export.low_precision import measured_ranges, prepared
from export.masked import read_masked
from export.quantize import INT8_CPU
from export.runtime import ModelRunner
from export.timekeeper import Timekeeper
from export.token_scaling import scaled_per_token

SIZE = 32
PREPROCESSING = Preprocessing(SIZE, SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


class Tokens(nn.Module):
    """A transformer's linear layers between tokens of very different size: (N, 3, 32, 32) -> (N, 8)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.norm = nn.LayerNorm(16)
        self.first, self.second, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 8)
        self.size = nn.Parameter(torch.logspace(-2, 2, 16)[None, :, None])  # of each token

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.patches(x).flatten(2).transpose(1, 2)) * self.size
        tokens = self.second(torch.relu(self.first(tokens))) / self.size
        return self.head(tokens.mean(1))


class OneWideChannel(nn.Module):
    """One channel between its second and third convolution is a thousand times as large as the others.

    The weights that read it are as much smaller, so that it counts as much as the others. (N, 3, 32, 32) -> (N, 8)
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolutions = nn.ModuleList([nn.Conv2d(3, 16, 5, 4, 2), *(nn.Conv2d(16, 16, 3, 1, 1) for _ in range(4))])
        self.head = nn.Linear(16, 8)
        with torch.no_grad():
            for change in (self.convolutions[1].weight, self.convolutions[1].bias):
                change[0] *= 1000
            self.convolutions[2].weight[:, 0] /= 1000

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = torch.relu(convolution(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures in two subfolders, with what systems leave beside them."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("shoes", "hats"):
        (folder / name).mkdir()
    write_blurred(folder / "shoes", 8, SIZE)
    for number in range(4):
        (folder / "shoes" / f"{number:02}.png").rename(folder / "hats" / f"{number:02}.png")
    (folder / "hats" / "Thumbs.db").write_bytes(b"x")
    (folder / ".DS_Store").write_bytes(b"x")
    return folder


@pytest.fixture(autouse=True)
def few() -> Iterator[pytest.MonkeyPatch]:
    """Int8 counts as twice as fast as fp32, and graphs are chosen on fewer pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.graph_trials.speed", lambda *_: 2.0)
        patch.setattr("export.graph_trials.TUNING_PICTURES", 2)
        yield patch


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    networks = {"conv": ConvNet(), "wide": OneWideChannel(), "tokens": Tokens()}
    folder = tmp_path_factory.mktemp("bundles")
    return {n: export_similarity(TorchSource(m.eval()), PREPROCESSING, folder / n) for n, m in networks.items()}


def quantize(bundle: Path, images: Path, *options: str) -> list[str]:
    return ["quantize", str(bundle), "--images", str(images), "--targets", "cpu", *options]


def report(bundle: Path) -> Report:
    found = load_bundle(bundle).precision
    assert found is not None
    return found


def test_subfolders_are_read_each_picture_once_and_progress_is_told(
    bundles: dict[str, Path], images: Path, tmp_path: Path, few: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read: list[Path] = []

    def spied(path: Path, *how: Any) -> Image.Image:
        read.append(path)
        return load_picture(path, *how)

    few.setattr("export.masked.load_picture", spied)
    folder = copy_bundle(bundles["conv"], tmp_path / "bundle")
    assert main(quantize(folder, images)) == 0
    assert sorted(path.name for path in read) == [f"{i:02}.png" for i in range(8)]
    lines = capsys.readouterr().err.splitlines()
    assert all(re.match(r"\d+ s: ", line) for line in lines)  # Thumbs.db and .DS_Store are not mentioned
    told = "\n".join(lines)
    speed = ["2.00 times as fast"] if fast_int8() else []  # else it is not measured
    for part in (
        "read 6 pictures",
        *speed,
        "all nodes in int8: map correlation",
        "measuring the report behind 256 masks on 2",
        "behind 512 masks on 2",
    ):
        assert part in told


def test_pictures_are_spread_over_all_subfolders(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / str(i)).mkdir()
        for path in write_blurred(tmp_path / str(i), 30, 4 + i).iterdir():
            path.with_suffix(".txt").write_text("what it shows")
    assert [len(list((tmp_path / str(i)).glob("*.png"))) for i in range(3)] == [30, 30, 30]
    keeper = Timekeeper(60, quiet=True)
    found = read_masked(tmp_path, PREPROCESSING, keeper)
    assert len(found.calibration) + len(found.held_out) == 80
    assert len(found.held_out) == 20
    assert len(found.unreadable) == 90
    for path in (tmp_path / "1").glob("*.png"):
        path.unlink()
    found = read_masked(tmp_path, PREPROCESSING, keeper)
    assert len(found.calibration) + len(found.held_out) == 60


def test_what_gains_nothing_ends_before_anything_is_calibrated(
    bundles: dict[str, Path], images: Path, tmp_path: Path, few: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_bundle(bundles["conv"], tmp_path / "bundle")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    batches: list[int] = []

    def counted(model: onnx.ModelProto, rows: Iterable[np.ndarray]) -> object:
        rows = [row.copy() for row in rows]
        batches.append(sum(map(len, rows)))
        return measured_ranges(model, rows)

    few.setattr("export.graph_trials.measured_ranges", counted)
    few.setattr("export.graph_trials.speed", lambda *_: 0.87)
    few.setattr("export.graph_trials.GraphTrials.measurable", lambda *_: True)
    assert main(quantize(folder, images, "--quiet")) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines() == [
        f"{INT8_CPU}: left out, because int8 is only 0.87 times as fast as fp32 on this processor",
        f"{folder} stays as it was",
    ]
    assert batches == [8]  # one picture, whole and behind seven masks
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_little_gain_is_not_spent_on_nodes_in_fp32(
    bundles: dict[str, Path], images: Path, tmp_path: Path, few: pytest.MonkeyPatch
) -> None:
    few.setattr("export.graph_trials.speed", lambda *_: 1.2)
    few.setattr("export.graph_trials.GraphTrials.measurable", lambda *_: True)
    few.setattr("export.int8_search.GOAL", 1.1)
    done = export_quantized(copy_bundle(bundles["conv"], tmp_path / "bundle"), images, ["cpu"])
    assert done.report is None
    assert re.match(r"left out: int8 is only 1.20 times as fast as fp32, and its maps", done.remarks[INT8_CPU])


def test_the_costliest_nodes_are_left_in_fp32(bundles: dict[str, Path], images: Path, tmp_path: Path) -> None:
    folder = copy_bundle(bundles["wide"], tmp_path / "bundle")
    done = export_quantized(folder, images, ["cpu"])
    assert done.remarks == {}
    found = report(folder).graphs[INT8_CPU]
    assert found.passes
    assert found.speed == (2.0 if fast_int8() else None)
    assert found.kept_fp32 == ("node_conv2d_1", "node_conv2d_2")  # what writes the wide channel, and what reads it
    assert PER_TOKEN not in found.calibration


def test_what_does_not_pass_says_which_nodes_cost_what(
    bundles: dict[str, Path], images: Path, tmp_path: Path, few: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few.setattr("export.int8_search.GOAL", 1.1)
    few.setattr("engine.bundle.report.FAITHFUL", 1.1)
    folder = copy_bundle(bundles["wide"], tmp_path / "bundle")
    assert main(quantize(folder, images, "--quiet")) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(("bf16 on OpenVINO", "  "))]
    assert len(lines) == 3
    assert "does not pass, 1.1 is needed" in lines[0]
    assert re.match(rf"{INT8_CPU}: costliest nodes.*: node_\w+ [\d.e-]+, node_\w+ .*; the cheapest of 5 costs", lines[1])


def test_what_passes_the_search_and_not_the_report_is_searched_again(
    bundles: dict[str, Path], images: Path, tmp_path: Path, few: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few.setattr("export.int8_search.GOAL", -1.0)  # all nodes in int8 are good enough, until the report
    few.setattr("engine.bundle.report.FAITHFUL", 1.1)
    done = export_quantized(copy_bundle(bundles["wide"], tmp_path / "bundle"), images, ["cpu"], quiet=False)
    assert "harder: 0 wanted now" in capsys.readouterr().err
    assert done.remarks[INT8_CPU].startswith("costliest nodes")


def test_the_time_limit_ends_the_search_and_the_report(
    bundles: dict[str, Path], tmp_path: Path, few: pytest.MonkeyPatch
) -> None:
    few.setattr("export.int8_search.GOAL", 1.1)
    few.setattr("engine.bundle.report.FAITHFUL", 1.1)
    few.setattr("export.quantize.Timekeeper.left", 0.0)
    (tmp_path / "images").mkdir()
    folder = copy_bundle(bundles["conv"], tmp_path / "bundle")
    done = export_quantized(folder, write_blurred(tmp_path / "images", 12, SIZE), ["cpu"])
    assert "the time limit ended the search" in done.remarks[INT8_CPU]
    assert "--time-limit" in done.remarks[INT8_CPU]
    found = report(folder)
    assert (found.held_out_pictures, found.pairs) == (3, 4)  # two of three pictures masked, against two others each


def test_a_network_too_slow_for_the_limit_is_refused_at_once(
    bundles: dict[str, Path], images: Path, few: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few.setattr("export.graph_trials.GraphTrials._pass_seconds", lambda *_: 2.0)
    assert main(quantize(bundles["conv"], images, "--quiet")) == 2
    assert re.search(r"takes 2 s here .* the time limit is 600 s: give --time-limit \d+$", error_line(capsys))
    for wrong in ("0", "-3", "nan", "inf"):
        assert main(quantize(bundles["conv"], images, "--time-limit", wrong)) == 2
        assert "the time limit must be a number of seconds above 0, got" in error_line(capsys)


@pytest.mark.parametrize("opset", [13, 18])
def test_a_scale_per_token_changes_nothing_but_rounding(bundles: dict[str, Path], opset: int) -> None:
    model = prepared(bundles["tokens"] / "similarity.fp32.onnx")
    if opset == 13:  # axes of reductions were attributes then
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["a"], name="one"),
            helper.make_node("MatMul", ["x", "w"], ["b"], name="two"),
            helper.make_node("Add", ["a", "b"], ["y"], name="sum"),
        ]
        x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 5, s]) for n, s in (("x", 4), ("y", 3)))
        w = numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), "w")
        graph = helper.make_graph(nodes, "g", [x], [y], [w])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    scaled = scaled_per_token(model)
    onnx.checker.check_model(scaled)
    shape = (2, 3, SIZE, SIZE) if opset == 18 else (2, 5, 4)
    rows = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    rows[1, 0] = 0  # a token of zeros divides by nothing
    (before,), (after,) = (ModelRunner(m.SerializeToString()).run(rows) for m in (model, scaled))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())


def test_transformers_take_dynamic_ranges_where_fixed_ones_fail(
    bundles: dict[str, Path], images: Path, tmp_path: Path, few: pytest.MonkeyPatch
) -> None:
    few.setattr("export.int8_search.GOAL", 0.999)
    folder = copy_bundle(bundles["tokens"], tmp_path / "bundle")
    export_quantized(folder, images, ["cpu"])
    found = report(folder).graphs[INT8_CPU]
    assert found.passes
    assert len(found.kept_fp32) <= 1  # which nodes the search keeps depends on the processor's int8 kernels
    assert found.calibration.endswith(PER_TOKEN)
    # a picture's embedding is its own, whatever else is in the batch
    rows = np.random.default_rng(0).normal(size=(3, 3, SIZE, SIZE)).astype(np.float32)
    rows[1:] *= 100
    runner = ModelRunner((folder / INT8_CPU).read_bytes())
    np.testing.assert_allclose(runner.run(rows)[0][0], runner.run(rows[:1])[0][0], rtol=1e-4, atol=1e-5)


def test_old_reports_are_read_and_their_estimator_is_sane(tmp_path: Path) -> None:
    assert "estimator" not in json.loads((demo_bundle() / PRECISION).read_text())
    assert report(demo_bundle()).estimator == "sane"
    folder = copy_bundle(demo_bundle(), tmp_path / "bundle")
    fields = json.loads((folder / PRECISION).read_text())
    (folder / PRECISION).write_text(json.dumps({**fields, "estimator": "other"}))
    seal(folder)
    with pytest.raises(BundleError, match=r"estimator must be one of regression, sane.*quantize the bundle again"):
        load_bundle(folder)
