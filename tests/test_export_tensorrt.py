"""`python -m export tensorrt`: what it would build, under which names, and what it leaves; TensorRT is a stand-in here.

The stand-in writes files where the options say and runs the graph on the CPU. No GPU has run the command yet.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import numpy as np
import onnxruntime as ort
import pytest
from export_models import ConvNet, MapNet
from PIL import Image
from test_provider_options import TENSORRT, faults

from engine import OptionError
from engine.attributes.table import AttributeTable
from engine.bundle import graph_digest, load_bundle
from engine.errors import BundleError, OutputError, ProviderError
from engine.pictures.preprocessing import Preprocessing
from engine.protocol import GraphSignature
from engine.runtime.gpu_opening import open_gpu_session, tensorrt_folder, tensorrt_version
from engine.runtime.gpu_options import LADDER, WHOLE_PROFILE, Setting, Versions, cache_key, masked_profile
from engine.runtime.gpu_session import GpuSession
from engine.runtime.providers import gpu_lacks
from engine.runtime.session import open_session
from export import TorchSource, export_attributes, export_quantized, export_similarity
from export import tensorrt as prebuilding
from export.commands import main
from export.quantize import FP16, INT8_GPU
from export.tensorrt import BUILD_RECORD, CONTEXT, Built, context_options, planned, prebuild

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
    """Stands in for `open_session`, with TensorRT. fails: told the graph's name and batches, may raise

    An engine is written as ONNX Runtime does: under its name, and not at once; one that is there is read.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.options: list[dict[str, str]] = []
        self.fails: Callable[[str, int], None] = lambda name, most: None

    def __call__(self, path: Path, provider: str, threads: int | None, options: dict[str, str]) -> ort.InferenceSession:
        assert provider == "tensorrt"
        assert faults(TENSORRT, options) == []
        self.options.append(options)
        most = int(options["trt_profile_max_shapes"].split(":")[1].split("x")[0])
        if "trt_engine_cache_path" in options:
            place = Path(options["trt_engine_cache_path"])
            if "trt_ep_context_file_path" in options:
                place = Path(options["trt_ep_context_file_path"]).parent
            self._built_or_read(path.name, most, place / f"{options['trt_engine_cache_prefix']}_sm90.engine", options)
        else:
            self._compile(path.name, most)
        return open_session(path, "cpu", None)

    def _built_or_read(self, name: str, most: int, engine: Path, options: Mapping[str, str]) -> None:
        if engine.exists():
            if engine.read_text() != "engine":
                raise ProviderError(f"cannot run {name}: TensorRT EP could not deserialize engine from cache: {engine}")
            return
        engine.write_text("half an engine")
        self._compile(name, most)
        engine.write_text("engine")
        if "trt_ep_context_file_path" in options:
            Path(options["trt_ep_context_file_path"]).write_text("context")
        timing = Path(options["trt_timing_cache_path"]) / "sm90.timing"
        known = timing.read_text() if timing.exists() else ""
        timing.write_text(f"{known}{most} ")

    def _compile(self, name: str, most: int) -> None:
        self.asked.append((name, most))
        self.fails(name, most)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiler:
    stand_in = Compiler()
    monkeypatch.setattr(prebuilding, "require_gpu", lambda provider: None)
    monkeypatch.setattr(prebuilding, "shared_device", Card)
    monkeypatch.setattr("engine.runtime.gpu_opening.open_session", stand_in)
    monkeypatch.setattr("engine.runtime.gpu_opening.device_name", lambda ordinal: "a card")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return stand_in


def build(folder: Path, out: Path, precision: str = "fp16") -> list[Built]:
    bundle = load_bundle(folder)
    return prebuild(bundle, planned(bundle, precision), out, lambda line: None)


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
    (line,) = capsys.readouterr().err.splitlines()
    assert all(what in line for what in gpu_lacks("tensorrt"))
    assert not list(tmp_path.iterdir())


def test_engines_lie_where_the_engine_looks(folder: Path, tmp_path: Path, compiler: Compiler) -> None:
    out, bundle = tmp_path / "deep" / "engines", load_bundle(folder)
    done = build(folder, out)
    assert compiler.asked == [(FP16, 8), (FP16, LADDER[0]), ("attributes.fp32.onnx", 8)]
    versions = Versions(ort.__version__, tensorrt_version(), "a card", Card.capability)
    shape = bundle.manifest.preprocessing.input_shape
    for built, (file, profile) in zip(
        done,
        [(FP16, WHOLE_PROFILE), (FP16, masked_profile(LADDER[0])), ("attributes.fp32.onnx", WHOLE_PROFILE)],
        strict=True,
    ):
        graph = next(g for g in bundle.manifest.graphs if g.file == file)
        session = SimpleNamespace(
            _provider="tensorrt",
            _precision=graph.precision,
            signature=GraphSignature(graph.input, shape, graph.output, ()),
            _device=Card(),
        )
        setting = GpuSession._setting(session, profile, graphs=profile.fixed)  # the engine's own
        assert built.folder == out / cache_key(setting, graph_digest(bundle, graph), versions)
        (engine,) = built.folder.glob("*.engine")
        assert {p.name for p in built.folder.iterdir()} == {engine.name, CONTEXT, BUILD_RECORD}
        record = json.loads((built.folder / BUILD_RECORD).read_text())
        assert (record["graph"], record["device"], record["capability"]) == (file, "a card", [9, 0])
    (timing,) = out.glob("timing-*/*")
    assert timing.read_text() == f"8 {LADDER[0]} 8 "
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


SETTING = Setting("tensorrt", "fp16", "image", (3, SIZE, SIZE), WHOLE_PROFILE)


class Load:
    """What the engine does with the fp16 graph at every load. lines: the notices"""

    def __init__(self, folder: Path) -> None:
        self.path, self.lines = folder / FP16, list[str]()

    def __call__(self) -> ort.InferenceSession:
        return open_gpu_session(self.path, SETTING, "ab" * 32, Card.capability, self.lines.append)

    def engines(self) -> list[str]:
        return [file.read_text() for file in tensorrt_folder().glob("*/*.engine")]


@pytest.fixture
def load(folder: Path) -> Load:
    return Load(folder)


def test_a_load_builds_once(load: Load, compiler: Compiler) -> None:
    load()
    assert load().get_providers() == ["CPUExecutionProvider"]
    assert compiler.asked == [(FP16, WHOLE_PROFILE.most)]
    assert (load.engines(), load.lines) == (["engine"], [])
    assert len(list(tensorrt_folder().iterdir())) == 2  # the engine, the timings, and no staging folder
    open_gpu_session(
        load.path, SETTING, "cd" * 32, Card.capability
    )  # of another graph: it knows what was timed for the first
    (timing,) = tensorrt_folder().glob("timing-*/*")
    assert timing.read_text() == "8 8 "


def test_a_load_that_is_killed_leaves_no_engine(load: Load, compiler: Compiler) -> None:
    compiler.fails = lambda name, most: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        load()
    assert load.engines() == []
    compiler.fails = lambda name, most: None
    load()
    assert (load.engines(), load.lines) == (["engine"], [])


def test_while_an_engine_is_built_nobody_sees_it(load: Load, compiler: Compiler) -> None:
    """Two processes that start together build one each; the last to end has its own kept."""
    compiler.fails = lambda name, most: load() and None if len(compiler.asked) < 2 else None
    load()
    assert len(compiler.asked) == 2
    assert (load.engines(), load.lines) == (["engine"], [])
    assert not list(tensorrt_folder().glob(".building-*"))


def test_a_damaged_engine_is_built_anew(load: Load, compiler: Compiler) -> None:
    load()
    (engine,) = tensorrt_folder().glob("*/*.engine")
    engine.write_text("half an engine")
    load()
    assert len(compiler.asked) == 2
    assert load.engines() == ["engine"]
    (line,) = load.lines
    assert str(engine.parent) in line
    load()
    assert len(load.lines) == 1


def test_other_errors_of_an_engine_are_not_hidden(load: Load, compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    load()

    def lost(*given: object) -> None:
        raise ProviderError("the device was lost")

    monkeypatch.setattr("engine.runtime.gpu_opening.open_session", lost)
    with pytest.raises(ProviderError, match="lost"):
        load()
    assert (load.engines(), load.lines) == (["engine"], [])


def test_a_cache_that_cannot_be_written_is_done_without(
    load: Load, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert load().get_providers() == ["CPUExecutionProvider"]
    assert not [key for key in compiler.options[-1] if "cache" in key]
    (line,) = load.lines
    assert "/proc/nowhere" in line
    with pytest.warns(UserWarning, match="/proc/nowhere"):  # where nobody listens
        open_gpu_session(load.path, SETTING, "ab" * 32, Card.capability)


def test_engines_in_a_cache_that_cannot_be_written_are_used(
    load: Load, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    load()

    def refused(folder: Path) -> None:
        raise PermissionError(folder)

    monkeypatch.setattr("engine.runtime.tensorrt_cache.staging", refused)
    load()
    assert len(compiler.asked) == 1
    assert not [key for key in compiler.options[-1] if "timing" in key]  # ONNX Runtime would make that folder
    assert load.lines == []


def test_what_the_engine_built_first_is_replaced_when_built_ahead(folder: Path, compiler: Compiler) -> None:
    """A load leaves an engine with no context and no record."""
    bundle = load_bundle(folder)
    similarity, *_ = planned(bundle, "fp16")
    setting = dataclasses.replace(SETTING, input=similarity.graph.input)
    open_gpu_session(folder / FP16, setting, graph_digest(bundle, similarity.graph), Card.capability)
    (engine,) = tensorrt_folder().glob("*/*.engine")
    done = prebuild(bundle, [similarity], None, lambda line: None)
    assert [built.folder for built in done] == [engine.parent]
    assert {p.name for p in engine.parent.iterdir()} == {engine.name, CONTEXT, BUILD_RECORD}
    assert len(compiler.asked) == 2
    assert not list(tensorrt_folder().glob(".building-*"))
