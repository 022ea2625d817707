"""Stand-ins for a GPU and for TensorRT: engines are files with a word in them, and graphs run on the CPU."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import onnxruntime as ort
import pytest
from provider_options import TENSORRT, faults

from engine.errors import ProviderError
from engine.runtime.session import open_session

T = TypeVar("T")


class Card:
    """A device that is none: work runs at once."""

    name, capability, ordinal, stream = "a card", (9, 0), 0, 94

    def call(self, function: Callable[[], T]) -> T:
        return function()

    def later(self, function: Callable[[], object]) -> None:
        function()

    def attach(self, close: Callable[[], None]) -> Callable[[], None]:
        return close

    def release(self, close: Callable[[], None]) -> None:
        close()


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


def stand_in(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Compiler:
    """Put the stand-ins in place of the GPU, for the export and for the engine; engines are kept below `cache`."""
    compiler = Compiler()
    for module in ("export.tensorrt", "engine.runtime.opening"):
        monkeypatch.setattr(f"{module}.require_gpu", lambda provider: None)
    for module in ("export.tensorrt", "engine.runtime.gpu_session"):
        monkeypatch.setattr(f"{module}.shared_device", Card)
    monkeypatch.setattr("engine.runtime.gpu_opening.open_session", compiler)
    monkeypatch.setattr("engine.runtime.gpu_opening.device_name", lambda ordinal: Card.name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return compiler
