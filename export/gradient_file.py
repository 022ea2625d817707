"""The gradient graph of a bundle that is being written: verified and kept, or left out with one line that says why."""

from pathlib import Path

import numpy as np

from engine.bundle.manifest import Graph, Manifest
from engine.errors import EngineError
from engine.protocol import GraphSignature
from engine.runtime.gradient_session import GradientSession
from engine.runtime.opening import canonical_gradient
from engine.terminal import notice
from export import onnx_files
from export.gradient import with_gradient
from export.gradient_check import require_same, runner_gradient, verify
from export.light_graph import LightGraph

GRADIENT_FILE = "gradient.fp32.onnx"


def add_gradient(folder: Path, manifest: Manifest, canonical: dict[str, np.ndarray], pictures: np.ndarray) -> Graph | None:
    """Write the gradient of the similarity graph in `folder`, add its canonical result, and return its entry.

    If it cannot be made, or is not right, write nothing, say why on standard error, and return None.

    manifest: of the bundle so far, with the similarity graph; canonical: the picture and that graph's result, as in
    `export.write.finish`; pictures: (n, H, W, 3) uint8, to verify it on
    """
    base, path = manifest.base, folder / GRADIENT_FILE
    picture, embedding = canonical["picture"], canonical[base.file]
    target, before = np.roll(embedding, 1)[None], set(folder.iterdir())
    try:
        opset, expected = _write_verified(folder / base.file, manifest, pictures, (picture, target), path)
        signature = GraphSignature(base.input, manifest.preprocessing.input_shape, base.output, (manifest.embedding,))
        session = GradientSession(path, "cpu", None, signature)
        got = session.run(manifest.preprocessing.normalised(picture[None]), target, np.ones_like(target))[1]
        require_same(got, expected, f"{GRADIENT_FILE}, as ONNX Runtime loads it,")
        canonical[GRADIENT_FILE] = canonical_gradient(session, manifest, picture, embedding)
    except EngineError as error:
        for file in set(folder.iterdir()) - before:
            file.unlink()
        notice(f"warning: the bundle is written without its gradient, so it serves every method but mask: {error}")
        return None
    return Graph(GRADIENT_FILE, "gradient", "fp32", "any", opset, base.input, base.output)


def _write_verified(
    base: Path, manifest: Manifest, pictures: np.ndarray, example: tuple[np.ndarray, np.ndarray], path: Path
) -> tuple[int, np.ndarray]:
    """Write the gradient's graph if it is right; return its opset, and its gradient for the example's picture and target."""
    light = LightGraph.of(onnx_files.read_model(base))
    added = with_gradient(light, manifest.metric)
    gradient, normalised = runner_gradient(added), manifest.preprocessing.normalised
    verify(gradient, light, manifest.metric, normalised(pictures))
    added.write(path)
    picture, target = example
    return onnx_files.opset(added.model), gradient(normalised(picture[None]), target, np.ones_like(target))[1]
