"""The gradient graph of a bundle that is being written: verified and kept, or left out with one line that says why."""

from pathlib import Path

import numpy as np
import onnx

from engine.bundle.manifest import Graph, Manifest
from engine.errors import EngineError
from engine.protocol import GraphSignature
from engine.runtime.gradient_session import GradientSession
from engine.runtime.opening import canonical_gradient
from engine.terminal import notice
from export import onnx_files
from export.gradient import with_gradient
from export.gradient_check import verify
from export.light_graph import LightGraph

GRADIENT_FILE = "gradient.fp32.onnx"


def add_gradient(
    folder: Path, model: onnx.ModelProto, manifest: Manifest, canonical: dict[str, np.ndarray], pictures: np.ndarray
) -> Graph | None:
    """Write the gradient of a similarity graph into `folder`, add its canonical result, and return its entry.

    If it cannot be made, or is not right, write nothing, say why on standard error, and return None.

    manifest: of the bundle so far, with the similarity graph; canonical: the picture and that graph's result, as in
    `export.write.finish`; pictures: (n, H, W, 3) uint8, to verify it on
    """
    base, preprocessing, path = manifest.base, manifest.preprocessing, folder / GRADIENT_FILE
    before = set(folder.iterdir())
    try:
        light = LightGraph.of(model)
        whole = with_gradient(light, manifest.metric)
        graph = Graph(GRADIENT_FILE, "gradient", "fp32", "any", onnx_files.opset(whole), base.input, base.output)
        onnx_files.write_model(whole, path)
        del whole  # as large as the model
        signature = GraphSignature(base.input, preprocessing.input_shape, base.output, (manifest.embedding,))
        session = GradientSession(path, "cpu", None, signature)
        verify(session.run, light, manifest.metric, preprocessing.normalised(pictures))
        found = canonical_gradient(session, manifest, canonical["picture"], canonical[base.file])
    except EngineError as error:
        for file in set(folder.iterdir()) - before:
            file.unlink()
        notice(f"warning: the bundle is written without its gradient, so method mask is not available: {error}")
        return None
    canonical[GRADIENT_FILE] = found
    return graph
