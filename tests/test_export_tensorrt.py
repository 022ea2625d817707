"""`python -m export tensorrt`: what it would build, under which names, and what it leaves; TensorRT is a stand-in here.

The stand-in writes files where the options say and runs the graph on the CPU. No GPU has run the command yet.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import onnxruntime as ort
import pytest
from export_models import ConvNet, MapNet
from PIL import Image
from test_provider_options import TENSORRT, faults

from engine import OptionError
from engine import bundle as bundles
from engine.attributes import AttributeTable
from engine.bundle import graph_digest
from engine.device import DeviceSession
from engine.errors import BundleError, OutputError, ProviderError
from engine.gpu_options import LADDER, WHOLE_PROFILE, Setting, Versions, cache_key, masked_profile, tensorrt_options
from engine.preprocessing import Preprocessing
from engine.session import gpu_lacks, opened, tensorrt_version
from export import TorchSource, export_attributes, export_quantized, export_similarity
from export import tensorrt as prebuilding
from export.commands import main
from export.quantize import FP16, INT8_GPU
from export.tensorrt import CONTEXT, RECORD, Built, context_options, planned, prebuild

T = TypeVar("T")
SIZE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with graphs for GPUs and with attributes. Not to be changed."""
    images = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(images / f"{i}.png")
    preprocessing = Preprocessing(SIZE, SIZE, mean=(0.5,) * 3, std=(0.25,) * 3)
    out = export_similarity(TorchSource(ConvNet().eval()), preprocessing, tmp_path_factory.mktemp("b") / "bundle")
    export_quantized(out, images, ("gpu",))
    table = AttributeTable(("a", "b", "c", "d"), "sigmoid", np.zeros(4, np.float32))
    return export_attributes(TorchSource(MapNet().eval()), table, out)


class Card:
    """A device that is none: work runs at once."""

    name, capability, ordinal, stream = "a card", (9, 0), 0, 94

    def call(self, function: Callable[[], T]) -> T:
        return function()


class Compiler:
    """Stands in for `gpu_session`. fails: told the graph's name and batches, may raise"""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.fails: Callable[[str, int], None] = lambda name, most: None

    def __call__(
        self,
        path: Path,
        setting: Setting,
        digest: str,
        capability: tuple[int, int],
        folder: Path,
        further: Mapping[str, str],
    ) -> Any:
        versions = Versions(ort.__version__, tensorrt_version(), capability)
        usual = tensorrt_options(setting, folder, digest, versions)
        options = {**usual, **further}
        assert faults(TENSORRT, options) == []
        self.asked.append((path.name, setting.profile.most))
        context = Path(options["trt_ep_context_file_path"])
        assert context.parent == Path(usual["trt_engine_cache_path"])  # where the engine will look
        (context.parent / f"{options['trt_engine_cache_prefix']}_sm90.engine").write_text("engine")
        self.fails(path.name, setting.profile.most)
        context.write_text("context")
        timing = Path(options["trt_timing_cache_path"])
        timing.mkdir(exist_ok=True)
        (timing / "sm90.timing").write_text(f"{len(self.asked)}")
        return opened(path, "cpu", None)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    stand_in = Compiler()
    monkeypatch.setattr(prebuilding, "require_gpu", lambda provider: None)
    monkeypatch.setattr(prebuilding, "shared_device", Card)
    monkeypatch.setattr(prebuilding, "gpu_session", stand_in)
    return stand_in


def build(folder: Path, out: Path, precision: str = "fp16") -> list[Built]:
    bundle = bundles.load(folder)
    return prebuild(bundle, planned(bundle, precision), out, lambda line: None)


def test_what_would_be_built_is_listed_without_a_gpu(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tensorrt", str(folder), "--list", "--precision", "int8", "--batches", "64", "32"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{INT8_GPU} (int8), batches of 1 to 8",
        f"{INT8_GPU} (int8), batches of 64, else 32",
        "attributes.fp32.onnx (fp32), batches of 1 to 8",
    ]


def test_auto_is_the_precision_that_the_engine_would_take(folder: Path) -> None:
    bundle = bundles.load(folder)
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
    (line,) = capsys.readouterr().err.splitlines()
    assert all(what in line for what in gpu_lacks("tensorrt"))
    assert not list(tmp_path.iterdir())


def test_engines_lie_where_the_engine_looks(folder: Path, tmp_path: Path, compiler: Compiler) -> None:
    out, bundle = tmp_path / "deep" / "engines", bundles.load(folder)
    done = build(folder, out)
    assert compiler.asked == [(FP16, 8), (FP16, LADDER[0]), ("attributes.fp32.onnx", 8)]
    versions = Versions(ort.__version__, tensorrt_version(), Card.capability)
    shape = bundle.manifest.preprocessing.input_shape
    for built, (file, profile) in zip(
        done,
        [(FP16, WHOLE_PROFILE), (FP16, masked_profile(LADDER[0])), ("attributes.fp32.onnx", WHOLE_PROFILE)],
        strict=True,
    ):
        graph = next(g for g in bundle.manifest.graphs if g.file == file)
        session = SimpleNamespace(
            _provider="tensorrt", _precision=graph.precision, input_name=graph.input, _shape=shape, _device=Card()
        )
        setting = DeviceSession._setting(session, profile, graphs=profile.fixed)  # the engine's own
        assert built.folder == out / cache_key(setting, graph_digest(bundle, graph), versions)
        (engine,) = built.folder.glob("*.engine")
        assert {p.name for p in built.folder.iterdir()} == {engine.name, CONTEXT, RECORD}
        record = json.loads((built.folder / RECORD).read_text())
        assert (record["graph"], record["device"], record["capability"]) == (file, "a card", [9, 0])
    (timing,) = out.glob("timing-*/*")
    assert timing.read_text() == "3"
    assert len(list(out.iterdir())) == 4  # three engines, the timings


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
    assert {json.loads(p.read_text())["profile"]["most"] for p in tmp_path.glob(f"*/{RECORD}")} == {8, 64}
    assert len(list(tmp_path.glob("*/*.engine"))) == 3


def test_what_fails_leaves_nothing_half_written(folder: Path, tmp_path: Path, compiler: Compiler) -> None:
    def fails(name: str, most: int) -> None:
        if most > 8:
            raise ProviderError("no such kernel")

    compiler.fails = fails
    with pytest.raises(ProviderError, match="no such kernel"):
        build(folder, tmp_path / "out")
    (whole,) = (p for p in (tmp_path / "out").iterdir() if not p.name.startswith("timing-"))
    assert (whole / RECORD).is_file()
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
