"""What provider "auto" takes on a CPU: the cheapest of what is installed and as good as fp32, by times that are set here."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import CAT, copy_bundle, seal

from engine import Explainer, OptionError, ProviderError, Rise
from engine.bundle import PRECISION, demo_bundle, load_bundle
from engine.files import cache_folder
from engine.protocol import GraphSignature
from engine.runtime.batch_size import BatchTiming
from engine.runtime.precision import faithful_precisions, fast_int8, int8_overflows
from engine.runtime.session import Session

Costs = dict[tuple[str, str], float]


class StandIn(Session):
    """OpenVINO's part, played by ONNX Runtime."""

    def __init__(self, path: Path, precision: str, threads: int | None, signature: GraphSignature) -> None:
        super().__init__(path, "cpu", threads, signature)
        self.precision = precision


@pytest.fixture
def costing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Costs], list[object]]:
    """Set what a pass costs in each way to run; returns the settings that were measured, in order."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("engine.auto.cpu_runtimes", lambda: ["cpu", "openvino"])
    monkeypatch.setattr("engine.model.runtime_version", lambda provider: f"1 of {provider}")
    monkeypatch.setattr("engine.runtime.openvino_session.OpenVinoSession", StandIn)
    exact = int8_overflows()  # this CPU runs int8 all the same, by kernels that are slow and exact
    monkeypatch.setattr("engine.runtime.session.int8_overflows", lambda: exact)
    monkeypatch.setattr("engine.runtime.precision.fast_int8", lambda: True)
    measured: list[object] = []

    def set_to(costs: Costs) -> list[object]:
        def timed_batch(_session: object, _preprocessing: object, setting: Any, _picture: object) -> BatchTiming:
            measured.append(way := (setting[1], setting[3]))
            return BatchTiming(16, costs[way])

        def kept(_preprocessing: object, setting: Any) -> BatchTiming | None:
            way = (setting[1], setting[3])
            return BatchTiming(16, costs[way]) if way in measured else None

        measured.clear()
        monkeypatch.setattr("engine.model.timed_batch", timed_batch)
        monkeypatch.setattr("engine.auto.kept_timing", kept)
        return measured

    return set_to


ALL = [("cpu", "int8"), ("cpu", "fp32"), ("openvino", "fp32"), ("openvino", "int8")]


@pytest.mark.parametrize("best", ALL)
def test_the_cheapest_way_is_taken_and_its_figures_are_told(
    best: tuple[str, str], costing: Callable[[Costs], list[object]]
) -> None:
    measured = costing({**dict.fromkeys(ALL, 0.004), best: 0.002})
    explainer = Explainer()
    assert (explainer.provider, explainer.precision) == best
    assert sorted(set(map(str, measured))) == sorted(map(str, ALL))
    assert f"{best[0]} {best[1]} 2" in explainer.provider_reason
    assert explainer.provider_reason.count(" 4") == 3
    assert ("costs least here" in explainer.precision_reason) == (best != ALL[0])
    before = len(measured)
    assert (Explainer().provider, Explainer().precision) == best
    assert measured[before:] == [best, best]  # what was measured once is not opened again


def test_a_machine_where_openvino_gains_little_keeps_onnx_runtime(costing: Callable[[Costs], list[object]]) -> None:
    costing({**dict.fromkeys(ALL, 0.00190), ("cpu", "int8"): 0.002})
    explainer = Explainer()
    assert (explainer.provider, explainer.precision) == ("cpu", "int8")


def test_what_is_asked_for_is_not_measured_away(costing: Callable[[Costs], list[object]]) -> None:
    measured = costing({**dict.fromkeys(ALL, 0.004), ("openvino", "int8"): 0.001, ("openvino", "fp32"): 0.002})
    assert (Explainer(provider="cpu").provider, measured) == ("cpu", [("cpu", "int8")])
    asked = Explainer(precision="fp32")
    assert (asked.provider, asked.precision) == ("openvino", "fp32")
    with pytest.raises(OptionError, match="fp16"):
        Explainer(precision="fp16")


def test_a_runtime_that_does_not_run_is_told(
    costing: Callable[[Costs], list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(StandIn):
        def __init__(self, *_: object) -> None:
            raise ProviderError("no OpenVINO today")

    costing(dict.fromkeys(ALL, 0.004))
    monkeypatch.setattr("engine.runtime.openvino_session.OpenVinoSession", Broken)
    told: list[str] = []
    explainer = Explainer(notice=told.append)
    assert explainer.provider == "cpu"
    assert "openvino does not run fp32: no OpenVINO today" in explainer.provider_reason
    assert [line for line in told if "no OpenVINO today" in line]


def test_only_precisions_that_pass_are_candidates(tmp_path: Path) -> None:
    bundle = load_bundle(demo_bundle())
    report = bundle.precision
    assert report is not None
    good = next(iter(report.graphs.values()))
    poor = dataclasses.replace(good, map_correlation_p10=0.5)
    int8 = ["int8"] if fast_int8() else []
    with_bf16, without = (dataclasses.replace(report, bf16=found) for found in (good, poor))
    assert faithful_precisions(bundle.manifest, with_bf16, "openvino") == ["fp32", *int8, "bf16"]
    assert faithful_precisions(bundle.manifest, with_bf16, "cpu") == ["fp32", *int8]
    assert faithful_precisions(bundle.manifest, without, "openvino") == ["fp32", *int8]
    failing = dataclasses.replace(report, graphs=dict.fromkeys(report.graphs, poor))
    assert faithful_precisions(bundle.manifest, failing, "cpu") == ["fp32"]
    assert faithful_precisions(bundle.manifest, None, "openvino") == ["fp32"]
    folder = copy_bundle(demo_bundle(), tmp_path / "bundle")
    (folder / PRECISION).write_text(with_bf16.to_json())
    seal(folder)
    read = load_bundle(folder).precision
    assert read is not None
    assert (read.bf16, json.loads(read.to_json())["bf16"]["speed"]) == (good, good.speed)


def test_a_fresh_process_measures_really_and_keeps_it(tmp_path: Path) -> None:
    """The whole of it, with what is installed: whatever is taken, its maps are those of fp32 on ONNX Runtime."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "engine.explain", *map(str, CAT), "--masks", "256", "--out", str(tmp_path / "a.npz")]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    with np.load(tmp_path / "a.npz") as saved:
        got = saved["saliency"]
    expected = Explainer(provider="cpu", precision="fp32").explain(*CAT, Rise(masks=256)).saliency
    assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.998
    assert list(tmp_path.rglob("batch-*.json"))
    assert cache_folder() != tmp_path
