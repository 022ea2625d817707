"""Insertion and deletion: how the similarity changes when the most salient pixels are shown, or hidden, first."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from engine.bundle.manifest import Condition
from engine.errors import OptionError
from engine.explainer import Explainer
from engine.passes import MaskedPasses
from engine.pictures.loading import ImageLike
from engine.protocol import require_whole, silent
from engine.references import References
from kernels.rank import RankRenderer

WHITE = (255, 255, 255)
CURVE_STEPS = 101


@dataclasses.dataclass(frozen=True, eq=False)
class InsertionDeletion:
    """The two curves of one map, and the areas under them.

    insertion_scores: (steps,) float64, similarities to the whole reference when only the most salient 0% to 100% of the
        pixels (at least one) are shown, on the background
    deletion_scores: (steps,) float64, the same when these pixels are hidden by the background
    insertion_auc (higher is better), deletion_auc (lower is better): areas under the curves, see `area`
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
    saliency: (H, W) float or int over the query as the network sees it; only the order of its values counts, and equal
        values count in row-major order
    background: RGB, 0..255, of pixels that are not shown
    steps: points of each curve; condition: index or name

    Raises ImageError if a picture cannot be used, OptionError for other values out of range.
    """
    model = explainer.model
    preprocessing = model.preprocessing
    height, width = preprocessing.height, preprocessing.width
    saliency = np.asarray(saliency)
    if saliency.shape != (height, width) or saliency.dtype.kind not in "fiu" or not np.isfinite(saliency).all():
        raise OptionError(
            f"a map must be finite numbers ({height}, {width}), like the picture that the network sees; "
            f"got {saliency.dtype} {saliency.shape}"
        )
    require_whole("steps", steps, 2, height * width + 1)
    colour = _colour(background)
    (chosen,) = model.conditions(condition, 1)
    pixels = model.picture(query).pixels
    embeddings = References.embedded(model, [reference]).embeddings
    counts, inserted = _counts(steps, height * width)
    renderer, last = RankRenderer(ranks(saliency), counts, inserted), preprocessing.layout == "nhwc"
    image, hidden = (preprocessing.normalised(p) for p in (pixels, np.broadcast_to(colour, pixels.shape)))
    passes = MaskedPasses(model.similarity.stage(renderer, image, hidden, last, model.run_settings.batch))
    masked = np.concatenate(passes.run(0, len(counts), None, silent, len(counts)))
    scores = model.query_features(masked, chosen) @ model.reference_features(embeddings, chosen)[0]
    insertion, deletion = scores[inserted], scores[~inserted]
    return InsertionDeletion(insertion, deletion, area(insertion), area(deletion))


def area(scores: np.ndarray) -> float:
    """Return the area, by trapezoids, under a curve (steps,) that is `scaled` to [0, 1] both ways; 0 if it is constant."""
    return float(np.trapezoid(scaled(scores), dx=1 / (len(scores) - 1)))


def scaled(scores: np.ndarray) -> np.ndarray:
    """Return a curve (steps,) scaled so that its values go from 0 to 1; zeros if it is constant."""
    shifted = scores - scores.min()
    highest = shifted.max()
    return shifted / highest if highest > 0 else shifted


def ranks(saliency: np.ndarray) -> np.ndarray:
    """(H, W) -> (H, W) int64 ranks: 0 for the most salient pixel; equal ones in row-major order."""
    order = np.argsort(-saliency.astype(np.float64).ravel(), kind="stable")
    found = np.empty(order.size, np.int64)
    found[order] = np.arange(order.size)
    return found.reshape(saliency.shape)


def _counts(steps: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each mask how many pixels it shows or hides, and whether it shows them: (2 * steps,) int64 and bool."""
    counts = np.maximum(np.round(np.linspace(0, 1, steps) * pixels), 1).astype(np.int64)
    return np.tile(counts, 2), np.repeat([True, False], steps)


def _colour(background: Sequence[int]) -> np.ndarray:
    """Return the colour as (3,) uint8. Raises OptionError if it is not one."""
    values = list(background) if isinstance(background, Sequence) else []
    if len(values) != 3 or any(isinstance(v, bool) or not isinstance(v, int) or not 0 <= v <= 255 for v in values):
        raise OptionError(f"background must be three whole numbers from 0 to 255, got {background!r}")
    return np.array(values, np.uint8)
