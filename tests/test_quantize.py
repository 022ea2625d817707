"""Graphs of low precision: what is in them, what the report says, and what the command prints."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from export_models import ConvNet, MapNet
from helpers import copy_bundle, error_line, write_blurred
from onnx import numpy_helper

from engine import Explainer, OptionError, Rise
from engine.attributes.table import AttributeTable
from engine.bundle import Manifest, load_bundle
from engine.bundle.report import Report
from engine.pictures.preprocessing import Preprocessing
from engine.runtime.session import Session
from export import TorchSource, export_attributes, export_quantized, export_similarity, masked
from export.commands import main
from export.fidelity import Fp32Comparison
from export.graph_trials import COMPARED_MASKS, MASKS_PER_PICTURE, REPORT_SEED
from export.low_precision import measured_ranges
from export.quantize import FP16, INT8_CPU, INT8_GPU
from export.timekeeper import Timekeeper

SIZE = 32
PREPROCESSING = Preprocessing(SIZE, SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@pytest.fixture(scope="module", autouse=True)
def faster() -> Iterator[None]:
    """Int8 counts as twice as fast as fp32, because on networks as small as these it can be slower, and would be left out.

    Graphs are chosen on fewer pictures.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.graph_trials.speed", lambda *_: 2.0)
        patch.setattr("export.graph_trials.TUNING_PICTURES", 3)
        yield


def read(images: Path) -> masked.Pictures:
    return masked.read_masked(images, PREPROCESSING, Timekeeper(60, quiet=True))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve different blurred pictures, and a file that is none."""
    folder = write_blurred(tmp_path_factory.mktemp("images"), 12, SIZE)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fp32 alone."""
    return export_similarity(TorchSource(ConvNet().eval()), PREPROCESSING, tmp_path_factory.mktemp("q") / "plain")


@pytest.fixture(scope="module")
def quantized(plain: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_bundle(plain, tmp_path_factory.mktemp("q") / "bundle")
    done = export_quantized(folder, images)
    assert [path.name for path in done.unreadable] == ["notes.txt"]
    return folder


def report(bundle: Path) -> Report:
    found = load_bundle(bundle).precision
    assert found is not None
    return found


def test_the_model_stays_the_same_and_the_graphs_are_named(plain: Path, quantized: Path) -> None:
    before, after = load_bundle(plain), load_bundle(quantized)
    assert after.identity == before.identity
    wanted = {("fp32", "any"), ("int8", "cpu"), ("int8", "gpu"), ("fp16", "gpu")}
    assert {(g.precision, g.target) for g in after.manifest.graphs} == wanted
    assert set(report(quantized).graphs) == {INT8_CPU, INT8_GPU, FP16}


def initializers(bundle: Path, file: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    model = onnx.load(bundle / file)
    return model, {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def test_int8_for_cpus_is_unsigned_activations_and_signed_weights_per_channel(quantized: Path) -> None:
    model, tensors = initializers(quantized, INT8_CPU)
    points = {n.input[0]: tensors[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert points
    assert {p.dtype for p in points.values()} == {np.dtype(np.uint8)}
    weights = [
        n for n in model.graph.node if n.op_type == "DequantizeLinear" and tensors.get(n.input[0], np.empty(0)).ndim == 4
    ]
    assert weights
    for node in weights:
        assert tensors[node.input[0]].dtype == np.int8
        assert len(tensors[node.input[1]]) == len(tensors[node.input[0]])  # a scale for every output channel
        assert not tensors[node.input[2]].any()


def test_int8_for_gpus_is_symmetric(quantized: Path) -> None:
    model, tensors = initializers(quantized, INT8_GPU)
    scaling = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert scaling
    for node in scaling:
        assert tensors[node.input[2]].dtype == np.int8
        assert not tensors[node.input[2]].any()


def test_fp16_takes_and_gives_float32(quantized: Path) -> None:
    model, tensors = initializers(quantized, FP16)
    assert {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)} == {onnx.TensorProto.FLOAT}
    assert {t.dtype for t in tensors.values() if t.ndim == 4} == {np.dtype(np.float16)}


def test_the_report_is_true_and_over_pictures_not_calibrated_on(quantized: Path, images: Path) -> None:
    found = report(quantized)
    pictures = read(images)
    assert (found.calibration_pictures, found.held_out_pictures, found.pairs) == (9, 3, 6)
    seen = {p.tobytes() for p in pictures.calibration}
    assert not seen & {p.tobytes() for p in pictures.held_out}
    assert (found.masks, found.estimator) == (COMPARED_MASKS, "regression")
    fp32, int8 = (Explainer(quantized, precision=p) for p in ("fp32", "int8"))

    def correlations_of(masks: int, estimator: str = "regression") -> list[float]:
        method = Rise(masks=masks, seed=REPORT_SEED)
        plan = method.plan(pictures.held_out[0]) if estimator == "sane" else None  # maps of a plan are the published ones
        correlations = []
        for i, query in enumerate(pictures.held_out):
            others = [p for j, p in enumerate(pictures.held_out) if j != i]
            a, b = (e.prepare(query, method, plan=plan).explain_many(others) for e in (fp32, int8))
            correlations += [np.corrcoef(x.saliency.ravel(), y.saliency.ravel())[0, 1] for x, y in zip(a, b, strict=True)]
        return correlations

    correlations = correlations_of(COMPARED_MASKS)  # by the estimator that runs by default
    for other in found.graphs[INT8_CPU].other_maps:
        same = correlations_of(other.masks, other.estimator)
        assert (other.pairs, other.mean) == (6, pytest.approx(np.mean(same), abs=2e-3))
        assert other.p10 == pytest.approx(np.percentile(same, 10), abs=4e-3)
    kinds = [(other.estimator, other.masks) for other in found.graphs[FP16].other_maps]
    assert kinds == [("regression", 512), ("sane", 256), ("sane", 512)]
    assert found.graphs[INT8_CPU].map_correlation_mean == pytest.approx(np.mean(correlations), abs=2e-3)
    assert found.graphs[INT8_CPU].map_correlation_least == pytest.approx(np.min(correlations), abs=5e-3)
    assert found.graphs[FP16].map_correlation_mean > 0.999


def test_calibration_never_sees_what_the_report_is_over(
    plain: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrated: list[bytes] = []
    judged: list[np.ndarray] = []

    def spied(model: onnx.ModelProto, batches: Iterable[np.ndarray]) -> Any:
        rows = [batch.copy() for batch in batches]
        calibrated.clear()  # the first ranges, of one picture, are for measuring the speed alone
        calibrated.extend(row.tobytes() for batch in rows for row in batch)
        return measured_ranges(model, rows)

    class Watched(Fp32Comparison):
        def __init__(
            self, base: Session, manifest: Manifest, pictures: Any, masks: int, seed: int, most: int | None
        ) -> None:
            if seed == REPORT_SEED:
                judged.extend(pictures)
            super().__init__(base, manifest, pictures, masks, seed, most)

    monkeypatch.setattr("export.graph_trials.measured_ranges", spied)
    monkeypatch.setattr("export.graph_trials.Fp32Comparison", Watched)
    export_quantized(copy_bundle(plain, tmp_path / "bundle"), images, ("cpu",))
    pictures = read(images)
    whole, held_out = (
        {PREPROCESSING.normalised(p).tobytes() for p in some} for some in (pictures.calibration, pictures.held_out)
    )
    assert whole < set(calibrated)
    assert len(calibrated) == len(whole) * (1 + MASKS_PER_PICTURE)
    assert not held_out & set(calibrated)
    assert [p.tobytes() for p in judged] == [p.tobytes() for p in pictures.held_out]


def manifest_of(bundle: Path) -> Manifest:
    return load_bundle(bundle).manifest


def test_attributes_may_follow_and_quantizing_again_replaces(quantized: Path, images: Path, tmp_path: Path) -> None:
    folder = copy_bundle(quantized, tmp_path / "bundle")
    table = AttributeTable(("a", "b", "c", "d"), "sigmoid", np.zeros(4, np.float32))
    export_attributes(TorchSource(MapNet().eval()), table, folder)
    assert {g.precision for g in manifest_of(folder).graphs} == {"fp32", "int8", "fp16"}
    export_quantized(folder, images, ["cpu"])
    again = load_bundle(folder)
    assert {g.file for g in again.manifest.graphs if g.role == "similarity"} == {"similarity.fp32.onnx", INT8_CPU}
    assert not (folder / FP16).exists()
    assert again.attributes is not None
    assert set(report(folder).graphs) == {INT8_CPU}
    assert Explainer(folder, precision="int8").precision == "int8"


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    return error_line(capsys)


def test_what_cannot_be_quantized_leaves_the_bundle_alone(
    plain: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_bundle(plain, tmp_path / "bundle")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    empty, words = tmp_path / "empty", tmp_path / "words"
    empty.mkdir()
    words.mkdir()
    (words / "a.txt").write_text("a")
    assert "0 different pictures" in fails(["quantize", str(folder), "--images", str(empty)], capsys)
    assert "1 other files" in fails(["quantize", str(folder), "--images", str(words)], capsys)
    assert "cannot read the folder" in fails(["quantize", str(folder), "--images", str(tmp_path / "none")], capsys)
    assert "there is no bundle" in fails(["quantize", str(tmp_path / "no"), "--images", str(images)], capsys)

    def broken(*_: object) -> None:
        raise OptionError("half way")

    monkeypatch.setattr("export.quantize.finish", broken)
    assert "half way" in fails(["quantize", str(folder), "--images", str(images), "--targets", "cpu", "--quiet"], capsys)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "empty", "words"]


def test_the_command_says_how_faithful_each_graph_is(
    plain: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_bundle(plain, tmp_path / "bundle")
    assert main(["quantize", str(folder), "--images", str(images), "--targets", "cpu"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{INT8_CPU}: map correlation 0.")
    assert printed.out.endswith(f"wrote {folder}\n")
    assert printed.err.endswith("\nleft out files that are not pictures (1: notes.txt)\n")
