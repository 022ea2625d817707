"""A loaded model: a verified bundle, its open sessions, and all that depends on it about pictures and conditions."""

import copy
import dataclasses
import os
import threading
from collections.abc import Sequence

import numpy as np

from engine.attributes.ranking import Activations
from engine.bundle import Bundle, graph_digest
from engine.bundle.manifest import PRECISIONS, Condition, Graph
from engine.errors import BundleError, OptionError, ProviderError
from engine.passes import whole_embeddings
from engine.picture import Picture
from engine.pictures.loading import PROFILE, ImageLike, load_picture
from engine.pictures.reading import AS_USUAL
from engine.protocol import Gradients, Notice, Runner, ignore_notice
from engine.runtime import opening
from engine.runtime.batch_size import largest_batch, timed_batch
from engine.runtime.cores import usable_cores
from engine.runtime.forks import require_process
from engine.runtime.gpu_session import GpuSession
from engine.runtime.pair_session import PairSession
from engine.runtime.precision import choose_precision, graph_of, target_of
from engine.runtime.providers import GPU_PROVIDERS, require_gpu, runtime_version
from engine.runtime.token_network import TokenNetwork
from engine.saliency import similarity


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """How the network runs over masked pictures.

    provider, precision: what runs; threads: CPU threads within a run; batch: rows of each run
    """

    provider: str
    precision: str
    threads: int
    batch: int


@dataclasses.dataclass(frozen=True, eq=False)
class GradientNetworks:
    """What learned masks run, in fp32.

    session: the gradient graph; network: the similarity graph; provider: of both
    """

    session: Gradients
    network: Runner
    provider: str


class LoadedModel:
    """A bundle whose graphs are open on one provider. Made by `engine.auto.load_model`; `Explainer.model` is one.

    graph_digest: sha256 of the similarity graph that runs: it stands for model and precision together
    precision_reason: why that precision was taken, in one line, unless `precision` is auto: then the bundle's report says
    reading: how pictures are read; the `Explainer` sets it
    pass_seconds: of a masked picture, where they were measured to find the batch: not on a GPU, whose memory decides

    Raises BundleError, ProviderError, OptionError.
    """

    def __init__(
        self,
        bundle: Bundle,
        provider: str,
        precision: str,
        threads: int | None,
        notice: Notice = ignore_notice,
        precision_reason: str = "asked for",
    ) -> None:
        self._process = os.getpid()
        self.bundle, self.reading = bundle, AS_USUAL
        self.manifest = self.bundle.manifest
        self.preprocessing = self.manifest.preprocessing
        self.provider = provider
        asked = (precision, precision_reason)
        self.precision, self.precision_reason = (
            choose_precision(self.manifest, self.bundle.precision, provider) if precision == "auto" else asked
        )
        self.threads = threads or usable_cores()
        if provider in GPU_PROVIDERS:
            require_gpu(provider)
        if provider == "tensorrt":
            notice("TensorRT builds its engines for a graph once, which takes minutes, and keeps them in the cache folder")
        self.similarity = self._open("similarity", self.precision)
        seen_by_network = self.manifest.graph("attributes", "fp32", target_of(provider)) is not None  # else by vectors
        self.attributes = self._open("attributes", "fp32") if seen_by_network else None
        self.graph_digest = graph_digest(bundle, self._graph("similarity", self.precision))
        self.pass_seconds = np.nan
        batch = self._batch(notice)  # found now, so that it does not count against the first caller's deadline
        self._gradient: GradientNetworks | None = None
        self._tokens: TokenNetwork | None = None
        self._opening = threading.Lock()
        self.run_settings = RunSettings(self.provider, self.precision, self.threads, batch)

    def _batch(self, notice: Notice) -> int:
        """Rows of every run over masked pictures: what a GPU's memory holds, or what was fastest on this CPU."""
        if not isinstance(self.similarity, GpuSession):
            setting = timing_setting(self.bundle, self.provider, self.precision, self.threads)
            found = timed_batch(self.similarity, self.preprocessing, setting, self.bundle.canonical["picture"])
            self.pass_seconds = found.row_seconds
            return found.batch
        batch = self.similarity.fit(notice)
        opening.verify_masked(self.bundle, self.provider, self.similarity)
        return batch

    def _open(self, role: str, precision: str) -> Runner:
        return opening.open_graph(self.bundle, self._graph(role, precision), self.provider, self.threads, precision)

    def _graph(self, role: str, precision: str) -> Graph:
        target, graph = target_of(self.provider), graph_of(self.manifest, role, self.provider, precision)
        if graph is None:
            present = ", ".join(p for p in PRECISIONS if self.manifest.graph(role, p, target) is not None)
            advice = "`python -m export quantize` adds int8 and, for GPUs, fp16"
            if precision not in PRECISIONS:
                advice = f"the precisions are auto, {', '.join(PRECISIONS)}"
            raise OptionError(
                f"precision {precision!r} was asked for, but for provider {self.provider} this bundle has {present}; "
                f"{advice}"
            )
        return graph

    def gradient(self) -> "GradientNetworks":
        """The networks for learned masks, opened when first needed. Raises OptionError if the bundle has no gradient."""
        with self._opening:
            if self._gradient is None:
                self._gradient = self._open_gradient()
            return self._gradient

    def tokens(self) -> TokenNetwork:
        """The graphs of a vision transformer's tokens, opened when first needed. Raises OptionError, ProviderError."""
        with self._opening:
            if self._tokens is None:
                self._tokens = self._open_tokens()
            return self._tokens

    def _open_tokens(self) -> TokenNetwork:
        if self.manifest.graph("tokens", "fp32", target_of(self.provider)) is None:
            raise OptionError(
                "method tokens needs a vision transformer's graphs of tokens, and this bundle has none: use method rise, or "
                "export the model again, which says why if they cannot be made"
            )
        if self.provider in GPU_PROVIDERS:
            raise ProviderError(
                f"method tokens runs on providers cpu and openvino, not on {self.provider}: choose one of them"
            )
        if self.token_graph is None:
            raise OptionError(f"the bundle has no graph of tokens in {self.precision}: ask for precision fp32")
        return opening.open_tokens(self.bundle, self.provider, self.precision, self.threads)

    @property
    def token_graph(self) -> Graph | None:
        """The graph that method tokens runs; None if this provider and precision have none."""
        return None if self.provider in GPU_PROVIDERS else graph_of(self.manifest, "tokens", self.provider, self.precision)

    @property
    def gradient_graph(self) -> Graph | None:
        """The bundle's gradient graph; None if it has none."""
        return self.manifest.graph("gradient", "fp32", target_of(self.provider))

    def _open_gradient(self) -> "GradientNetworks":
        graph = self.gradient_graph
        if graph is None:
            raise OptionError(
                "method mask needs a gradient graph, and this bundle has none: export the model again with "
                "`python -m export similarity ... --gradient`, then add its attributes and int8 graphs again"
            )
        # the explanation names this provider; TensorRT would build an engine for every number of references
        provider = {"openvino": "cpu", "tensorrt": "cuda"}.get(self.provider, self.provider)
        base = self.manifest.graph("similarity", "fp32", target_of(provider))
        network = self.similarity
        if base is not None and (provider, "fp32") != (self.provider, self.precision):
            network = opening.open_graph(self.bundle, base, provider, self.threads)
        return GradientNetworks(opening.open_gradient(self.bundle, graph, provider, self.threads), network, provider)

    def require_own_process(self) -> None:
        """Raise ProcessError in a fork of the process that loaded the model."""
        require_process(self._process)

    @property
    def takes_pairs(self) -> bool:
        """Whether the model takes both pictures at once and gives a score: then there are no embeddings."""
        return self.manifest.base.second_input is not None

    def require_embeddings(self, what: str) -> None:
        """Raise OptionError if the model has none. what: what was to be done with them"""
        if self.takes_pairs:
            raise OptionError(f"{self.manifest.name} takes both pictures at once and cannot {what}: use `explain`")

    def facing(self, picture: Picture, *, as_first: bool) -> "LoadedModel":
        """The same model with one of its two pictures held fixed. Raises OptionError for models of one input."""
        if not isinstance(self.similarity, PairSession):
            raise OptionError(f"{self.manifest.name} takes one picture at a time")
        view = copy.copy(self)
        fixed = self.preprocessing.normalised(picture.pixels)
        view.similarity = self.similarity.facing(fixed, as_first=as_first)
        return view

    def running(
        self, similarity: Runner, gradient: "GradientNetworks | None" = None, attributes: Runner | None = None
    ) -> "LoadedModel":
        """The same model with other networks in place of its own: of the same shapes, and not compared with anything.

        gradient: None: what the bundle has; attributes: None: its own
        """
        view = copy.copy(self)
        view.similarity, view._gradient, view.attributes = similarity, gradient, attributes or self.attributes
        return view

    def picture(self, image: ImageLike) -> Picture:
        """Load a picture and fit it to what the network sees. Raises ImageError."""
        upright = load_picture(image, self.reading)
        return Picture(*self.preprocessing.fitted(upright), upright.size, upright.info.get(PROFILE))

    def embed(self, pictures: Sequence[Picture]) -> np.ndarray:
        """Embeddings (n, D) float32 of whole pictures. Raises BundleError where they are too short for their metric."""
        if not pictures:
            return np.empty((0, self.manifest.embedding), np.float32)
        found = self._whole(self.similarity, pictures)
        lengths = np.linalg.norm(found.astype(np.float64), axis=1)
        if self.manifest.metric == "cosine" and ((lengths > 0) & (lengths < similarity.EPSILON)).any():
            raise BundleError(
                f"{self.similarity.path} gives a picture an embedding of length {lengths.min():.1g}, and cosines need "
                f"{similarity.EPSILON:g}: multiply what the network gives by a constant"
            )
        return found

    def activations(self, picture: Picture) -> Activations | None:
        """What the attribute network gives for a picture; None if the bundle has none."""
        if self.attributes is None or self.bundle.attributes is None:
            return None
        (maps,) = self._whole(self.attributes, [picture])
        return Activations.of(self.bundle.attributes, maps)

    def confidences(self, pictures: Sequence[Picture]) -> np.ndarray:
        """How likely each attribute is true of whole pictures, (n, A) float64 in [0, 1]. Raises OptionError."""
        table, vectors = self.bundle.attributes, self.bundle.vectors
        if self.attributes is not None and table is not None:
            maps = self._whole(self.attributes, pictures) if pictures else ()
            seen = [Activations.of(table, own).confidences for own in maps]
            return np.array(seen).reshape(len(pictures), len(table.names))
        if vectors is not None:
            return vectors.confidences(self.embed(pictures))
        raise OptionError("this bundle has no attributes: `python -m export attributes` adds them")

    def _whole(self, session: Runner, pictures: Sequence[Picture]) -> np.ndarray:
        pixels = [p.pixels for p in pictures]
        return whole_embeddings(session, self.preprocessing, pixels, largest_batch(self.preprocessing))

    def conditions(self, condition: Condition | Sequence[Condition], count: int) -> list[int | None]:
        """A condition index for each of `count` references; None where none was asked for. Raises OptionError."""
        if condition is None or isinstance(condition, (int, str, np.integer)):
            return [self.manifest.condition_index(condition)] * count
        if not isinstance(condition, (Sequence, np.ndarray)):
            got = type(condition).__name__
            raise OptionError(f"a condition must be an index, a name, or a list with one per reference, got {got}")
        if len(condition) != count:
            raise OptionError(f"{len(condition)} conditions for {count} references: give one, or one per reference")
        return [self.manifest.condition_index(c) for c in condition]

    def condition_name(self, condition: int | None) -> str | None:
        """The name of a condition given by its index."""
        known = self.manifest.conditions
        return None if known is None or condition is None else known.names[condition]

    def query_features(self, embeddings: np.ndarray, condition: int | None) -> np.ndarray:
        """Masked queries' embeddings (N, D) -> (N, F) float64, their factor of the similarity.

        (docs/method.md, Similarity)
        """
        return similarity.query_features(embeddings, self.manifest.metric, self._weights(condition))

    def reference_features(self, embeddings: np.ndarray, condition: int | None) -> np.ndarray:
        """References' embeddings (R, D) -> (R, F) float64, the other factor."""
        return similarity.reference_features(embeddings, self.manifest.metric, self._weights(condition))

    def weights(self, condition: int | None) -> np.ndarray:
        """(D,) float32: what embeddings are multiplied by under a condition."""
        weights = self._weights(condition)
        return np.ones(self.manifest.embedding, np.float32) if weights is None else np.maximum(weights, 0)

    def _weights(self, condition: int | None) -> np.ndarray | None:
        """(D,) float32, before relu."""
        known = self.manifest.conditions
        return None if known is None or condition is None else known.weights[condition]


def timing_setting(bundle: Bundle, provider: str, precision: str, threads: int | None) -> tuple[object, ...]:
    """What the time of a pass on a CPU depends on, besides the machine (see `engine.runtime.batch_size.timed_batch`)."""
    graph = graph_of(bundle.manifest, "similarity", provider, precision)
    digest = "" if graph is None else graph_digest(bundle, graph)
    return digest, provider, runtime_version(provider), precision, threads or usable_cores()
