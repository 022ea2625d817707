"""Whether a map finds the planted object, and how similarity changes as pixels or tokens go: for `benchmarks.tokens`."""

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.planted_pairs import Place
from engine import Explainer
from engine.evaluate.curves import area, ranks
from engine.passes import MaskedPasses
from engine.protocol import silent
from kernels.rank import RankRenderer

STEPS = 11
"""Points of a curve."""
BLUR = 10
"""Radius in pixels of the Gaussian blur that a hidden pixel shows."""


def pointing(saliency: np.ndarray, place: Place) -> float:
    """1 if the map's maximum lies in the object's box, else 0. saliency: (H, W) float32"""
    return float(_inside(saliency, place).flat[int(saliency.argmax())])


def auroc(saliency: np.ndarray, place: Place) -> float:
    """Probability that a pixel of the object's box has more saliency than one outside it. saliency: (H, W) float32"""
    box = _inside(saliency, place)
    order = np.empty(saliency.size)
    order[np.argsort(np.concatenate([saliency[box], saliency[~box]]), kind="stable")] = np.arange(saliency.size)
    count = int(box.sum())
    return float((order[:count].sum() - count * (count - 1) / 2) / (count * (saliency.size - count)))


def fills(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """What hidden pixels become, (H, W, 3) uint8 each: white, the picture's mean colour, and the picture blurred."""
    blurred = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(BLUR))
    mean = pixels.mean((0, 1)).round().astype(np.uint8)
    return {
        "white": np.full_like(pixels, 255),
        "mean": np.broadcast_to(mean, pixels.shape),
        "blur": np.asarray(blurred),
    }


def insertion_less_deletion(
    explainer: Explainer, pixels: np.ndarray, fill: np.ndarray, saliency: np.ndarray, reference: np.ndarray
) -> float:
    """Area under insertion less that under deletion, of curves scaled as `engine.evaluate.insertion_deletion` does.

    pixels, fill: (H, W, 3) uint8; saliency: (H, W) float32; reference: (D,) float32, the reference's embedding
    """
    model, preprocessing = explainer.model, explainer.model.preprocessing
    counts = np.maximum(np.linspace(0, 1, STEPS) * saliency.size, 1).round().astype(np.int64)
    renderer = RankRenderer(ranks(saliency), np.tile(counts, 2), np.repeat([True, False], STEPS))
    image, hidden = (preprocessing.normalised(shown) for shown in (pixels, fill))
    stage = model.similarity.stage(renderer, image, hidden, preprocessing.layout == "nhwc", model.run_settings.batch)
    embeddings = np.concatenate(MaskedPasses(stage).run(0, 2 * STEPS, None, silent, 2 * STEPS))
    return _difference(explainer, embeddings, reference)


def without_tokens(explainer: Explainer, pixels: np.ndarray, saliency: np.ndarray, reference: np.ndarray) -> float:
    """The same with tokens left out instead of pixels painted; a token's saliency is its pixels' mean. See above."""
    network, image = explainer.model.tokens(), explainer.model.preprocessing.normalised(pixels)
    rows, columns = network.layout.rows, network.layout.columns
    height, width = saliency.shape
    of_tokens = saliency.reshape(rows, height // rows, columns, width // columns).mean((1, 3)).ravel()
    order = np.argsort(-of_tokens, kind="stable")
    counts = np.maximum(np.linspace(0, 1, STEPS) * len(order), 1).round().astype(int)
    shown = [order[:n] for n in counts] + [order[min(n, len(order) - 1) :] for n in counts]
    embeddings = []
    for kept in shown:
        with network.stage(image, lambda _start, _stop, kept=kept: np.sort(kept)[None], 1) as stage:
            stage.embed(0, 1)
            embeddings.append(stage.embeddings()[0][0])
    return _difference(explainer, np.stack(embeddings), reference)


def _difference(explainer: Explainer, embeddings: np.ndarray, reference: np.ndarray) -> float:
    model = explainer.model
    scores = model.query_features(embeddings, None) @ model.reference_features(reference[None], None)[0]
    return area(scores[:STEPS]) - area(scores[STEPS:])


def _inside(saliency: np.ndarray, place: Place) -> np.ndarray:
    box = np.zeros(saliency.shape, bool)
    box[place[1] : place[3], place[0] : place[2]] = True
    return box
