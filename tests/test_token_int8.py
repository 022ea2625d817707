"""Int8 graphs of a transformer's tokens: quantize makes them, they give fp32's maps, and are left out if they do not."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import copy_bundle, noise, write_blurred
from token_networks import exported_vit

from engine import Explainer, OptionError, Tokens
from engine.bundle import load_bundle
from engine.errors import BundleError
from engine.runtime.opening import open_tokens
from export import ExportError, export_quantized
from export.quantize import INT8_CPU
from export.token_int8 import TOKENS_INT8

SIDE = 32
QUERY, REFERENCE = (noise(SIDE, SIDE, seed) for seed in range(2))
TOKENS = Tokens(masks=64)


@pytest.fixture(scope="module", autouse=True)
def faster() -> Iterator[None]:
    """Int8 counts as faster than fp32, which networks as small as this one need not be; it need not be very faithful."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("graph_trials", "token_int8"):
            patch.setattr(f"export.{module}.speed", lambda *_: 2.0)
        patch.setattr("export.graph_trials.TUNING_PICTURES", 3)
        patch.setattr("engine.bundle.report.FAITHFUL", 0.99)
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blurred(tmp_path_factory.mktemp("images"), 8, SIDE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_vit(tmp_path_factory)


@pytest.fixture(scope="module")
def quantized(plain: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_bundle(plain, tmp_path_factory.mktemp("quantized") / "vit")
    done = export_quantized(folder, images, ["cpu"])
    assert done.report is not None
    assert done.report.graphs.keys() == {INT8_CPU, TOKENS_INT8}
    return folder


def test_int8_maps_are_those_of_fp32(quantized: Path) -> None:
    maps = [Explainer(quantized, "cpu", p).explain(QUERY, REFERENCE, TOKENS).saliency for p in ("fp32", "int8")]
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.99
    assert not np.array_equal(*maps)


def test_the_report_is_of_maps_of_tokens(quantized: Path) -> None:
    found = load_bundle(quantized).precision
    assert found is not None
    tokens, whole = found.graphs[TOKENS_INT8], found.graphs[INT8_CPU]
    assert tokens.passes
    assert "one per token" in tokens.calibration
    assert 0.99 < tokens.map_correlation_mean < 1
    assert tokens.map_correlation_mean != whole.map_correlation_mean


def test_a_pass_does_not_depend_on_the_others_of_its_batch(quantized: Path) -> None:
    network = open_tokens(load_bundle(quantized), "cpu", "int8", None)
    image = load_bundle(quantized).manifest.preprocessing.normalised(QUERY)
    plan = TOKENS.plan(4, 4)
    found = []
    for batch in (1, 8):
        with network.stage(image, plan.patches, batch) as stage:
            stage.embed(0, batch)
            found.append(stage.embeddings()[0][0])
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)


def test_quantizing_again_replaces_the_graph(quantized: Path, images: Path, tmp_path: Path) -> None:
    again = copy_bundle(quantized, tmp_path / "vit")
    export_quantized(again, images, ["cpu"])
    files = [graph.file for graph in load_bundle(again).manifest.graphs]
    assert len(files) == len(set(files)) == 5


@pytest.mark.parametrize(("faithful", "gain", "why"), [(1.1, 2.0, "does not pass"), (0.99, 0.9, "only 0.90 times")])
def test_what_is_no_gain_is_left_out_and_said(
    plain: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faithful: float, gain: float, why: str
) -> None:
    monkeypatch.setattr("engine.bundle.report.FAITHFUL", faithful)
    monkeypatch.setattr("export.token_int8.speed", lambda *_: gain)
    folder = copy_bundle(plain, tmp_path / "vit")
    done = export_quantized(folder, images, ["cpu"])
    assert [g.precision for g in load_bundle(folder).manifest.graphs if g.role == "tokens"] == ["fp32"]
    assert why in done.remarks[TOKENS_INT8]
    with pytest.raises(OptionError, match="no graph of tokens in int8"):
        Explainer(folder, "cpu", "int8").explain(QUERY, REFERENCE, TOKENS)
    with pytest.raises(BundleError, match="no graphs of tokens in int8"):
        open_tokens(load_bundle(folder), "cpu", "int8", None)


def test_what_fails_with_the_tokens_leaves_the_rest(
    plain: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_path: Path) -> None:
        raise ExportError("no such operator")

    monkeypatch.setattr("export.token_int8.prepared", failing)
    folder = copy_bundle(plain, tmp_path / "vit")
    done = export_quantized(folder, images, ["cpu"])
    assert done.remarks[TOKENS_INT8] == "left out: no such operator"
    assert done.report is not None
    assert done.report.graphs.keys() == {INT8_CPU}


def test_tokens_that_there_is_no_time_for_are_left_out(
    plain: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.quantize._of_tokens", lambda _trials: 1e9)
    folder = copy_bundle(plain, tmp_path / "vit")
    assert "give a --time-limit above 600" in export_quantized(folder, images, ["cpu"]).remarks[TOKENS_INT8]


def test_methods_are_those_that_run_in_this_precision(plain: Path, quantized: Path, images: Path, tmp_path: Path) -> None:
    assert "tokens" in Explainer(quantized, "cpu", "int8").methods
    folder = copy_bundle(quantized, tmp_path / "vit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.token_int8.speed", lambda *_: 0.5)
        export_quantized(folder, images, ["cpu"])
    assert "tokens" not in Explainer(folder, "cpu", "int8").methods
    assert "tokens" in Explainer(folder, "cpu", "fp32").methods
