"""Is the gradient that a graph gives the gradient of its similarity? Differences along directions tell.

Networks have kinks (ReLU, max pooling): a step across one tells nothing. So the steps are tiny, in float64; each difference
is believed only if a longer and a shorter step give the same; and most of the directions decide, not each.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from engine.runtime.gradient_session import GRADIENT_OUTPUT, SIMILARITY_OUTPUT, TARGET_INPUT, WEIGHTS_INPUT
from engine.saliency.similarity import query_features, reference_features
from export.errors import ExportError
from export.float64_graph import Float64Graph
from export.light_graph import LightGraph

PICTURES = 3
NOISE = 0.02
"""Noise added to the pictures, relative to their deviation: on areas of one colour many numbers lie exactly at a kink."""
DIRECTIONS = 3
STEPS = {"float64": (1e-6, 1e-5, 1e-4), "float32": (1e-3, 4e-3, 1.6e-2)}
"""Lengths of a step, relative to the picture's root mean square, in the order in which they are tried."""
TOLERANCE = {"float64": 1e-2, "float32": 1e-1}
"""Largest difference between a derivative by the gradient and by differences, relative to what a random direction gives."""
NOTHING = 1e-6
"""A derivative below this part of the similarity, for a step as long as the picture, counts as 0."""
EVALUATOR_TOLERANCE = 1e-3
"""Largest difference between embeddings in float64 and in float32, relative to the largest entry."""
BATCH_TOLERANCE = 5e-2
"""Largest difference between a picture's gradients in a batch and alone, relative to its length: rounding moves kinks."""

Gradient = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
Embed = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Point:
    """One picture (1, ...) with its target (1, D), weights (1, D), and the gradient (1, ...) found there, float64."""

    picture: np.ndarray
    target: np.ndarray
    weights: np.ndarray
    gradient: np.ndarray


def verify(gradient: Gradient, light: LightGraph, metric: str, pictures: np.ndarray) -> str:
    """Return, for people, how well a gradient agrees with differences; raise ExportError unless it does.

    gradient: pictures (n, ...), targets (n, D) and weights (n, D), float32 -> similarities (n,) and gradients (n, ...)
    light: the graph of the embedding, whose differences are taken; pictures: (n, ...) float32 as the network takes them
    """
    precision, embed = _embedder(light, pictures[:1])
    random = np.random.default_rng(0)
    chosen = pictures[np.linspace(0, len(pictures) - 1, PICTURES).astype(int)]  # one picture may be taken several times
    noise = NOISE * (float(chosen.std()) or 1.0) * random.normal(size=chosen.shape)
    chosen = (chosen + noise).astype(np.float32)
    embeddings = np.concatenate([embed(picture[None].astype(np.float64)) for picture in chosen])
    spread = np.sqrt(np.square(embeddings).mean(1, keepdims=True))
    targets = (embeddings + spread * random.normal(size=embeddings.shape)).astype(np.float32)
    weights = random.uniform(0.5, 1.5, embeddings.shape).astype(np.float32)
    found = np.concatenate([gradient(*(a[i : i + 1] for a in (chosen, targets, weights)))[1] for i in range(len(chosen))])
    _compare_in_batch(gradient, chosen[:2], targets[:2], weights[:2], found[:2])
    rows = [a.astype(np.float64) for a in (chosen, targets, weights, found)]
    points = [_Point(*(a[i : i + 1] for a in rows)) for i in range(len(chosen))]
    errors = _errors(embed, metric, points, precision, random)
    return _verdict(errors, len(points) * DIRECTIONS, precision)


def runner_gradient(light: LightGraph) -> Gradient:
    """Return what computes similarities and gradients by a graph of `with_gradient`."""
    runner, image = light.runner(), light.model.graph.input[0].name

    def gradient(pictures: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = runner.run({image: pictures, TARGET_INPUT: targets, WEIGHTS_INPUT: weights})
        return found[SIMILARITY_OUTPUT], found[GRADIENT_OUTPUT]

    return gradient


def require_same(gradient: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Raise ExportError, with `what` gave `gradient`, unless both (...) are the same but for rounding."""
    if not np.linalg.norm(gradient - expected) <= BATCH_TOLERANCE * np.linalg.norm(expected):
        raise ExportError(f"{what} gives another gradient than each picture alone")


def _embedder(light: LightGraph, pictures: np.ndarray) -> tuple[str, Embed]:
    """Return the precision in which differences can be taken, and what computes embeddings (n, D) float64 in it."""
    runner, image, output = light.runner(), light.model.graph.input[0].name, light.model.graph.output[0].name

    def rounded(x: np.ndarray) -> np.ndarray:
        return runner.run({image: x.astype(np.float32)})[output].astype(np.float64)

    try:
        exact, expected = Float64Graph(light), rounded(pictures)
        off = np.abs(exact.run(pictures.astype(np.float64)) - expected).max()
    except ExportError:  # an operator that only the runtime knows
        return "float32", rounded
    # in rare forms of an operator the evaluator and the runtime differ
    return ("float64", exact.run) if off <= EVALUATOR_TOLERANCE * np.abs(expected).max() else ("float32", rounded)


def _compare_in_batch(
    gradient: Gradient, pictures: np.ndarray, targets: np.ndarray, weights: np.ndarray, alone: np.ndarray
) -> None:
    """Raise ExportError unless each picture has the gradient in a batch that it has alone."""
    if alone.shape[1:] != pictures.shape[1:]:
        raise ExportError(f"the gradient has the shape {alone.shape[1:]}, and the picture {pictures.shape[1:]}")
    if not np.isfinite(alone).all():
        raise ExportError("some numbers of the gradient are not finite: check the model's weights")
    for one, other in zip(gradient(pictures, targets, weights)[1], alone, strict=True):
        require_same(one, other, "a batch of pictures")


def _errors(
    embed: Embed, metric: str, points: list[_Point], precision: str, random: np.random.Generator
) -> Iterator[tuple[float, bool]]:
    """Yield, for each direction, the gradient's relative error, and whether the differences of several steps agree."""
    for number in range(DIRECTIONS):
        for point in points:
            yield _error(embed, metric, point, precision, _direction(point, number, precision, random))


def _direction(point: _Point, number: int, precision: str, random: np.random.Generator) -> np.ndarray:
    """Return a direction of root mean square 1: random, or a random half of the gradient, which changes more."""
    direction = random.normal(size=point.picture.shape)
    if number % 2 or precision == "float32":
        half = point.gradient * (direction > 0)
        direction = half if half.any() else direction
    return direction / np.sqrt(np.square(direction).mean())


def _error(embed: Embed, metric: str, point: _Point, precision: str, direction: np.ndarray) -> tuple[float, bool]:
    size = float(np.sqrt(np.square(point.picture).mean())) or 1.0
    predicted = float((point.gradient * direction).sum())
    slopes: list[float] = []
    error, steady = np.inf, False
    for step in STEPS[precision]:
        ahead, back = (
            _similarity_of(embed(point.picture + sign * step * size * direction), metric, point) for sign in (1, -1)
        )
        slopes.append((ahead - back) / (2 * step * size))
        usual = max(float(np.linalg.norm(point.gradient)), abs(predicted), abs(slopes[-1]))
        scale = max(usual, NOTHING * abs(ahead) / size, np.finfo(np.float64).tiny)
        error = min(error, abs(slopes[-1] - predicted) / scale)
        steady = any(abs(a - slopes[-1]) <= TOLERANCE[precision] * scale for a in slopes[:-1])
        if error <= TOLERANCE[precision] or steady:
            break
    return error, steady or error <= TOLERANCE[precision]


def _similarity_of(embedding: np.ndarray, metric: str, point: _Point) -> float:
    query = query_features(embedding, metric, point.weights[0])
    return float((query * reference_features(point.target, metric, point.weights[0])).sum())


def _verdict(errors: Iterator[tuple[float, bool]], count: int, precision: str) -> str:
    """Take errors until most of `count` agree or most do not."""
    found: list[tuple[float, bool]] = []
    wanted = count // 2 + 1
    for error in errors:
        found.append(error)
        agree = sum(e <= TOLERANCE[precision] for e, _ in found)
        if agree >= wanted:
            median = np.median([e for e, _ in found])
            return f"agrees with differences in {precision} to {median:.1g} (median of {len(found)} directions)"
        if len(found) - agree > count - wanted:
            break
    wrong = [e for e, steady in found if steady and e > TOLERANCE[precision]]
    if 2 * len(wrong) < len(found) - agree:
        raise ExportError(
            f"the gradient cannot be verified: differences in {precision} over steps of different lengths do not agree, so "
            "the similarity is not smooth enough: give other pictures"
        )
    raise ExportError(
        f"the similarity does not change as its gradient says: off by {100 * np.median(wrong):.0f}% in {len(wrong)} of "
        f"{len(found)} directions, by differences in {precision}: report it, with the model"
    )
