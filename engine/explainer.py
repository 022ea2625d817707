"""Explain why two pictures match: explainer -> prepared (passes run once, maps by algebra) -> passes (the hot loop)."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from engine.bundle import demo_bundle
from engine.cache import CacheInfo, PreparedCache
from engine.errors import ImageError, OptionError
from engine.explanation import Explanation
from engine.images import ImageLike
from engine.learned import LearnedMask
from engine.learned_pairs import explain_learned
from engine.methods import Method, Planned, method_named, method_of, planned
from engine.model import Condition, Picture, loaded
from engine.passes import Progress
from engine.prepared import Known, Prepared, require_top
from engine.prepared_file import load_prepared
from engine.preparing import extended_together, known_references, prepared_picture
from engine.protocol import Plan, require_whole
from engine.rise import AUTO, BLOCK, Rise
from engine.session import Notice, unheard
from engine.stopping import Budget

MODES = ("fixed", "both")
MOST_THREADS = 2**31 - 1
"""What ONNX Runtime can be told."""


class Explainer:
    """One model, loaded and verified. Threads may share it: equal settings give equal maps, bit for bit.

    bundle: folder made by `python -m export`; None: the embedded demo (emoji)
    provider: auto, cpu, cuda, tensorrt, openvino; what is asked for is verified; auto is the first of TensorRT, CUDA and the
        CPU (with ONNX Runtime) that truly runs the model; `provider_reason` says why
    precision: auto, fp32, fp16, bf16, int8, as far as the bundle has it (OpenVINO runs a fp32 graph in bf16); auto is the
        fastest that suits this machine and whose maps agree with fp32's by the bundle's report; `precision_reason` says why
    threads: CPU threads per network run; None: all cores
    notice: told, in lines, what takes long while a GPU is made ready, and what auto tried that does not run
    cache_bytes: memory for prepared queries that `explain` and `explain_many` keep for the next reference; 0: none

    Raises BundleError, ProviderError, OptionError.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | None = None,
        provider: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        cache_bytes: int = 0,
        *,
        notice: Notice = unheard,
    ) -> None:
        if threads is not None:
            require_whole("threads", threads, 1, MOST_THREADS)
        require_whole("cache_bytes", cache_bytes, 0, 2**63)
        folder = Path(bundle) if bundle is not None else demo_bundle()
        self._model, self.provider_reason = loaded(folder, provider, precision, threads, notice)
        self._cache = PreparedCache(cache_bytes)

    @property
    def provider(self) -> str:
        """What runs the networks: cpu, cuda, tensorrt, openvino."""
        return self._model.provider

    @property
    def precision(self) -> str:
        """Of the similarity graph: fp32, fp16, bf16 or int8."""
        return self._model.precision

    @property
    def precision_reason(self) -> str:
        """Why that precision, in one line."""
        return self._model.precision_reason

    @property
    def has_gradient(self) -> bool:
        """Whether the bundle has the graph that method "mask" needs."""
        return self._model.gradient_graph is not None

    def explain(
        self,
        query: ImageLike,
        reference: ImageLike,
        method: str | Method = "rise",
        mode: str = "fixed",
        condition: Condition = None,
        baseline: str | None = None,
        *,
        tolerance: float | None = None,
        deadline: float | None = None,
        top: int | None = None,
        progress: Progress | None = None,
    ) -> Explanation:
        """Why does `query` match `reference`? See `explain_many`."""
        return self.explain_many(
            query,
            [reference],
            method,
            mode,
            condition,
            baseline,
            tolerance=tolerance,
            deadline=deadline,
            top=top,
            progress=progress,
        )[0]

    def explain_many(
        self,
        query: ImageLike,
        references: Sequence[ImageLike],
        method: str | Method = "rise",
        mode: str = "fixed",
        condition: Condition | Sequence[Condition] = None,
        baseline: str | None = None,
        *,
        tolerance: float | None = None,
        deadline: float | None = None,
        top: int | None = None,
        progress: Progress | None = None,
    ) -> list[Explanation]:
        """One explanation per reference, in order; the passes over the query are run once.

        query: a path, a PIL image or a uint8 RGB array (H, W, 3)
        references: the same, or embeddings (D,) float32 as `embed` returns them
        method: "rise" or its options, `Rise(masks=...)`
        mode: "fixed": the references shown whole; "both": each masked like the query, with the same options and seed, in as
            many passes again; references must be images then
        condition: index or name, one for all or one per reference; None compares the embeddings as they are
        baseline: what hidden pixels become: mean, black, white, blur; None: the method's own
        tolerance, deadline: when the passes may end early, see `prepare`; in mode "fixed", without a cache, the tolerance is
            judged on the references given (mean); in mode "both" each picture is judged against the others as they are
            masked, and the time is divided among the pictures
        top: attributes to name at most; None: all that reach the bundle's threshold
        progress: called with (passes done, passes in all), once for each picture that is masked

        Raises ImageError, OptionError.
        """
        require_mode(mode)
        # what is wrong with the input should not cost the passes
        require_top(top)
        options = method_named(method)
        budget = Budget.of(options, True, tolerance, deadline)
        conditions = self._model.conditions(condition, len(references))
        picture = self._model.picture(query)
        if isinstance(options, LearnedMask):
            others = self._model.told_apart(references)
            if mode == "both" and None in others[0]:
                raise ImageError("mode both masks the references too: they must be pictures, not embeddings")
            return explain_learned(self._model, picture, *others, conditions, options, mode, baseline, budget, top, progress)
        if mode == "fixed":
            shown, embeddings = self._model.references(references)
            known = None if self._cache.limit else known_references(self._model, embeddings, conditions)
            prepared = self._prepared(picture, options, baseline, budget, known, progress)
            return prepared.against(shown, embeddings, conditions, top)
        pictures = [picture, *(self._model.picture(reference) for reference in references)]
        masked = []
        for i, each in enumerate(pictures):
            share = budget.share(len(pictures) - i)
            # what is kept for other references must be good for any; else the others that are masked decide below
            until_then = share if self._cache.limit else share.first_look()
            masked.append(self._prepared(each, options, baseline, until_then, None, progress))
        first, *rest = extended_together(masked, conditions, budget, progress)
        return first.explain_many(rest, conditions, top)

    def refining(
        self,
        query: ImageLike,
        reference: ImageLike,
        method: str | Method = "rise",
        mode: str = "fixed",
        condition: Condition = None,
        baseline: str | None = None,
        *,
        top: int | None = None,
    ) -> Iterator[Explanation]:
        """Explanations of one pair, each from 128 masks more than the last, for as long as the caller goes on.

        The first has 256 masks; the last has those of `method`, 1024 for masks="auto". In mode "both" both pictures refine.
        For method rise. Raises ImageError, OptionError.
        """
        options = method_named(method)
        if not isinstance(options, Rise):
            raise OptionError(f"refining needs method rise, got {options.name}: other methods have no map before their end")
        require_mode(mode)
        require_top(top)
        conditions = self._model.conditions(condition, 1)
        pictures = [self._model.picture(query), *([self._model.picture(reference)] if mode == "both" else [])]
        shown = self._model.references([reference])
        first = dataclasses.replace(options, masks=min(AUTO[0], options.most))
        sides = [self._prepared(p, first, baseline, Budget(), None, None) for p in pictures]

        def each(sides: list[Prepared]) -> Iterator[Explanation]:
            while True:
                if mode == "both":
                    yield sides[0].explain_many([sides[1]], conditions, top)[0]
                else:
                    yield sides[0].against(*shown, conditions, top)[0]
                left = options.most - len(sides[0].plan)
                if not left:
                    return
                sides = [side.refine(min(BLOCK, left)) for side in sides]

        return each(sides)

    def prepare(
        self,
        image: ImageLike,
        method: str | Method = "rise",
        plan: Plan | None = None,
        baseline: str | None = None,
        *,
        tolerance: float | None = None,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> Prepared:
        """Run the passes over `image`: all that depends on the query alone.

        plan: masks to use instead of drawing them from the method's seed; a plan of another method decides the method, and
            the estimator is "sane"
        tolerance: stop when the estimated correlation of the maps with their limits reaches it, looking after 256 masks and
            then where it should be reached; judged on the leading directions of the masked embeddings. For estimator
            "regression"; None: for masks="auto" what 2000 masks of the published procedure would reach on this picture, else
            every mask is run
        deadline: seconds from now after which to stop with what there is, one batch of masks at the least; the fit of the
            maps comes on top. Not for method window

        Raises ImageError, OptionError.
        """
        options = planned(method_named(method)) if plan is None else method_of(plan, method)
        budget = Budget.of(options, plan is None, tolerance, deadline)
        picture = self._model.picture(image)
        if plan is not None:
            return prepared_picture(self._model, picture, options, plan, baseline, budget, None, progress)
        return self._prepared(picture, options, baseline, budget, None, progress)

    def _prepared(
        self,
        picture: Picture,
        options: Planned,
        baseline: str | None,
        budget: Budget,
        known: Mapping[int | None, Known] | None,
        progress: Progress | None,
    ) -> Prepared:
        """From the cache, where there is one, or prepared now."""
        hidden = options.baseline if baseline is None else baseline
        key = (hashlib.sha256(picture.pixels.tobytes()).digest(), picture.box, options, hidden, budget.tolerance)
        found = self._cache.get(key) if self._cache.limit else None
        if found is None:
            found = prepared_picture(self._model, picture, options, None, hidden, budget, known, progress)
            if self._cache.limit and not found.late:
                self._cache.put(key, found)
        return found

    def load_prepared(self, path: str | os.PathLike[str]) -> Prepared:
        """What `Prepared.save` wrote. Raises OutputError where it is not that, OptionError where another model, or another
        precision of this one, made it.
        """
        return load_prepared(self._model, Path(path))

    def cache_info(self) -> CacheInfo:
        """Hits, misses and bytes of the cache of prepared queries."""
        return self._cache.info()

    def embed(self, images: Sequence[ImageLike]) -> np.ndarray:
        """(n, D) float32, one row per image, as the network gives them. Raises ImageError."""
        if isinstance(images, (str, os.PathLike)) or not isinstance(images, Sequence):
            raise ImageError(f"embed takes a list of images, got {type(images).__name__}")
        return self._model.embed([self._model.picture(image) for image in images])


def require_mode(mode: str) -> None:
    """Raises OptionError."""
    if mode not in MODES:
        raise OptionError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
