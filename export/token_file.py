"""The graphs of method tokens, in a bundle that is being written: verified and kept, or left out with the reason."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx

from engine.bundle.manifest import Graph, Manifest
from engine.errors import EngineError
from engine.runtime.opening import tokens_on_cpu
from engine.runtime.token_tail import TOKENS_INPUT
from engine.terminal import notice
from export import onnx_files
from export.light_graph import LightGraph
from export.token_check import verify_tokens
from export.token_graph import NoPatchesError, TokenGraphs, cut

STEM_FILE, TOKENS_FILE = "stem.fp32.onnx", "tokens.fp32.onnx"


def add_tokens(
    folder: Path, model: onnx.ModelProto, manifest: Manifest, canonical: dict[str, np.ndarray], pictures: np.ndarray
) -> tuple[Graph, ...]:
    """Write a vision transformer's graphs of tokens into `folder`, add their canonical results, and return their entries.

    The weights are written beside the similarity graph then, once for all of these graphs. If the tokens cannot be left out,
    write nothing and return (); say why on standard error, unless the network has no patches at all.

    manifest: of the bundle so far, with the similarity graph; canonical: the picture and that graph's result, as in
    `export.write.finish`; pictures: (n, H, W, 3) uint8, to verify the graphs on
    """
    preprocessing = manifest.preprocessing
    last = preprocessing.layout == "nhwc"
    try:
        graphs = cut(model, last)
        verify_tokens(graphs, LightGraph.of(model), preprocessing.normalised(pictures), last)
    except NoPatchesError:
        return ()
    except EngineError as error:
        notice(f"the bundle is written without method tokens: {error}")
        return ()
    entries = _write(folder, model, manifest, graphs)
    network = tokens_on_cpu(folder / STEM_FILE, folder / TOKENS_FILE, manifest, entries, None)
    image, layout = preprocessing.normalised(canonical["picture"]), graphs.layout
    canonical |= {STEM_FILE: network.canonical_stem(image), TOKENS_FILE: network.canonical(image)}
    notice(f"the bundle serves method tokens too: {layout.rows} x {layout.columns} tokens can be left out")
    return entries


def _write(folder: Path, model: onnx.ModelProto, manifest: Manifest, graphs: TokenGraphs) -> tuple[Graph, Graph]:
    similarity = folder / manifest.base.file
    onnx_files.write_model(model, similarity, 0)
    places = onnx_files.places_beside(similarity)
    base, opset = manifest.base, onnx_files.opset(model)
    for light, file in ((graphs.stem, STEM_FILE), (graphs.tail, TOKENS_FILE)):
        (folder / file).write_bytes(onnx_files.serialised(light.referring(places)))
    stem = Graph(STEM_FILE, "stem", "fp32", "any", opset, base.input, graphs.stem.model.graph.output[0].name)
    return stem, dataclasses.replace(
        stem, file=TOKENS_FILE, role="tokens", input=TOKENS_INPUT, output=base.output, layout=graphs.layout
    )
