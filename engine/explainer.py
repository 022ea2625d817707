"""Explain why two pictures match: the passes depend on the query alone, so prepare once and explain many."""

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.attributes import Attribute, AttributeTable, Seen, rank
from engine.bundle import demo_bundle
from engine.correspondence import correspondence, reliability
from engine.errors import ImageError, OptionError
from engine.explanation import Explanation, ModelName
from engine.images import ImageLike
from engine.methods import Method, method_named, method_of
from engine.model import Condition, LoadedModel, Picture
from engine.passes import Progress, masked_embeddings
from engine.protocol import Plan, require_whole
from engine.rise import RisePlan
from engine.session import provider_named

MODES = ("fixed", "both")
MOST_THREADS = 2**31 - 1
"""What ONNX Runtime can be told."""


class Explainer:
    """One model, loaded and verified.

    bundle: folder made by `python -m export`; None: the embedded demo (emoji)
    provider: auto, cpu, cuda, tensorrt; what is asked for is verified, auto is the CPU
    precision: auto, fp32, fp16, bf16, int8, as far as the bundle has it; auto is fp32
    threads: CPU threads per network run; None: all cores

    Raises BundleError, ProviderError, OptionError.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | None = None,
        provider: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            require_whole("threads", threads, 1, MOST_THREADS)
        folder = Path(bundle) if bundle is not None else demo_bundle()
        self._model = LoadedModel(folder, provider_named(provider), "fp32" if precision == "auto" else precision, threads)

    def explain(
        self,
        query: ImageLike,
        reference: ImageLike,
        method: str | Method = "rise",
        mode: str = "fixed",
        condition: Condition = None,
        baseline: str | None = None,
        progress: Progress | None = None,
    ) -> Explanation:
        """Why does `query` match `reference`? See `explain_many`."""
        return self.explain_many(query, [reference], method, mode, condition, baseline, progress)[0]

    def explain_many(
        self,
        query: ImageLike,
        references: Sequence[ImageLike],
        method: str | Method = "rise",
        mode: str = "fixed",
        condition: Condition | Sequence[Condition] = None,
        baseline: str | None = None,
        progress: Progress | None = None,
    ) -> list[Explanation]:
        """One explanation per reference, in order; the passes over the query are run once.

        query: a path, a PIL image or a uint8 RGB array (H, W, 3)
        references: the same, or embeddings (D,) float32 as `embed` returns them
        method: "rise" or its options, `Rise(masks=...)`
        mode: "fixed": the references shown whole; "both": each masked like the query, with the same options and seed, in as
            many passes again; references must be images then
        condition: index or name, one for all or one per reference; None compares the embeddings as they are
        baseline: what hidden pixels become: mean, black, white, blur; None: the method's own (mean)
        progress: called with (passes done, passes in all), once for each picture that is masked

        Raises ImageError, OptionError.
        """
        if mode not in MODES:
            raise OptionError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        # what is wrong with the input should not cost the passes
        conditions = self._model.conditions(condition, len(references))
        options, picture = method_named(method), self._model.picture(query)
        if mode == "fixed":
            shown = self._model.references(references)
            return self._prepare(picture, options, None, baseline, progress).against(*shown, conditions)
        pictures = [picture, *(self._model.picture(reference) for reference in references)]
        prepared, *masked = (self._prepare(p, options, None, baseline, progress) for p in pictures)
        return prepared.explain_many(masked, conditions)

    def prepare(
        self,
        image: ImageLike,
        method: str | Method = "rise",
        plan: Plan | None = None,
        baseline: str | None = None,
        progress: Progress | None = None,
    ) -> "Prepared":
        """Run the passes over `image`: all that depends on the query alone.

        plan: masks to use instead of drawing them from the method's seed; a plan of another method decides the method

        Raises ImageError, OptionError.
        """
        options = method_named(method) if plan is None else method_of(plan, method)
        return self._prepare(self._model.picture(image), options, plan, baseline, progress)

    def _prepare(
        self, picture: Picture, options: Method, plan: Plan | None, baseline: str | None, progress: Progress | None
    ) -> "Prepared":
        started = time.perf_counter()
        model, preprocessing = self._model, self._model.preprocessing
        chosen = options.plan(picture.pixels) if plan is None else plan
        hidden = options.baseline if baseline is None else baseline
        embeddings = masked_embeddings(
            model.similarity,
            chosen,
            preprocessing,
            preprocessing.normalised(picture.pixels),
            preprocessing.baseline(hidden, picture.pixels),
            progress or _silent,
        )
        return Prepared(
            model=model,
            picture=picture,
            plan=chosen,
            embeddings=embeddings,
            whole=model.embed([picture])[0],
            seen=model.see(picture),
            settings={
                "method": options.name,
                "estimator": options.estimator,
                "baseline": hidden,
                "seed": options.seed if plan is None else None,
            },
            seconds=time.perf_counter() - started,
        )

    def embed(self, images: Sequence[ImageLike]) -> np.ndarray:
        """(n, D) float32, one row per image, as the network gives them. Raises ImageError."""
        if isinstance(images, (str, os.PathLike)) or not isinstance(images, Sequence):
            raise ImageError(f"embed takes a list of images, got {type(images).__name__}")
        return self._model.embed([self._model.picture(image) for image in images])


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A query whose passes were run. Made by `Explainer.prepare`.

    plan: the masks; embeddings: (N, D) float32 of the masked query, as the network gave them; whole: (D,) float32 of the
    query itself; seen: what the attribute network says of it; settings: how it was prepared, as explanations state it;
    seconds: what it took
    """

    model: LoadedModel = dataclasses.field(repr=False)
    picture: Picture = dataclasses.field(repr=False)
    plan: Plan = dataclasses.field(repr=False)
    embeddings: np.ndarray = dataclasses.field(repr=False)
    whole: np.ndarray = dataclasses.field(repr=False)
    seen: Seen | None = dataclasses.field(repr=False)
    settings: dict[str, Any]
    seconds: float

    def explain(self, other: "ImageLike | Prepared", condition: Condition = None) -> Explanation:
        """The explanation against one reference: an image, its embedding (D,) float32, or a Prepared. See `explain_many`."""
        return self.explain_many([other], condition)[0]

    def explain_many(
        self, others: "Sequence[ImageLike | Prepared]", condition: Condition | Sequence[Condition] = None
    ) -> list[Explanation]:
        """One explanation per reference, in order; costs one network row for each that is an image, else none.

        A reference that is itself prepared is explained in mode "both": each picture's map is against the mean of the
        other's masked features, and where both plans are RISE plans, regions are matched.

        Raises ImageError, OptionError.
        """
        conditions = self.model.conditions(condition, len(others))
        whole = {i: other for i, other in enumerate(others) if not isinstance(other, Prepared)}
        shown = self.model.references(list(whole.values()))
        explained = self.against(*shown, [conditions[i] for i in whole])
        found = dict(zip(whole, explained, strict=True))
        for i, other in enumerate(others):
            if isinstance(other, Prepared):
                found[i] = self._both(other, conditions[i])
        return [found[i] for i in range(len(others))]

    def against(
        self, pictures: Sequence[Picture | None], embeddings: np.ndarray, conditions: Sequence[int | None]
    ) -> list[Explanation]:
        """Against references shown whole, as `LoadedModel.references` gives them: embeddings (R, D) float32."""
        started = time.perf_counter()
        scores = np.empty((len(self.plan) + 1, len(pictures)))  # masked queries, then the whole one
        for chosen in dict.fromkeys(conditions):
            which = [i for i, c in enumerate(conditions) if c == chosen]
            query = self.model.query_features(np.concatenate([self.embeddings, self.whole[None]]), chosen)
            scores[:, which] = query @ self.model.reference_features(embeddings[which], chosen).T
        maps = self.plan.maps(scores[:-1], *self.picture.pixels.shape[:2])  # (R, H, W)
        seconds = (time.perf_counter() - started) / max(len(pictures), 1)
        return [
            self._explanation(maps[i], float(scores[-1, i]), pictures[i], conditions[i], seconds)
            for i in range(len(pictures))
        ]

    def _both(self, other: "Prepared", condition: int | None) -> Explanation:
        """Against a reference that is masked too, in N + K passes: `mean_j s(a_i, b_j) = <a_i, mean_j b_j>` (SANE.md)."""
        if other.model.bundle.identity != self.model.bundle.identity:
            raise OptionError("the two pictures were prepared with different models")
        started = time.perf_counter()
        sides = (self, other)
        queries = [self.model.query_features(side.embeddings, condition) for side in sides]
        references = [self.model.reference_features(side.embeddings, condition) for side in sides]
        maps = [
            side.plan.maps(queries[i] @ references[1 - i].mean(0)[:, None], *side.picture.pixels.shape[:2])[0]
            for i, side in enumerate(sides)
        ]
        whole = self.model.reference_features(other.whole[None], condition)
        similarity = (self.model.query_features(self.whole[None], condition) @ whole.T).item()
        matched: dict[str, Any] = {}
        if isinstance(self.plan, RisePlan) and isinstance(other.plan, RisePlan):
            size = self.picture.pixels.shape[:2]
            tiles = [plan.renderer(*size).tiles() for plan in (self.plan, other.plan)]
            factors = (tiles[0], queries[0], tiles[1], references[1])
            matched = {"correspondence": correspondence(*factors), "correspondence_reliability": reliability(*factors)}
        seconds = time.perf_counter() - started
        explanation = self._explanation(maps[0], similarity, other.picture, condition, seconds)
        return dataclasses.replace(
            explanation,
            mode="both",
            reference_saliency=maps[1],
            passes=explanation.passes + len(other.plan),
            timings={"prepare": self.seconds + other.seconds, "explain": seconds},
            **matched,
        )

    def _explanation(
        self, saliency: np.ndarray, similarity: float, reference: Picture | None, condition: int | None, seconds: float
    ) -> Explanation:
        model, table = self.model, self.model.bundle.attributes
        attributes = rank(table, self.seen, saliency) if table and self.seen else ()
        return Explanation(
            similarity=similarity,
            saliency=saliency,
            attributes=attributes,
            query_image=self.picture.pixels,
            query_box=self.picture.box,
            reference_image=None if reference is None else reference.pixels,
            reference_box=None if reference is None else reference.box,
            condition=model.condition_name(condition),
            mode="fixed",
            passes=len(self.plan) + 1 + (reference is not None),
            provider=model.provider,
            precision=model.precision,
            model=ModelName(model.manifest.name, model.bundle.identity),
            phi=table.weights if table else None,
            attribute_threshold=table.threshold if table else None,
            notes=_notes(table, attributes),
            timings={"prepare": self.seconds, "explain": seconds},
            **self.settings,
        )


def _notes(table: AttributeTable | None, attributes: tuple[Attribute, ...]) -> tuple[str, ...]:
    if table is None:
        return ("this bundle has no attribute network: no words",)
    notes = []
    if not attributes:
        notes.append(f"no attribute is named: none reaches confidence {table.threshold:g}")
    if table.prior is None:
        notes.append("this bundle has no attribute prior: phi_3 counts as 0")
    return tuple(notes)


def _silent(done: int, total: int) -> None:
    """No progress is shown unless a caller asks for it."""
