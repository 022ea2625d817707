"""What only a GPU can tell. NO GPU HAS RUN THESE TESTS YET; wherever there is one: `pytest -m gpu -rs`.

They need onnxruntime-gpu in place of onnxruntime, pycuda, and a CUDA device; those of provider tensorrt its package too.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from helpers import CAT, PICTURES, copy_bundle

from benchmarks.networks import VisionTransformer
from engine import Explainer, LearnedMask, ProviderError, Rise, Window
from engine.bundle import demo_bundle
from engine.pictures.preprocessing import Preprocessing
from engine.runtime.gpu_device import shared_device
from engine.runtime.gpu_session import GpuSession
from engine.runtime.opening import CANONICAL_TOLERANCE
from engine.runtime.providers import gpu_lacks
from engine.runtime.session import open_session
from export import TorchSource, export_quantized, export_similarity
from kernels.device import Device

CORRELATION = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.99}
"""Of a map with the CPU's in fp32: the emoji network in int8 is not among those that "auto" would take."""


def missing(provider: str) -> str | None:
    """Why provider cannot be tested here, or None."""
    lacks = gpu_lacks(provider)
    if lacks:
        return f"needs {' and '.join(lacks)}"
    try:
        shared_device()
    except ProviderError as error:
        return str(error)
    return None


@pytest.fixture(params=["cuda", "tensorrt"])
def provider(request: pytest.FixtureRequest) -> str:
    why = missing(request.param)
    if why:
        pytest.skip(f"no GPU: {why}")
    return str(request.param)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's, with graphs for GPUs."""
    folder = copy_bundle(demo_bundle(), tmp_path_factory.mktemp("gpu") / "bundle")
    export_quantized(folder, PICTURES, ["gpu"])
    return folder


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_embeddings_and_maps_are_the_cpus(provider: str, bundle: Path, precision: str) -> None:
    gpu, cpu = Explainer(bundle, provider, precision), Explainer(bundle, "cpu", "fp32")
    assert (gpu.provider, gpu.precision) == (provider, precision)
    expected = cpu.embed(CAT)
    limit = CANONICAL_TOLERANCE[precision] * np.abs(expected).max()
    np.testing.assert_allclose(gpu.embed(CAT), expected, atol=limit)
    masked = [e.prepare(CAT[0], Rise(masks=1000)).embeddings for e in (gpu, cpu)]
    np.testing.assert_allclose(*masked, atol=limit)
    for method in (Rise(masks=1000), Window(size=16, stride=6)):
        got, wanted = (e.explain(*CAT, method).saliency.ravel() for e in (gpu, cpu))
        assert np.corrcoef(got, wanted)[0, 1] > CORRELATION[precision]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_vision_transformer_runs(provider: str, tmp_path: Path, precision: str) -> None:
    """Its graph computes sizes, which ONNX Runtime puts on the CPU beside CUDA."""
    torch.manual_seed(0)
    preprocessing = Preprocessing(64, 64, mean=(0.5,) * 3, std=(0.25,) * 3)
    network = TorchSource(VisionTransformer(size=64, width=64, blocks=2).eval())
    folder = export_similarity(network, preprocessing, tmp_path / "vit")
    export_quantized(folder, PICTURES, ["gpu"])
    gpu, cpu = Explainer(folder, provider, precision), Explainer(folder, "cpu", "fp32")
    masked = [e.prepare(CAT[0], Rise(masks=600)).embeddings for e in (gpu, cpu)]
    np.testing.assert_allclose(*masked, atol=CANONICAL_TOLERANCE[precision] * np.abs(masked[1]).max())


@pytest.mark.gpu
def test_learned_masks_are_the_cpus(provider: str) -> None:
    """Few steps, as rounding grows with each. The gradient graph computes sizes too."""
    few = LearnedMask(iterations=20)
    got, wanted = (Explainer(provider=p, precision="fp32").explain(*CAT, few).saliency for p in (provider, "cpu"))
    assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.99


@pytest.mark.gpu
def test_the_same_maps_again(provider: str) -> None:
    """Captured runs, the other buffer, and batches that are not full give the same numbers."""
    explainer = Explainer(provider=provider, precision="fp32")
    first = explainer.prepare(CAT[0], Rise(masks=900)).embeddings
    for masks in (900, 300, 900):
        np.testing.assert_array_equal(explainer.prepare(CAT[0], Rise(masks=masks)).embeddings, first[:masks])


@pytest.mark.gpu
def test_only_plans_go_in_and_embeddings_come_out(provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Path, ort.InferenceSession]] = []

    class Profiled(ort.InferenceSession):  # type: ignore[misc]
        def __init__(self, path: str, options: ort.SessionOptions, **given: Any) -> None:
            options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
            super().__init__(path, options, **given)
            made.append((Path(path), self))

    monkeypatch.setattr("engine.runtime.session.ort.InferenceSession", Profiled)
    explainer = Explainer(provider=provider, precision="fp32")
    similarity = explainer.model.similarity
    assert isinstance(similarity, GpuSession)
    *_, masked = (session for path, session in made if path == similarity.path)
    moved: list[str] = []
    for name in ("drawing", "download"):
        move = getattr(Device, name)

        def spied(self: Device, *arguments: Any, name: str = name, move: Any = move) -> Any:
            moved.append(name)
            return move(self, *arguments)

        monkeypatch.setattr(Device, name, spied)
    explainer.prepare(CAT[0], Rise(masks=1000))
    assert moved == ["drawing", "download"]  # plan and picture go in once, embeddings come out once
    events = json.loads(Path(masked.end_profiling()).read_text())
    assert not [event["name"] for event in events if "Memcpy" in event["name"]]


@pytest.mark.gpu
@pytest.mark.parametrize("provider", ["cuda"], indirect=True)
def test_a_bogus_option_is_refused(provider: str) -> None:
    graph = demo_bundle() / "similarity.fp32.onnx"
    open_session(graph, provider, None, {"use_tf32": "False"})
    with pytest.raises(ProviderError, match="no_such_option"):
        open_session(graph, provider, None, {"no_such_option": "1"})


@pytest.mark.gpu
def test_auto_takes_the_gpu(provider: str) -> None:
    explainer = Explainer()
    assert explainer.provider in ("tensorrt", "cuda")
    assert explainer.explain(*CAT, Rise(masks=256)).provider == explainer.provider
