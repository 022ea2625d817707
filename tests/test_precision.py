"""Which precision the engine takes: reports that are true of a bundle, what they must say, and what the processor can do."""

import dataclasses
import json
from pathlib import Path

import pytest
from helpers import CAT, copy_bundle, seal

from engine import BundleError, Explainer, OptionError, Rise
from engine.bundle import PRECISION, demo_bundle, load_bundle
from engine.bundle.manifest import Graph
from engine.bundle.report import GraphFidelity, Report
from engine.runtime.precision import choose_precision, fast_int8
from export.quantize import FP16, INT8_CPU


@pytest.fixture(scope="module")
def report() -> Report:
    """The demo's."""
    found = load_bundle(demo_bundle()).precision
    assert found is not None
    return found


def test_auto_takes_int8_where_it_is_faithful_and_fast(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    half = Graph(FP16, "similarity", "fp16", "gpu", 18, "image", "embedding")
    manifest = load_bundle(demo_bundle()).manifest
    manifest = dataclasses.replace(manifest, graphs=(*manifest.graphs, half))
    found = dataclasses.replace(report, graphs={**report.graphs, FP16: report.graphs[INT8_CPU]})
    good = dataclasses.replace(found.graphs[INT8_CPU], map_correlation_mean=0.9995, map_correlation_p10=0.9992, speed=2.0)

    def chosen(provider: str = "cpu", **changes: object) -> tuple[str, str]:
        graphs = {**found.graphs, INT8_CPU: dataclasses.replace(good, **changes)}
        return choose_precision(manifest, dataclasses.replace(found, graphs=graphs), provider)

    monkeypatch.setattr("engine.runtime.precision.fast_int8", lambda: True)
    assert chosen()[0] == "int8"
    assert chosen(speed=None)[0] == "int8"
    assert chosen(map_correlation_mean=0.9989)[0] == "fp32"
    assert "not faithful" in chosen(map_correlation_p10=0.998)[1]
    assert "not faster" in chosen(speed=0.9)[1]
    assert chosen("cuda")[0] == "fp16"
    assert choose_precision(manifest, None, "cpu")[0] == "fp32"
    bare = dataclasses.replace(manifest, graphs=manifest.graphs[:1])
    assert "export quantize" in choose_precision(bare, None, "cpu")[1]
    monkeypatch.setattr("engine.runtime.precision.fast_int8", lambda: False)
    assert chosen()[0] == "fp32"
    assert "VNNI" in chosen()[1]


def test_int8_instructions_are_read_from_every_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, wanted in (
        ("flags\t\t: fpu avx512f avx512_vnni\nflags : avx512_vnni\n", True),
        ("flags\t\t: fpu avx512f avx512_vnni\nflags : fpu\n", False),
        ("Features\t: fp asimd asimddp\n", True),
        ("flags : fpu avx2\n", False),
        ("", False),
    ):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr("engine.runtime.precision.CPUINFO", tmp_path / "cpuinfo")
        assert fast_int8() is wanted
    monkeypatch.setattr("engine.runtime.precision.CPUINFO", tmp_path / "missing")
    assert not fast_int8()


def test_the_explainer_says_which_precision_and_why(tiny_bundle: Path) -> None:
    explicit = Explainer(precision="int8")
    assert (explicit.provider, explicit.precision, explicit.precision_reason) == ("cpu", "int8", "asked for")
    assert explicit.explain(*CAT, Rise(masks=32)).precision == "int8"
    assert Explainer(tiny_bundle).precision == "fp32"
    assert "export quantize" in Explainer(tiny_bundle).precision_reason
    with pytest.raises(OptionError, match=r"fp16.*fp32.*export quantize"):
        Explainer(tiny_bundle, precision="fp16")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"identity": "another"},
        {"graphs": {"other.onnx": {}}},
        {"graphs": []},
        {"pairs": None, "extra": 1},
    ],
)
def test_a_report_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    folder = copy_bundle(demo_bundle(), tmp_path / "bundle")
    fields = json.loads((folder / PRECISION).read_text()) | change
    (folder / PRECISION).write_text(json.dumps(fields))
    seal(folder)
    with pytest.raises(BundleError, match="quantize the bundle again"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "change", [{"map_correlation_mean": 2.0}, {"embedding_cosine_least": "x"}, {"speed": -1.0}, {"calibration": 3}]
)
def test_impossible_figures_are_refused(report: Report, change: dict[str, object]) -> None:
    good = report.graphs[INT8_CPU]
    with pytest.raises(OptionError):
        GraphFidelity(**{**dataclasses.asdict(good), **change})


def test_the_demo_runs_int8_only_by_its_report(report: Report) -> None:
    explainer = Explainer()
    assert explainer.precision == ("int8" if fast_int8() else "fp32")
    found = report.graphs[INT8_CPU]
    assert isinstance(found, GraphFidelity)
    assert found.passes
    assert (
        Graph(INT8_CPU, "similarity", "int8", "cpu", 18, "image", "embedding") in load_bundle(demo_bundle()).manifest.graphs
    )
