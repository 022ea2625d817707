"""Other explainers on the same network: captum, xaitk-saliency and dianna, each with the best batch size.

Every peer gets the network as a function of a batch, which runs in PyTorch eager mode, as its users have it, or in ONNX
Runtime with the engine's settings; then only the peer's own work differs. No peer takes masks from outside: each draws its
own, of the same kind and number.
"""

import contextlib
import dataclasses
import functools
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import dianna
import numpy as np
import onnx
import onnxruntime
import torch
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import KernelShap, Lime, Occlusion
from onnx import TensorProto, helper
from smqtk_descriptors.interfaces.image_descriptor_generator import ImageDescriptorGenerator
from torch import Tensor
from torch.nn import functional as F
from xaitk_saliency.impls.gen_descriptor_sim_sal.similarity_scoring import SimilarityScoring
from xaitk_saliency.impls.gen_image_similarity_blackbox_sal.occlusion_based import PerturbationOcclusion
from xaitk_saliency.impls.gen_image_similarity_blackbox_sal.sbsm import SBSMStack
from xaitk_saliency.impls.perturb_image.rise import RISEGrid

from benchmarks.published import fastest_batch
from engine.pictures.preprocessing import Preprocessing

GRID = 8
WINDOW = 2 / 7
"""Side of an occluding window as a share of the picture's side, as in the paper."""
Embed = Callable[[Tensor], Tensor]
"""(n, 3, S, S) float32 -> (n, D) float32."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """A query and a reference to explain. query, reference: (S, S, 3) uint8 as the network sees them; embed: the network"""

    query: np.ndarray
    reference: np.ndarray
    preprocessing: Preprocessing
    embed: Embed

    def normalised(self, pixels: np.ndarray) -> Tensor:
        """Return pictures (..., S, S, 3) uint8 as the network takes them, (..., 3, S, S) float32."""
        return torch.from_numpy(self.preprocessing.normalised(pixels))

    def similarity(self, rows: Tensor) -> Tensor:
        """Return the cosines (n,) of pictures (n, 3, S, S) with the reference."""
        return F.cosine_similarity(self.embed(rows), self.target)

    @functools.cached_property
    def batch(self) -> int:
        """The fastest batch size of the network."""
        return fastest_batch(self.embed, self.normalised(self.query))

    @functools.cached_property
    def target(self) -> Tensor:
        """The reference's embedding, (1, D)."""
        return self.embed(self.normalised(self.reference)[None])


def onnx_runtime(graph: Path) -> Embed:
    """Return the bundle's fp32 graph in ONNX Runtime, with as many threads as the engine has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    (given,), (wanted,) = session.get_inputs(), session.get_outputs()

    def embed(rows: Tensor) -> Tensor:
        return torch.from_numpy(session.run([wanted.name], {given.name: rows.detach().numpy()})[0])

    return embed


def captum_occlusion(pair: Pair, passes: int) -> np.ndarray:
    """Return the map (S, S) of windows on a lattice of at most `passes` places."""
    size, window, stride = lattice(pair, passes)
    rows = pair.normalised(pair.query)[None]
    shape, strides = (3, window, window), (3, stride, stride)
    found = Occlusion(pair.similarity).attribute(rows, shape, strides, baselines=0, perturbations_per_eval=pair.batch)
    return found[0].mean(0).numpy().reshape(size, size)


def captum_kernel_shap(pair: Pair, passes: int) -> np.ndarray:
    """Return the map (S, S) of KernelShap over 8 x 8 tiles."""
    return _tiles(pair, KernelShap(pair.similarity), passes)


def captum_lime(pair: Pair, passes: int) -> np.ndarray:
    """Return the map (S, S) of Lime over 8 x 8 tiles.

    It uses the ridge regression of the `lime` package: with captum's lasso all weights of a cosine would be 0.
    """
    return _tiles(pair, Lime(pair.similarity, interpretable_model=SkLearnRidge(alpha=1.0)), passes)


def xaitk_rise(pair: Pair, passes: int) -> np.ndarray:
    """Return the map (S, S) of RISEGrid, with similarity scoring by cosine."""
    generator = PerturbationOcclusion(RISEGrid(passes, GRID, 0.5, seed=0), SimilarityScoring("cosine"), _mean(pair))
    return generator.generate(pair.query, [pair.reference], Generator(pair))[0]


def xaitk_sbsm(pair: Pair, passes: int) -> np.ndarray:
    """Return the map (S, S) of SBSM: windows on a lattice of at most `passes` places."""
    _, window, stride = lattice(pair, passes, outside=True)
    generator = SBSMStack((window, window), (stride, stride), "cosine", _mean(pair))
    return generator.generate(pair.query, [pair.reference], Generator(pair))[0]


def dianna_rise(pair: Pair, passes: int) -> np.ndarray:
    """Return the map (S, S) of RISE, with a function as the model, so that the session stays open."""
    return _dianna(lambda rows: pair.similarity(torch.from_numpy(rows)).numpy()[:, None], pair, passes)


def dianna_on_file(graph: Path, pair: Pair, passes: int) -> np.ndarray:
    """Return the map (S, S) of RISE, with an ONNX file as dianna documents it; it opens the file again for every batch."""
    return _dianna(str(graph), pair, passes)


PEERS: dict[str, Callable[[Pair, int], np.ndarray]] = {
    "captum Occlusion": captum_occlusion,
    "captum KernelShap": captum_kernel_shap,
    "captum Lime": captum_lime,
    "xaitk RISEGrid": xaitk_rise,
    "xaitk SBSM": xaitk_sbsm,
    "dianna RISE": dianna_rise,
}


def places(name: str, pair: Pair, passes: int) -> int:
    """Return the passes that a peer really runs if it is asked for `passes`: a lattice of windows has a square number."""
    if name not in ("captum Occlusion", "xaitk SBSM"):
        return passes
    size, window, stride = lattice(pair, passes, outside=name == "xaitk SBSM")
    return math.ceil(size / stride) ** 2 if name == "xaitk SBSM" else (math.ceil((size - window) / stride) + 1) ** 2


def lattice(pair: Pair, passes: int, outside: bool = False) -> tuple[int, int, int]:
    """Return the side of the picture, the side of the window, and the smallest stride that needs at most `passes` places.

    outside: windows may reach beyond the picture, as those of SBSM do
    """
    size = pair.preprocessing.height
    window = round(WINDOW * size)
    for stride in range(1, size):
        across = math.ceil(size / stride) if outside else math.ceil((size - window) / stride) + 1
        if across**2 <= passes:
            return size, window, stride
    raise ValueError(f"no lattice has at most {passes} places")


def scored(graph: Path, pair: Pair, out: Path) -> Path:
    """Write the similarity graph with the cosine to the pair's reference added, (n, 1), as dianna needs it."""
    model = onnx.load(graph)
    name = model.graph.output[0].name
    target = F.normalize(pair.target).numpy().T  # (D, 1)
    axis = helper.make_tensor("peer_axis", TensorProto.INT64, [1], [1])
    column = helper.make_tensor("peer_target", TensorProto.FLOAT, target.shape, target.ravel())
    model.graph.initializer.extend([axis, column])
    model.graph.node.extend(
        [
            helper.make_node("ReduceL2", [name, "peer_axis"], ["peer_norm"]),
            helper.make_node("Div", [name, "peer_norm"], ["peer_unit"]),
            helper.make_node("MatMul", ["peer_unit", "peer_target"], ["score"]),
        ]
    )
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1]))
    onnx.save(model, out)
    return out


class Generator(ImageDescriptorGenerator):
    """The network as a black box for xaitk."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    def generate_arrays_from_images(self, img_mat_iter: Iterable[np.ndarray | None]) -> Iterator[np.ndarray]:
        pictures = np.asarray(list(img_mat_iter))
        for start in range(0, len(pictures), self._pair.batch):
            yield from self._pair.embed(self._pair.normalised(pictures[start : start + self._pair.batch])).numpy()

    def get_config(self) -> dict[str, Any]:
        return {}


def _tiles(pair: Pair, explainer: Lime, passes: int) -> np.ndarray:
    size = pair.preprocessing.height
    tile = np.arange(size) * GRID // size
    mask = torch.from_numpy(tile[:, None] * GRID + tile)[None, None]
    rows = pair.normalised(pair.query)[None]
    options = {"feature_mask": mask, "n_samples": passes, "perturbations_per_eval": pair.batch}
    torch.manual_seed(0)
    return explainer.attribute(rows, baselines=0, **options)[0].mean(0).numpy()


def _dianna(model: object, pair: Pair, passes: int) -> np.ndarray:
    np.random.seed(0)  # noqa: NPY002 - dianna draws from numpy's global generator
    rows = pair.preprocessing.normalised(pair.query)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(io.StringIO()):
        # dianna would run 900 more passes to find p_keep
        options = {"n_masks": passes, "p_keep": 0.5, "batch_size": pair.batch, "axis_labels": {0: "channels"}}
        return np.asarray(dianna.explain_image(model, rows, "RISE", labels=[0], **options))[0]


def _mean(pair: Pair) -> list[int]:
    """Return the mean colour, which hidden pixels have in the engine too."""
    return [round(255 * m) for m in pair.preprocessing.mean]
