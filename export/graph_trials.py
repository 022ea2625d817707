"""Make graphs of low precision and try them: all nodes in int8 first, then with some left in fp32, while the time lasts."""

import dataclasses
import functools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, TensorsData

from engine.bundle import Bundle
from engine.bundle.manifest import Graph
from engine.errors import ProviderError
from engine.methods.rise import Rise
from engine.protocol import GraphSignature, Runner
from engine.runtime.precision import fast_int8
from engine.runtime.providers import cpu_runtimes
from engine.runtime.session import Session
from export import masked, onnx_files
from export.errors import ExportError
from export.fidelity import Agreement, Fp32Comparison, GraphRuns, speed
from export.low_precision import Quantizer, measured_ranges, prepared, to_fp16
from export.masked import Pictures
from export.timekeeper import Timekeeper
from export.token_scaling import scaled_per_token

MASKS_PER_PICTURE = 7
"""Masks that each picture is calibrated behind, beside the whole picture."""
COMPARED_MASKS, MOST_COMPARED_MASKS, TUNING_MASKS = 256, 512, 128
"""Masks behind which a picture is compared: for the report the fewest that the engine runs by itself, where rounding is seen
most; half of them to choose a graph, which is stricter."""
CALIBRATION_SHARE, TUNING_SHARE = 0.2, 0.07
"""Most of the time limit for measuring value ranges, and for the fp32 graph's maps of the tuning pictures."""
LEAST_CALIBRATED, LEAST_TUNED, LEAST_COMPARED = 4, 1, 2
"""Pictures to calibrate on, to choose a graph by, and to mask for the report, however slow the network is."""
INT8_COST = 0.5
"""Cost of a pass in int8, as a share of one in fp32, if int8 gains anything worth having."""
TUNING_PICTURES, TUNING_SEED = 8, 2
REPORT_SEED = 1
PER_TOKEN = "; dynamic ranges, one per token, for the inputs of matrix products"
"""What the record of a calibration says of them."""


@dataclasses.dataclass(frozen=True)
class QuantizedGraph:
    """A graph of low precision. content: its file; calibration: how its value ranges were found

    kept_fp32: names of the nodes that stay in fp32; speed: CPU time of the fp32 graph divided by this graph's, None if this
    machine cannot tell
    """

    graph: Graph
    content: bytes
    calibration: str
    kept_fp32: tuple[str, ...] = ()
    speed: float | None = None


class GraphTrials:
    """Makes the graphs of one bundle, opens them and compares them with fp32. folder: for temporary files

    Raises ExportError if not even the shortest report fits in the time limit.
    """

    def __init__(self, bundle: Bundle, pictures: Pictures, folder: Path, keeper: Timekeeper) -> None:
        self._bundle, self._pictures, self._folder, self.keeper = bundle, pictures, folder, keeper
        self._graph = next(g for g in bundle.manifest.graphs if (g.role, g.precision) == ("similarity", "fp32"))
        self._path = bundle.folder / self._graph.file
        self.base = self.session(None)
        self.pass_seconds = self._pass_seconds()
        compared = (LEAST_TUNED * TUNING_MASKS + LEAST_COMPARED * COMPARED_MASKS) * (1 + INT8_COST)
        least = self.pass_seconds * (LEAST_CALIBRATED * (1 + MASKS_PER_PICTURE) + compared)
        if least > keeper.limit:
            raise ExportError(
                f"a pass of this network takes {self.pass_seconds:.2g} s here and the shortest report {least:.0f} s, but "
                f"the time limit is {keeper.limit:g} s: give --time-limit {10 * math.ceil(least / 5)}"
            )

    @property
    def has_tokens(self) -> bool:
        """Whether the bundle has graphs of tokens, which are quantized after the similarity graph."""
        return self._bundle.manifest.graph("tokens", "fp32", "cpu") is not None

    @functools.cached_property
    def model(self) -> onnx.ModelProto:
        """The fp32 graph, prepared for quantization."""
        return prepared(self._path)

    @functools.cached_property
    def tuning(self) -> Fp32Comparison:
        """Maps of the calibration pictures, on which graphs are chosen; the held-out pictures are for the report alone."""
        return self.comparison(self._pictures.calibration[:TUNING_PICTURES], TUNING_MASKS, TUNING_SEED)

    @functools.cached_property
    def tuning_queries(self) -> range:
        """The tuning pictures that are masked; all are references."""
        affordable = int(TUNING_SHARE * self.keeper.limit / (TUNING_MASKS * self.pass_seconds))
        return range(min(max(affordable, LEAST_TUNED), len(self._pictures.calibration), TUNING_PICTURES))

    def probe(self, pictures: int, masks: int, seed: int) -> Fp32Comparison:
        """Return a comparison on the first tuning pictures behind few masks."""
        return self.comparison(self._pictures.calibration[:pictures], masks, seed)

    @functools.cached_property
    def _ranges(self) -> tuple[TensorsData, int]:
        """The value ranges of all tensors, and on how many pictures there was time to measure them."""
        pictures, keeper = self._pictures.calibration, self.keeper
        stop, shown = keeper.spent + CALIBRATION_SHARE * keeper.limit, 0

        def in_time(pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
            nonlocal shown
            for picture in pictures:
                if shown >= LEAST_CALIBRATED and keeper.spent > stop:
                    return
                shown += 1
                yield picture

        keeper.say(f"measuring value ranges on {len(pictures)} pictures")
        with keeper.bar(pictures, "measuring value ranges") as bar:
            return measured_ranges(self.model, self._batches(in_time(bar))), shown

    @functools.cached_property
    def _token_ranges(self) -> tuple[onnx.ModelProto, TensorsData]:
        """The graph with a scale per token, and its value ranges. Scaled tokens are in [-1, 1]: few pictures are enough."""
        model = scaled_per_token(self.model)
        with self.keeper.bar(self._pictures.calibration[:LEAST_CALIBRATED], "measuring value ranges per token") as pictures:
            scaled = measured_ranges(model, self._batches(pictures))
        return model, TensorsData(CalibrationMethod.MinMax, {**scaled.data, **self._ranges[0].data})

    def comparison(self, pictures: Sequence[np.ndarray], masks: int, seed: int, most: int | None = None) -> Fp32Comparison:
        """Return a comparison with fp32 on these pictures. most: see there"""
        return Fp32Comparison(self.base, self._bundle.manifest, pictures, masks, seed, most)

    def agreement(self, made: QuantizedGraph) -> Agreement:
        """Compare a graph's maps of the tuning pictures with the fp32 graph's."""
        runs = self.tuning.runs(self.session(made))
        self._run_ahead([self.tuning.base, runs], f"comparing {made.graph.file}")
        return self.tuning.agreement(runs, self.tuning_queries)

    def quantizer(self, target: str, per_token: bool) -> tuple[Quantizer, str]:
        """Return what makes int8 graphs for a target, and how its value ranges were found.

        per_token: give the inputs of matrix products a dynamic range per token
        The ranges are measured once for all targets.
        """
        ranges, shown = self._ranges
        found = f"min-max over {shown} pictures, each whole and behind {MASKS_PER_PICTURE} masks"
        if not per_token:
            return Quantizer(self.model, ranges, target == "gpu"), found
        return Quantizer(*self._token_ranges, target == "gpu"), found + PER_TOKEN

    def whole_int8_speed(self) -> float:
        """Return the speed of the graph with all nodes in int8, before its value ranges are measured on many pictures."""
        ranges = measured_ranges(self.model, self._batches(self._pictures.calibration[:1]))
        made = self.made(Quantizer(self.model, ranges, False).quantized(), "speed.onnx", "int8", "cpu", "")
        return self.speed(made)

    def fp16(self, file: str) -> QuantizedGraph:
        """Return the graph in fp16."""
        return self.made(to_fp16(self._path), file, "fp16", "gpu", "none needed")

    def made(
        self, model: onnx.ModelProto, file: str, precision: str, target: str, calibration: str, kept: Iterable[str] = ()
    ) -> QuantizedGraph:
        """Return a graph as it would stand in the bundle, its speed not measured."""
        graph = Graph(file, "similarity", precision, target, onnx_files.opset(model), self._graph.input, self._graph.output)
        return QuantizedGraph(graph, onnx_files.serialised(model), calibration, tuple(kept))

    def speed(self, made: QuantizedGraph) -> float:
        """Return CPU time of the fp32 graph divided by this graph's, on one thread."""
        return speed(self.session(None, threads=1), self.session(made, threads=1), self._batch())

    def measurable(self, target: str) -> bool:
        """Whether speed can be measured here: not that on a GPU, nor on another CPU if this one has no int8 instructions."""
        return target == "cpu" and fast_int8()

    def session(self, made: QuantizedGraph | None, threads: int | None = None) -> Session:
        """Open a session on the CPU for a new graph, or for the fp32 graph if `made` is None."""
        path = self._path
        if made is not None:
            path = self._folder / made.graph.file
            path.write_bytes(made.content)
        return Session(path, "cpu", threads, self._signature)

    def bf16_session(self, threads: int | None = None) -> Runner | None:
        """Open the fp32 graph in bf16 on OpenVINO; None if that is not installed or this processor has no bf16."""
        if "openvino" not in cpu_runtimes():
            return None
        from engine.runtime.openvino_session import OpenVinoSession  # noqa: PLC0415 - an optional package

        try:
            return OpenVinoSession(self._path, "bf16", threads, self._signature)
        except ProviderError:
            return None

    def bf16_speed(self) -> float | None:
        """Return CPU time of the fp32 graph divided by that of bf16 on OpenVINO, on one thread; None if that is not here."""
        other = self.bf16_session(threads=1)
        return None if other is None else speed(self.session(None, threads=1), other, self._batch())

    @property
    def _signature(self) -> GraphSignature:
        manifest, graph = self._bundle.manifest, self._graph
        return GraphSignature(graph.input, manifest.preprocessing.input_shape, graph.output, (manifest.embedding,))

    def _run_ahead(self, graphs: Sequence[GraphRuns], what: str) -> None:
        """Run the passes of the tuning pictures under a progress bar."""
        with self.keeper.bar(self.tuning_queries, what) as queries:
            for query in queries:
                for runs in graphs:
                    runs.masked(query, TUNING_MASKS)

    def _batch(self) -> np.ndarray:
        """Return one batch (n, ...) float32 of a masked picture."""
        picture = self._pictures.calibration[0]
        plan = Rise(masks=masked.LARGEST_QUANTIZE_BATCH, estimator="sane").plan(picture)
        return next(masked.masked_batches(self._bundle.manifest.preprocessing, picture, plan))

    def _batches(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Give batches (n, ...) float32 to calibrate on: each picture whole, and behind masks of its own."""
        preprocessing = self._bundle.manifest.preprocessing
        for seed, picture in enumerate(pictures):
            yield preprocessing.normalised(picture[None])
            plan = Rise(masks=MASKS_PER_PICTURE, estimator="sane", seed=seed).plan(picture)
            yield from masked.masked_batches(preprocessing, picture, plan)

    def _pass_seconds(self) -> float:
        """Return the seconds of one pass of the fp32 graph on all cores."""
        batch, least = self._batch(), math.inf
        for _ in range(3):
            began = time.monotonic()
            self.base.run(batch)
            least = min(least, time.monotonic() - began)
        return least / len(batch)
