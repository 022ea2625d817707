"""A loaded model: verified bundle, open sessions, and everything about pictures and conditions that depends on it."""

import dataclasses
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine import bundle as bundles
from engine import similarity
from engine.attributes import Seen, see
from engine.batching import calibrated_batch, largest_batch
from engine.device import DeviceSession
from engine.errors import EngineError, ImageError, OptionError
from engine.gradient import GradientSession
from engine.images import ImageLike, load
from engine.manifest import PRECISIONS, Graph
from engine.passes import whole_embeddings
from engine.precision import choose, target_of
from engine.preprocessing import Box
from engine.protocol import Runner
from engine.session import GPU_PROVIDERS, RUNTIME_PROVIDERS, Notice, driver_found, providers_named, require_gpu, unheard

Condition = int | str | None


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """pixels: (H, W, 3) uint8 as the network sees them; box: which part of the original that is"""

    pixels: np.ndarray
    box: Box


@dataclasses.dataclass(frozen=True)
class Running:
    """How the network runs over masked pictures. batch: rows of each run; threads: CPU threads within it"""

    provider: str
    precision: str
    threads: int
    batch: int


@dataclasses.dataclass(frozen=True, eq=False)
class Gradient:
    """What learned masks run, both in fp32. network: the similarity graph"""

    session: GradientSession
    network: Runner
    provider: str


def loaded(folder: Path, provider: str, precision: str, threads: int | None, notice: Notice) -> tuple["LoadedModel", str]:
    """The model on the provider asked for, or for auto on the first that truly runs it; and why that one, in one line.

    Raises BundleError, ProviderError, OptionError.
    """
    *first, last = (names := providers_named(provider))[0]
    reasons = [names[1]] if names[1] else []
    if not first and provider == "auto" and driver_found():
        notice(f"auto passes over a GPU: {names[1]}; {RUNTIME_PROVIDERS['cuda'][1]}")
    for name in first:
        try:
            return LoadedModel(folder, name, precision, threads, notice), "; ".join(["the first that runs", *reasons])
        except EngineError as error:  # whatever it is: the CPU's own error, if it has one, is raised below
            reasons.append(f"{name} does not run: {error}")
        notice(reasons[-1])
    return LoadedModel(folder, last, precision, threads, notice), "; ".join(reasons) if provider == "auto" else "asked for"


class LoadedModel:
    """graph_digest: sha256 of the similarity graph that runs: model and precision in one

    Raises BundleError, ProviderError, OptionError.
    """

    def __init__(self, folder: Path, provider: str, precision: str, threads: int | None, notice: Notice = unheard) -> None:
        self.bundle = bundles.load(folder)
        self.manifest = self.bundle.manifest
        self.preprocessing = self.manifest.preprocessing
        self.provider = provider
        asked = (precision, "asked for")
        self.precision, self.precision_reason = (
            choose(self.manifest, self.bundle.precision, provider) if precision == "auto" else asked
        )
        self.threads = threads or _cores()
        if provider in GPU_PROVIDERS:
            require_gpu(provider)
        if provider == "tensorrt":
            notice("tensorrt builds engines for a graph once, in minutes, and keeps them in the cache folder")
        self.similarity = self._open("similarity", self.precision)
        self.attributes = self._open("attributes", "fp32") if self.bundle.attributes else None
        self.graph_digest = self.bundle.digests[self.similarity.path.name]
        batch = self._batch(notice)  # found now, and not behind the first caller's deadline
        self._gradient: Gradient | None = None
        self._opening = threading.Lock()
        self.running = Running(self.provider, self.precision, self.threads, batch)

    def _batch(self, notice: Notice) -> int:
        """Rows of a run over masked pictures: what a GPU's memory holds, or what was fastest on this CPU."""
        if not isinstance(self.similarity, DeviceSession):
            setting = (self.graph_digest, self.provider, self.precision, self.threads)
            return calibrated_batch(self.similarity, self.preprocessing, setting, self.bundle.canonical["picture"])
        batch = self.similarity.fit(notice)
        bundles.verify_masked(self.bundle, self.provider, self.similarity)
        return batch

    def _open(self, role: str, precision: str) -> Runner:
        target = target_of(self.provider)
        stored = "fp32" if (self.provider, precision) == ("openvino", "bf16") else precision  # rounded while it runs
        graph = self.manifest.graph(role, stored, target)
        if graph is None:
            present = ", ".join(p for p in PRECISIONS if self.manifest.graph(role, p, target) is not None)
            advice = "`python -m export quantize` adds int8 and, for GPUs, fp16"
            if precision not in PRECISIONS:
                advice = f"known are auto, {', '.join(PRECISIONS)}"
            raise OptionError(
                f"precision {precision!r} was asked for, this bundle has {present} for provider {self.provider}; {advice}"
            )
        return bundles.open_graph(self.bundle, graph, self.provider, self.threads, precision)

    def gradient(self) -> "Gradient":
        """Opened when it is first asked for. Raises OptionError where the bundle has no gradient graph."""
        with self._opening:
            if self._gradient is None:
                self._gradient = self._open_gradient()
            return self._gradient

    @property
    def gradient_graph(self) -> Graph | None:
        """None where the bundle has none."""
        return self.manifest.graph("gradient", "fp32", target_of(self.provider))

    def _open_gradient(self) -> "Gradient":
        graph = self.gradient_graph
        if graph is None:
            raise OptionError(
                "method mask needs the gradient of the model, which this bundle does not have: export it anew by "
                "`python -m export similarity ... --gradient`, then what it had of attributes and int8"
            )
        # which explanations then say; TensorRT would build an engine for every number of references
        provider = {"openvino": "cpu", "tensorrt": "cuda"}.get(self.provider, self.provider)
        base = self.manifest.graph("similarity", "fp32", target_of(provider))
        network = self.similarity
        if base is not None and (provider, "fp32") != (self.provider, self.precision):
            network = bundles.open_graph(self.bundle, base, provider, self.threads)
        return Gradient(bundles.open_gradient(self.bundle, graph, provider, self.threads), network, provider)

    def picture(self, image: ImageLike) -> Picture:
        return Picture(*self.preprocessing.fitted(load(image)))

    def embed(self, pictures: Sequence[Picture]) -> np.ndarray:
        """(n, D) float32."""
        if not pictures:
            return np.empty((0, self.manifest.embedding), np.float32)
        return self._whole(self.similarity, pictures)

    def see(self, picture: Picture) -> Seen | None:
        """What the attribute network says; None where the bundle has none."""
        if self.attributes is None or self.bundle.attributes is None:
            return None
        (activations,) = self._whole(self.attributes, [picture])
        return see(self.bundle.attributes, activations)

    def _whole(self, session: Runner, pictures: Sequence[Picture]) -> np.ndarray:
        pixels = [p.pixels for p in pictures]
        return whole_embeddings(session, self.preprocessing, pixels, largest_batch(self.preprocessing))

    def references(self, others: Sequence[ImageLike]) -> tuple[list[Picture | None], np.ndarray]:
        """Pictures (None for those given as embeddings) and embeddings (R, D) float32."""
        pictures, embeddings = self.told_apart(others)
        embeddings[[p is not None for p in pictures]] = self.embed([p for p in pictures if p is not None])
        return pictures, embeddings

    def told_apart(self, others: Sequence[ImageLike]) -> tuple[list[Picture | None], np.ndarray]:
        """The same without running the network: embeddings of pictures are 0."""
        embeddings = np.zeros((len(others), self.manifest.embedding), np.float32)
        pictures: list[Picture | None] = []
        for i, other in enumerate(others):
            if isinstance(other, np.ndarray) and other.dtype != np.uint8:
                embeddings[i] = self._embedding(other)
                pictures.append(None)
            else:
                pictures.append(self.picture(other))
        return pictures, embeddings

    def _embedding(self, vector: np.ndarray) -> np.ndarray:
        size, given = self.manifest.embedding, vector
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
            vector = vector.astype(np.float32) if vector.dtype.kind == "f" else vector
        if vector.shape != (size,) or vector.dtype.kind != "f" or not np.isfinite(vector).all():
            raise ImageError(
                f"a reference array must be an embedding, finite float32 ({size},), or a picture, uint8 (H, W, 3); "
                f"got {given.dtype} {given.shape}"
            )
        return vector

    def conditions(self, condition: Condition | Sequence[Condition], count: int) -> list[int | None]:
        """One condition index per reference; None where the model has no conditions."""
        if condition is None or isinstance(condition, (int, str)):
            return [self._condition(condition)] * count
        if len(condition) != count:
            raise OptionError(f"{len(condition)} conditions for {count} references: give one, or one per reference")
        return [self._condition(c) for c in condition]

    def _condition(self, condition: Condition) -> int | None:
        """The index; a model with conditions and none asked for compares the embeddings as they are."""
        if condition is None:
            return None
        known = self.manifest.conditions
        if known is None:
            raise OptionError(f"condition {condition!r} was asked for, this model has no conditions")
        if isinstance(condition, str) and condition in known.names:
            return known.names.index(condition)
        count = len(known.names)
        if isinstance(condition, str) and condition.isdecimal() and len(condition) < 10:
            condition = int(condition)
        if isinstance(condition, int) and not isinstance(condition, bool) and 0 <= condition < count:
            return condition
        some = ", ".join(known.names[:5]) + (", ..." if count > 5 else "")
        raise OptionError(f"this model has no condition {condition!r}: an index below {count} or a name, as {some}")

    def condition_name(self, condition: int | None) -> str | None:
        known = self.manifest.conditions
        return None if known is None or condition is None else known.names[condition]

    def query_features(self, embeddings: np.ndarray, condition: int | None) -> np.ndarray:
        """(N, D) -> (N, F) float64, one factor of the similarity."""
        return similarity.query_features(embeddings, self.manifest.metric, self._weights(condition))

    def reference_features(self, embeddings: np.ndarray, condition: int | None) -> np.ndarray:
        """(R, D) -> (R, F) float64, the other factor."""
        return similarity.reference_features(embeddings, self.manifest.metric, self._weights(condition))

    def weights(self, condition: int | None) -> np.ndarray:
        """(D,) float32: what embeddings are multiplied by under a condition."""
        weights = self._weights(condition)
        return np.ones(self.manifest.embedding, np.float32) if weights is None else np.maximum(weights, 0)

    def _weights(self, condition: int | None) -> np.ndarray | None:
        """(D,) float32, before relu."""
        known = self.manifest.conditions
        return None if known is None or condition is None else known.weights[condition]


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
