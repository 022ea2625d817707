"""`python -m export tensorrt`: what it would build, under which names, and what it leaves; TensorRT is a stand-in here.

The stand-in writes files where the options say and runs the graph on the CPU. No GPU has run the command yet.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from export_models import ConvNet, MapNet
from helpers import error_line, write_blurred
from provider_options import TENSORRT, faults
from tensorrt_stand_in import Card, Compiler, stand_in

from engine import OptionError
from engine.attributes.table import AttributeTable
from engine.bundle import graph_digest, load_bundle
from engine.errors import BundleError, OutputError, ProviderError
from engine.pictures.preprocessing import Preprocessing
from engine.protocol import ignore_notice
from engine.runtime.gpu_opening import open_gpu_session, tensorrt_folder
from engine.runtime.gpu_options import LADDER, WHOLE_PROFILE, Setting
from engine.runtime.gpu_session import GpuSession
from engine.runtime.opening import open_graph
from engine.runtime.providers import gpu_lacks
from export import TorchSource, export_attributes, export_quantized, export_similarity
from export import tensorrt as prebuilding
from export.commands import main
from export.quantize import FP16, INT8_GPU
from export.tensorrt import BUILD_RECORD, CONTEXT, Built, context_options, planned, prebuild

SIZE = 32
ATTRIBUTES = "attributes.fp32.onnx"
EVERY_ENGINE = [(FP16, 8), (FP16, LADDER[0]), (ATTRIBUTES, 8)]
"""Graphs and largest batches that the engine would ask for."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with graphs for GPUs and with attributes. Not to be changed."""
    images = write_blurred(tmp_path_factory.mktemp("images"), 8, SIZE)
    preprocessing = Preprocessing(SIZE, SIZE, mean=(0.5,) * 3, std=(0.25,) * 3)
    out = export_similarity(TorchSource(ConvNet().eval()), preprocessing, tmp_path_factory.mktemp("b") / "bundle")
    export_quantized(out, images, ("gpu",))
    table = AttributeTable(("a", "b", "c", "d"), "sigmoid", np.zeros(4, np.float32))
    return export_attributes(TorchSource(MapNet().eval()), table, out)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiler:
    return stand_in(monkeypatch, tmp_path / "cache")


def build(folder: Path, out: Path, precision: str = "fp16") -> list[Built]:
    bundle = load_bundle(folder)
    return prebuild(bundle, planned(bundle, precision), out, ignore_notice)


def test_what_would_be_built_is_listed_without_a_gpu(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tensorrt", str(folder), "--list", "--precision", "int8", "--batches", "64", "32"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{INT8_GPU} (int8), batches of 1 to 8",
        f"{INT8_GPU} (int8), batches of 64, else 32",
        "attributes.fp32.onnx (fp32), batches of 1 to 8",
    ]


def test_auto_is_the_precision_that_the_engine_would_take(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert bundle.precision is not None
    wanted = "fp16" if bundle.precision.graphs[FP16].passes else "fp32"
    assert {job.graph.precision for job in planned(bundle)[:2]} == {wanted}
    with pytest.raises(OptionError, match="no bf16 graph for GPUs"):
        planned(bundle, "bf16")
    for batches in ((), (0,), (512,)):
        with pytest.raises(OptionError, match="from 1 to 256"):
            planned(bundle, "fp16", batches)


@pytest.mark.skipif(not gpu_lacks("tensorrt"), reason="this machine may have what it takes")
def test_without_a_gpu_it_says_what_is_missing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tensorrt", str(folder), "--out", str(tmp_path / "engines")]) == 2
    line = error_line(capsys)
    assert all(what in line for what in gpu_lacks("tensorrt"))
    assert not list(tmp_path.iterdir())


def test_engines_lie_in_folders_with_a_record(folder: Path, tmp_path: Path, compiler: Compiler) -> None:
    out = tmp_path / "deep" / "engines"
    done = build(folder, out)
    assert compiler.asked == EVERY_ENGINE
    for built, (file, _) in zip(done, EVERY_ENGINE, strict=True):
        assert built.folder.parent == out
        (engine,) = built.folder.glob("*.engine")
        assert {p.name for p in built.folder.iterdir()} == {engine.name, CONTEXT, BUILD_RECORD}
        record = json.loads((built.folder / BUILD_RECORD).read_text())
        assert (record["graph"], record["device"], record["capability"]) == (file, "a card", [9, 0])
    (timing,) = out.glob("timing-*/*")
    assert timing.read_text() == f"8 {LADDER[0]} 8 "
    assert len(list(out.iterdir())) == 4  # three engines, the timings


class Masked:
    """Stands in for a session bound to a GPU's memory."""

    def __init__(self, device: Card, session: ort.InferenceSession, setting: Setting, path: Path) -> None:
        self.batch = setting.profile.most

    def close(self) -> None:
        pass


def test_the_engine_finds_what_was_built_ahead(folder: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens each graph for whole pictures, one for masked pictures too, and TensorRT has nothing left to compile."""
    monkeypatch.setattr("engine.runtime.gpu_session.MaskedNetwork", Masked)
    bundle = load_bundle(folder)
    prebuild(bundle, planned(bundle, "fp16"), None, ignore_notice)
    assert compiler.asked == EVERY_ENGINE
    for graph in bundle.manifest.graphs:
        if graph.file in (FP16, ATTRIBUTES):
            session = open_graph(bundle, graph, "tensorrt", None)
            assert isinstance(session, GpuSession)
            if graph.role == "similarity":
                assert session.fit(ignore_notice) == LADDER[0]
    assert compiler.asked == EVERY_ENGINE
    assert len(compiler.options) == 2 * len(EVERY_ENGINE)


def test_what_is_there_stays(folder: Path, tmp_path: Path, compiler: Compiler) -> None:
    first = build(folder, tmp_path)
    compiler.asked.clear()
    again = build(folder, tmp_path)
    assert not compiler.asked
    assert [b.folder for b in again] == [b.folder for b in first]
    assert all(b.seconds == 0 for b in again)
    assert build(folder, tmp_path, "int8")[0].folder != first[0].folder


def test_batches_go_down_where_memory_does_not_suffice(folder: Path, tmp_path: Path, compiler: Compiler) -> None:
    def fails(name: str, most: int) -> None:
        if most > 64:
            raise ProviderError("CUDA failure 2: out of memory")

    compiler.fails = fails
    done = build(folder, tmp_path)
    assert [built.profile.most for built in done] == [8, 64, 8]
    assert {json.loads(p.read_text())["profile"]["most"] for p in tmp_path.glob(f"*/{BUILD_RECORD}")} == {8, 64}
    assert len(list(tmp_path.glob("*/*.engine"))) == 3


def test_what_fails_leaves_nothing_half_written(folder: Path, tmp_path: Path, compiler: Compiler) -> None:
    def fails(name: str, most: int) -> None:
        if most > 8:
            raise ProviderError("no such kernel")

    compiler.fails = fails
    with pytest.raises(ProviderError, match="no such kernel"):
        build(folder, tmp_path / "out")
    (whole,) = (p for p in (tmp_path / "out").iterdir() if not p.name.startswith("timing-"))
    assert (whole / BUILD_RECORD).is_file()
    compiler.fails = lambda name, most: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        build(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_engine_that_is_wrong_is_not_kept(
    folder: Path, tmp_path: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_finite = prebuilding.run_finite
    monkeypatch.setattr(prebuilding, "run_finite", lambda *given: [r + 1 for r in run_finite(*given)])
    with pytest.raises(BundleError, match=f"{FP16} does not give its canonical result"):
        build(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written(folder: Path, tmp_path: Path, compiler: Compiler) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        build(folder, tmp_path / "file")
    assert not compiler.asked


def test_the_context_is_within_its_folder(tmp_path: Path) -> None:
    """ONNX Runtime refuses an engine whose path leads out of the context's folder, or is absolute."""
    options = context_options(tmp_path)
    assert faults(TENSORRT, options) == []
    assert not Path(options["trt_engine_cache_path"]).is_absolute()
    assert Path(options["trt_ep_context_file_path"]).parent == tmp_path


def test_the_bundle_is_not_touched(folder: Path, tmp_path: Path, compiler: Compiler) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    build(folder, tmp_path)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_what_the_engine_built_first_is_replaced_when_built_ahead(folder: Path, compiler: Compiler) -> None:
    """A load leaves an engine with no context and no record."""
    bundle = load_bundle(folder)
    similarity, *_ = planned(bundle, "fp16")
    setting = Setting("tensorrt", "fp16", similarity.graph.input, (3, SIZE, SIZE), WHOLE_PROFILE)
    open_gpu_session(folder / FP16, setting, graph_digest(bundle, similarity.graph), Card.capability)
    (engine,) = tensorrt_folder().glob("*/*.engine")
    done = prebuild(bundle, [similarity], None, ignore_notice)
    assert [built.folder for built in done] == [engine.parent]
    assert {p.name for p in engine.parent.iterdir()} == {engine.name, CONTEXT, BUILD_RECORD}
    assert len(compiler.asked) == 2
    assert not list(tensorrt_folder().glob(".building-*"))
