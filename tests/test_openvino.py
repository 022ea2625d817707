"""The OpenVINO provider: the same maps, what was asked for or an error, and never by itself."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import pytest
from helpers import CAT

from engine import BundleError, Explainer, OptionError, ProviderError, Rise
from engine.bundle import demo_bundle
from engine.protocol import GraphSignature
from engine.runtime.openvino_session import OpenVinoSession
from engine.runtime.precision import int8_overflows

BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.parametrize(
    ("precision", "least"),
    [
        ("fp32", 0.999999),
        ("int8", 0.999),
        pytest.param("bf16", 0.999, marks=pytest.mark.skipif(not BF16, reason="this processor has no bf16 instructions")),
    ],
)
def test_its_maps_are_those_of_onnx_runtime(precision: str, least: float) -> None:
    if precision == "int8" and int8_overflows():
        pytest.skip("OpenVINO's int8 kernels overflow on this CPU, and the engine refuses them")
    explainer = Explainer(provider="openvino", precision=precision)
    assert (explainer.provider, explainer.precision) == ("openvino", precision)
    method = Rise(masks=256)
    got, expected = (e.explain(*CAT, method) for e in (explainer, Explainer(provider="cpu", precision="fp32")))
    assert np.corrcoef(got.saliency.ravel(), expected.saliency.ravel())[0, 1] > least
    assert got.similarity == pytest.approx(expected.similarity, abs=0.02)
    assert (got.provider, got.precision, got.passes) == ("openvino", precision, expected.passes)
    assert [a.name for a in got.attributes] == [a.name for a in expected.attributes]


def test_threads_that_share_it_get_the_serial_maps() -> None:
    explainer = Explainer(provider="openvino")

    def maps(seed: int) -> bytes:
        return explainer.explain(*CAT, Rise(masks=64, seed=seed)).saliency.tobytes()

    serial = [maps(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(maps, range(4))) == serial


def test_what_it_cannot_do_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Explainer().provider == "cpu"
    with pytest.raises(OptionError, match="fp16"):
        Explainer(provider="openvino", precision="fp16")
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(ProviderError, match="bf16"):
        Explainer(provider="openvino", precision="bf16")
    monkeypatch.delitem(sys.modules, "engine.runtime.openvino_session")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ProviderError, match=r"sane-engine\[openvino\]"):
        Explainer(provider="openvino")


def test_graphs_that_are_not_what_the_manifest_says_are_refused(tmp_path: Path) -> None:
    demo = demo_bundle()
    names = ("image", (3, 64, 64), "embedding")
    OpenVinoSession(demo / "similarity.fp32.onnx", "fp32", 1, GraphSignature(*names, (64,)))
    for changed in (
        ("picture", (3, 64, 64), "embedding", (64,)),
        ("image", (3, 64, 65), "embedding", (64,)),
        ("image", (3, 64, 64), "embedding", (63,)),
        ("image", (3, 64, 64), "embedding", (64, None)),
    ):
        with pytest.raises(BundleError):
            OpenVinoSession(demo / "similarity.fp32.onnx", "fp32", 1, GraphSignature(*changed))
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(BundleError, match="cannot load"):
        OpenVinoSession(tmp_path / "broken.onnx", "fp32", 1, GraphSignature(*names, (64,)))


def test_a_prepared_query_of_another_precision_is_refused(tmp_path: Path) -> None:
    """bf16 runs the fp32 graph: the graph alone does not tell them apart."""
    if not BF16:
        pytest.skip("this processor has no bf16 instructions")
    explainer = Explainer(provider="openvino", precision="bf16")
    explainer.prepare(CAT[0], Rise(masks=4)).save(tmp_path / "query.npz")
    assert explainer.load_prepared(tmp_path / "query.npz").run_settings.precision == "bf16"
    with pytest.raises(OptionError, match="precision bf16"):
        Explainer(provider="openvino", precision="fp32").load_prepared(tmp_path / "query.npz")
