"""TensorRT's engines that the engine itself builds and keeps; TensorRT is a stand-in here."""

from pathlib import Path

import onnxruntime as ort
import pytest
from tensorrt_stand_in import Card, Compiler, stand_in

from engine.errors import ProviderError
from engine.runtime.gpu_opening import open_gpu_session, tensorrt_folder
from engine.runtime.gpu_options import WHOLE_PROFILE, Setting

GRAPH = "similarity.fp32.onnx"
SETTING = Setting("tensorrt", "fp32", "image", (3, 112, 112), WHOLE_PROFILE)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiler:
    return stand_in(monkeypatch, tmp_path / "cache")


class Load:
    """What the engine does with a graph at every load. lines: the notices"""

    def __init__(self, bundle: Path) -> None:
        self.path, self.lines = bundle / GRAPH, list[str]()

    def __call__(self) -> ort.InferenceSession:
        return open_gpu_session(self.path, SETTING, "ab" * 32, Card.capability, self.lines.append)

    def engines(self) -> list[str]:
        return [file.read_text() for file in tensorrt_folder().glob("*/*.engine")]


@pytest.fixture
def load(tiny_bundle: Path) -> Load:
    return Load(tiny_bundle)


def test_a_load_builds_once(load: Load, compiler: Compiler) -> None:
    load()
    assert load().get_providers() == ["CPUExecutionProvider"]
    assert compiler.asked == [(GRAPH, WHOLE_PROFILE.most)]
    assert (load.engines(), load.lines) == (["engine"], [])
    assert len(list(tensorrt_folder().iterdir())) == 2  # the engine, the timings, and no staging folder
    open_gpu_session(load.path, SETTING, "cd" * 32, Card.capability)  # another graph: it knows what was timed for the first
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
