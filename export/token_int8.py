"""An int8 graph of a transformer's tokens for CPUs, kept only if its maps are those of fp32 and it is faster.

Every product of the blocks gets a range for each token of each row (`export.token_scaling`), so that neither the other rows
of a batch nor the tokens that are left out change a result.
"""

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx

from engine.bundle import Bundle
from engine.bundle.manifest import Graph, Manifest
from engine.bundle.report import GraphFidelity
from engine.methods.tokens import TokenPlan, Tokens
from engine.protocol import Runner
from engine.runtime.opening import tokens_on_cpu
from engine.runtime.token_network import TokenNetwork
from engine.runtime.token_tail import KEPT_INPUT, TOKENS_INPUT, TokenTail
from export import onnx_files
from export.fidelity import GraphRuns, MapComparison, speed
from export.graph_trials import COMPARED_MASKS, LEAST_COMPARED, PER_TOKEN, REPORT_SEED, GraphTrials, QuantizedGraph
from export.low_precision import Feeds, Quantizer, measured_ranges, prepared
from export.masked import Pictures
from export.timekeeper import Timekeeper
from export.token_scaling import scaled_per_token

TOKENS_INT8 = "tokens.int8-cpu.onnx"
PASSES_A_RUN = 8
"""Passes of one run."""
CALIBRATED = 8
"""Pictures to measure value ranges on: few are enough, since scaled inputs are in [-1, 1] for any picture."""


@dataclasses.dataclass(frozen=True)
class Int8Tokens:
    """What was found. made, fidelity: the graph to write and its report, None for none; remark: why there is none"""

    made: QuantizedGraph | None = None
    fidelity: GraphFidelity | None = None
    remark: str = ""


class TokenRuns(GraphRuns):
    """Embeddings of pictures of which only some tokens are kept; references are shown whole, to the similarity graph.

    network: of the same precision; plan: which tokens
    """

    def __init__(
        self, session: Runner, network: TokenNetwork, manifest: Manifest, pictures: Sequence[np.ndarray], plan: TokenPlan
    ) -> None:
        super().__init__(session, manifest, pictures, plan, len(plan))
        self._network, self._preprocessing = network, manifest.preprocessing
        self._pixels, self._tokens = pictures, plan

    def masked(self, query: int, masks: int) -> np.ndarray:
        """Return the embeddings (masks, D) float32 of one picture with the plan's first masks."""
        if query not in self._masked:
            image, count = self._preprocessing.normalised(self._pixels[query]), len(self._tokens)
            with self._network.stage(image, self._tokens.patches, PASSES_A_RUN) as stage:
                for first in range(0, count, PASSES_A_RUN):
                    stage.embed(first, min(PASSES_A_RUN, count - first))
                self._masked[query] = np.concatenate(stage.embeddings())
        return self._masked[query][:masks]


def int8_tokens(bundle: Bundle, pictures: Pictures, trials: GraphTrials, similarity: QuantizedGraph) -> Int8Tokens:
    """Make an int8 graph of the bundle's tokens, if it has such; compare its maps with fp32's while the time lasts.

    similarity: the int8 graph that shows references whole
    """
    graphs = [g for g in bundle.manifest.graphs if g.role in ("stem", "tokens") and g.precision == "fp32"]
    if len(graphs) != 2 or graphs[1].layout is None:
        return Int8Tokens()
    stem, before = graphs
    layout = graphs[1].layout
    trials.keeper.say("int8 for tokens: quantizing")
    stem_file, file = (bundle.folder / graph.file for graph in graphs)
    base = tokens_on_cpu(stem_file, file, bundle.manifest, (stem, before), None)
    plan = Tokens(masks=COMPARED_MASKS, seed=REPORT_SEED).plan(layout.rows, layout.columns)
    feeds = list(_feeds(bundle.manifest, base, pictures.calibration[:CALIBRATED], plan))
    quantized = _quantized(file, feeds)
    graph = dataclasses.replace(before, file=TOKENS_INT8, precision="int8", target="cpu", opset=onnx_files.opset(quantized))
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / TOKENS_INT8
        new.write_bytes(onnx_files.serialised(quantized))
        gain = speed(_OneThread(file, before, feeds[0]), _OneThread(new, graph, feeds[0]), feeds[0][KEPT_INPUT])
        trials.keeper.say(f"int8 for tokens: {gain:.2f} times as fast as fp32")
        if gain <= 1:
            return Int8Tokens(remark=f"left out, because int8 is only {gain:.2f} times as fast as fp32 on this processor")
        other = tokens_on_cpu(stem_file, new, bundle.manifest, (stem, graph), None)
        sessions = (trials.base, base), (trials.session(similarity), other)
        runs = [TokenRuns(session, network, bundle.manifest, pictures.held_out, plan) for session, network in sessions]
        made = QuantizedGraph(graph, new.read_bytes(), f"min-max over {len(feeds)} pictures{PER_TOKEN}", (), gain)
        return _judged(made, runs, bundle.manifest, len(pictures.held_out), trials.keeper)


def _quantized(file: Path, feeds: list[Feeds]) -> onnx.ModelProto:
    model = scaled_per_token(prepared(file))
    return Quantizer(model, measured_ranges(model, feeds), gpu=False).quantized()


def canonical_tokens(folder: Path, graph: Graph, manifest: Manifest, picture: np.ndarray) -> np.ndarray:
    """Return the canonical result of a graph of tokens in `folder`, beside its stem, for `picture` (H, W, 3) uint8."""
    stem = next(g for g in manifest.graphs if g.role == "stem")
    network = tokens_on_cpu(folder / stem.file, folder / graph.file, manifest, (stem, graph), None)
    return network.canonical(manifest.preprocessing.normalised(picture))


def _judged(
    made: QuantizedGraph, runs: list[TokenRuns], manifest: Manifest, pictures: int, keeper: Timekeeper
) -> Int8Tokens:
    """Compare the maps of as many of the held-out pictures as there is time for. runs: of fp32, and of the graph"""
    compared = 0
    with keeper.bar(range(pictures), "comparing maps of tokens") as queries:
        for query in queries:
            if compared >= LEAST_COMPARED and keeper.left <= 0:
                break
            for one in runs:
                one.masked(query, COMPARED_MASKS)
            compared += 1
    found = MapComparison(runs[0], manifest, COMPARED_MASKS).agreement(runs[1], range(compared))
    fidelity = found.reported(made.speed, f"{made.calibration}; maps of {compared} held-out pictures compared, halves kept")
    keeper.say(f"int8 for tokens: {fidelity}")
    return Int8Tokens(made, fidelity) if fidelity.passes else Int8Tokens(remark=f"left out: {fidelity}")


def _feeds(manifest: Manifest, network: TokenNetwork, pictures: Sequence[np.ndarray], plan: TokenPlan) -> Iterator[Feeds]:
    """Give what the graph takes for each picture: all its tokens, and which some passes keep, others for each picture."""
    for i, picture in enumerate(pictures):
        with network.stage(manifest.preprocessing.normalised(picture), plan.patches, PASSES_A_RUN) as stage:
            yield {TOKENS_INPUT: stage.tokens, KEPT_INPUT: stage.rows(PASSES_A_RUN * i % len(plan), PASSES_A_RUN)}


class _OneThread:
    """A graph of tokens as `export.fidelity.speed` runs it: batches are the kept indices. feeds: the tokens"""

    def __init__(self, path: Path, graph: Graph, feeds: Feeds) -> None:
        self._tail, self._tokens = TokenTail(path, graph.precision, 1, graph.output), feeds[TOKENS_INPUT]

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self._tail.run(self._tokens, batch)
