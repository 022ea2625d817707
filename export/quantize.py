"""Add int8 and fp16 graphs to a bundle, and a report of how close each is to the fp32 graph."""

import dataclasses
import functools
import importlib.metadata
import platform
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from engine.bundle import PRECISION, Bundle, load_bundle
from engine.bundle.manifest import Graph
from engine.bundle.report import TARGETS, GraphFidelity, Report
from engine.errors import OptionError
from engine.methods.rise import Rise
from engine.protocol import GraphSignature
from engine.runtime.precision import fast_int8
from engine.runtime.session import Session
from export import masked, onnx_files
from export.bundles import canonical_of, copy_without
from export.fidelity import Fp32Comparison, speed
from export.low_precision import Quantizer, to_fp16
from export.masked import Pictures
from export.progress import progress_bar
from export.write import check_free, finish, replacing

INT8_CPU, INT8_GPU, FP16 = "similarity.int8-cpu.onnx", "similarity.int8-gpu.onnx", "similarity.fp16.onnx"
MASKS_PER_PICTURE = 7
"""Masks that each picture is calibrated behind, beside the whole picture."""
REPORT_MASKS, REPORT_SEED = 1024, 1
TUNING_PICTURES, TUNING_MASKS, TUNING_SEED = 8, 256, 2
GOAL = 0.9993
"""Map correlation on the tuning pictures that is good enough: what the engine requires, plus a margin for other pictures."""
SENSITIVITY_MASKS = 8


@dataclasses.dataclass(frozen=True)
class Quantized:
    """The result. unreadable: files of the folder that are not pictures"""

    report: Report
    unreadable: list[Path]


@dataclasses.dataclass(frozen=True)
class QuantizedGraph:
    """A graph of low precision. content: its file; kept_fp32: names of the nodes that stay in fp32"""

    graph: Graph
    content: bytes
    kept_fp32: tuple[str, ...] = ()


def export_quantized(bundle: Path, images: Path, targets: Sequence[str] = TARGETS) -> Quantized:
    """Add int8 for CPUs, and fp16 and symmetric int8 for GPUs, to a bundle, with a report; its identity stays the same.

    images: folder of at least 4 pictures like those that will be explained; a quarter is kept for the report only
    targets: cpu, gpu or both

    Earlier quantized graphs are replaced. Raises an EngineError, and leaves the bundle as it was, if that fails.
    """
    bundle, images = Path(bundle), Path(images)
    if not targets or not set(targets) <= set(TARGETS):
        raise OptionError(f"targets must be some of {', '.join(TARGETS)}, got {', '.join(targets) or 'none'}")
    before = load_bundle(bundle)
    check_free(bundle)
    pictures = masked.read_masked(images, before.manifest.preprocessing)
    with tempfile.TemporaryDirectory() as folder:
        maker = _GraphMaker(before, pictures, Path(folder))
        made = [maker.int8(INT8_CPU, "cpu")] if "cpu" in targets else []
        made += [maker.int8(INT8_GPU, "gpu"), maker.fp16()] if "gpu" in targets else []
    report = _report(before, pictures, {one.graph.file: found for one, found in made})
    _write(before, [one for one, _ in made], report)
    return Quantized(report, pictures.unreadable)


class _GraphMaker:
    """Makes and measures the graphs of one bundle. folder: for temporary files"""

    def __init__(self, bundle: Bundle, pictures: Pictures, folder: Path) -> None:
        self._bundle, self._pictures, self._folder = bundle, pictures, folder
        self._graph = next(g for g in bundle.manifest.graphs if (g.role, g.precision) == ("similarity", "fp32"))
        self._path = bundle.folder / self._graph.file

    def int8(self, file: str, target: str) -> tuple[QuantizedGraph, GraphFidelity]:
        """Return the graph, all in int8 if that passes the report, or else with the most sensitive nodes left in fp32.

        The pictures of the report only decide whether nodes are left in fp32; which ones is decided on the others.
        """
        quantizer = Quantizer(self._path, self._calibration(target), target == "gpu")
        method = f"min-max over {len(self._pictures.calibration)} pictures, each whole and behind {MASKS_PER_PICTURE} masks"
        made = self._quantized(quantizer, file, target, ())
        found = self._fidelity(made, method)
        if not found.passes:
            made = self._tuned(quantizer, file, target)
            found = self._fidelity(made, method)
        return made, found

    def fp16(self) -> tuple[QuantizedGraph, GraphFidelity]:
        model = to_fp16(self._path)
        made = QuantizedGraph(self._graph_entry(model, FP16, "fp16", "gpu"), onnx_files.serialised(model))
        return made, self._fidelity(made, "none needed")

    def _tuned(self, quantizer: Quantizer, file: str, target: str) -> QuantizedGraph:
        """Return the fastest graph that is faithful on the tuning pictures, or else the one with most nodes in fp32."""
        comparison = self._comparison(self._pictures.calibration[:TUNING_PICTURES], TUNING_MASKS, TUNING_SEED)
        worst = self._worst_first(quantizer)
        best, speed_of_best = None, 0.0
        made = None
        for count in _doubling(len(worst) // 2):  # with more nodes in fp32 there is little left to gain
            made = self._quantized(quantizer, file, target, worst[:count])
            found = comparison.agreement(self._session(made), file)
            if min(found.mean, found.p10) < GOAL:
                continue
            if target == "gpu":  # this CPU cannot say which graph is faster on a GPU: take the one with fewest in fp32
                return made
            faster = self._speed(made)
            if faster > speed_of_best:
                best, speed_of_best = made, faster
        return best or made or self._quantized(quantizer, file, target, ())

    def _quantized(self, quantizer: Quantizer, file: str, target: str, kept: Sequence[str]) -> QuantizedGraph:
        model = quantizer.quantized(kept=kept)
        return QuantizedGraph(self._graph_entry(model, file, "int8", target), onnx_files.serialised(model), tuple(kept))

    def _fidelity(self, made: QuantizedGraph, calibration: str) -> GraphFidelity:
        found = self._held_out.agreement(self._session(made), made.graph.file)
        return GraphFidelity(
            embedding_cosine_mean=float(found.cosines.mean()),
            embedding_cosine_least=float(found.cosines.min()),
            map_correlation_mean=found.mean,
            map_correlation_p10=found.p10,
            map_correlation_least=float(found.correlations.min()),
            # a CPU without int8 instructions cannot measure the speed on one that has them, nor that on a GPU
            speed=self._speed(made) if made.graph.target == "cpu" and fast_int8() else None,
            calibration=calibration,
            kept_fp32=made.kept_fp32,
        )

    @functools.cached_property
    def _held_out(self) -> Fp32Comparison:
        return self._comparison(self._pictures.held_out, REPORT_MASKS, REPORT_SEED)

    def _worst_first(self, quantizer: Quantizer) -> list[str]:
        """Return the nodes, sorted by the error of the embedding if only that node is in int8, the largest error first."""
        comparison = self._comparison(self._pictures.calibration[:TUNING_PICTURES], SENSITIVITY_MASKS, TUNING_SEED)
        cosines = {}
        with progress_bar(quantizer.candidates(), "trying nodes") as names:
            for name in names:
                model = quantizer.quantized(only=[name])
                alone = QuantizedGraph(self._graph_entry(model, "alone.onnx", "int8", "any"), onnx_files.serialised(model))
                cosines[name] = comparison.agreement(self._session(alone), name).cosines.mean()
        return sorted(cosines, key=cosines.__getitem__)

    def _calibration(self, target: str) -> Iterator[np.ndarray]:
        """Give batches (n, ...) float32 to calibrate on: each picture whole, and behind masks of its own."""
        preprocessing = self._bundle.manifest.preprocessing
        with progress_bar(self._pictures.calibration, f"calibrating for {target}") as pictures:
            for seed, picture in enumerate(pictures):
                yield preprocessing.normalised(picture[None])
                plan = Rise(masks=MASKS_PER_PICTURE, estimator="sane", seed=seed).plan(picture)
                yield from masked.masked_batches(preprocessing, picture, plan)

    def _speed(self, made: QuantizedGraph) -> float:
        picture = self._pictures.held_out[0]
        plan = Rise(masks=masked.LARGEST_QUANTIZE_BATCH, estimator="sane").plan(picture)
        batch = next(masked.masked_batches(self._bundle.manifest.preprocessing, picture, plan))
        return speed(self._session(None, threads=1), self._session(made, threads=1), batch)

    def _comparison(self, pictures: list[np.ndarray], masks: int, seed: int) -> Fp32Comparison:
        return Fp32Comparison(self._session(None), self._bundle.manifest, pictures, masks, seed)

    def _session(self, made: QuantizedGraph | None, threads: int | None = None) -> Session:
        """Open a session on the CPU for a new graph, or for the fp32 graph if `made` is None."""
        path = self._path
        if made is not None:
            path = self._folder / made.graph.file
            path.write_bytes(made.content)
        manifest, graph = self._bundle.manifest, self._graph
        shape = manifest.preprocessing.input_shape
        signature = GraphSignature(graph.input, shape, graph.output, (manifest.embedding,))
        return Session(path, "cpu", threads, signature)

    def _graph_entry(self, model: onnx.ModelProto, file: str, precision: str, target: str) -> Graph:
        return Graph(file, "similarity", precision, target, onnx_files.opset(model), self._graph.input, self._graph.output)


def _report(bundle: Bundle, pictures: Pictures, graphs: dict[str, GraphFidelity]) -> Report:
    held_out = len(pictures.held_out)
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "onnx")}
    return Report(
        identity=bundle.identity,
        calibration_pictures=len(pictures.calibration),
        held_out_pictures=held_out,
        pairs=held_out * (held_out - 1),
        masks=REPORT_MASKS,
        seed=REPORT_SEED,
        measured_on="cpu",
        machine=platform.machine(),
        versions={**versions, "onnxruntime": ort.__version__},
        graphs=graphs,
    )


def _doubling(most: int) -> list[int]:
    """Return 1, 2, 4, ... below `most`, and `most` itself; nothing if it is 0."""
    return sorted({min(2**i, most) for i in range(most.bit_length() + 1)} - {0})


def _write(before: Bundle, made: list[QuantizedGraph], report: Report) -> None:
    stale = [g for g in before.manifest.graphs if g.role == "similarity" and g.precision != "fp32"]
    kept = tuple(g for g in before.manifest.graphs if g not in stale)
    manifest = dataclasses.replace(before.manifest, graphs=(*kept, *(m.graph for m in made)))
    with replacing(before.folder) as folder:
        copy_without(before, stale, folder)
        for one in made:
            (folder / one.graph.file).write_bytes(one.content)
        (folder / PRECISION).write_text(report.to_json(), encoding="utf-8")
        picture = before.canonical["picture"]
        canonical = {name: before.canonical[name] for name in ("picture", *(g.file for g in kept))}
        shape = (manifest.embedding,)
        canonical |= {m.graph.file: canonical_of(folder, m.graph, shape, manifest, picture) for m in made}
        finish(folder, manifest, None, canonical)
