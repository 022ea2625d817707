"""Insertion and deletion: how the similarity changes as the most salient pixels are shown, or hidden, first."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from engine.errors import OptionError
from engine.explainer import Explainer
from engine.model import Condition
from engine.passes import MaskedPasses
from engine.pictures.loading import ImageLike
from engine.protocol import require_whole, silent
from kernels.rank import RankRenderer

WHITE = (255, 255, 255)
CURVE_STEPS = 101


@dataclasses.dataclass(frozen=True, eq=False)
class InsertionDeletion:
    """insertion_scores, deletion_scores: (steps,) float64, raw similarities to the whole reference as the most salient
    0% to 100% of the pixels, one at least, are shown on the background alone, or hidden by it

    insertion_auc (higher is better), deletion_auc (lower is better): area under the curve, see `area`
    """

    insertion_scores: np.ndarray
    deletion_scores: np.ndarray
    insertion_auc: float
    deletion_auc: float


def insertion_deletion(
    explainer: Explainer,
    query: ImageLike,
    reference: ImageLike,
    saliency: np.ndarray,
    background: Sequence[int] = WHITE,
    steps: int = CURVE_STEPS,
    *,
    condition: Condition = None,
) -> InsertionDeletion:
    """Judge a map by the model itself, in `2 * steps` passes of the hot loop (docs/method.md, Insertion and deletion).

    query: a path, a PIL image or a uint8 RGB array; reference: the same or an embedding (D,) float32
    saliency: (H, W) float over the query as the network sees it; only the order of its values counts, equal ones in
        row-major order
    background: RGB, 0..255, of pixels that are not shown

    Raises ImageError, OptionError.
    """
    model = explainer.model
    preprocessing = model.preprocessing
    height, width = preprocessing.height, preprocessing.width
    saliency = np.asarray(saliency)
    if saliency.shape != (height, width) or saliency.dtype.kind not in "fiu" or not np.isfinite(saliency).all():
        raise OptionError(
            f"the network sees {height} x {width} pixels, a map must be finite numbers ({height}, {width}); "
            f"got {saliency.dtype} {saliency.shape}"
        )
    require_whole("steps", steps, 2, height * width + 1)
    colour = _colour(background)
    (chosen,) = model.conditions(condition, 1)
    pixels = model.picture(query).pixels
    _, embeddings = model.references([reference])
    counts, inserted = _counts(steps, height * width)
    passes = MaskedPasses(
        model.similarity,
        RankRenderer(ranks(saliency), counts, inserted),
        preprocessing,
        preprocessing.normalised(pixels),
        preprocessing.normalised(np.broadcast_to(colour, pixels.shape)),
        model.run_settings.batch,
    )
    masked = np.concatenate(passes.run(0, len(counts), None, silent, len(counts)))
    scores = model.query_features(masked, chosen) @ model.reference_features(embeddings, chosen)[0]
    insertion, deletion = scores[inserted], scores[~inserted]
    return InsertionDeletion(insertion, deletion, area(insertion), area(deletion))


def area(scores: np.ndarray) -> float:
    """Under a curve (steps,) over [0, 1] by trapezoids, its least value as 0 and its largest as 1; 0 if it is constant."""
    return float(np.trapezoid(scaled(scores), dx=1 / (len(scores) - 1)))


def scaled(scores: np.ndarray) -> np.ndarray:
    """(steps,) from 0 to 1."""
    shifted = scores - scores.min()
    highest = shifted.max()
    return shifted / highest if highest > 0 else shifted


def ranks(saliency: np.ndarray) -> np.ndarray:
    """(H, W) -> (H, W) int: 0 for the most salient pixel; of equal ones the first in row-major order comes first."""
    order = np.argsort(-saliency.astype(np.float64).ravel(), kind="stable")
    found = np.empty(order.size, np.int64)
    found[order] = np.arange(order.size)
    return found.reshape(saliency.shape)


def _counts(steps: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each mask (2 * steps,): how many pixels it shows or hides, and whether it shows them."""
    counts = np.maximum(np.round(np.linspace(0, 1, steps) * pixels), 1).astype(np.int64)
    return np.tile(counts, 2), np.repeat([True, False], steps)


def _colour(background: Sequence[int]) -> np.ndarray:
    """(3,) uint8."""
    values = list(background) if isinstance(background, Sequence) else []
    if len(values) != 3 or any(isinstance(v, bool) or not isinstance(v, int) or not 0 <= v <= 255 for v in values):
        raise OptionError(f"background must be three whole numbers from 0 to 255, got {background!r}")
    return np.array(values, np.uint8)
