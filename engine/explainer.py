"""Explain why two pictures match: explainer -> prepared (passes run once, maps by algebra) -> passes (the hot loop)."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from engine.assemble import JOINT, Naming
from engine.bundle import demo_bundle
from engine.bundle.manifest import Condition
from engine.cache import CacheInfo, PreparedCache
from engine.errors import ImageError, OptionError
from engine.explain_learned import explain_learned
from engine.explain_pairs import NO_EMBEDDINGS, explain_pairs
from engine.explanation import Explanation
from engine.methods import Method, PlannedMethod, method_named, method_of, require_plan, resolve_baseline
from engine.methods.learned_mask import LearnedMask
from engine.methods.rise import Rise
from engine.model import Picture, load_model
from engine.passed import PassOptions, with_fits
from engine.pictures.loading import ImageLike
from engine.prepare_together import prepare_together
from engine.prepared import Prepared, prepare_picture
from engine.prepared_npz import read_prepared
from engine.protocol import BOTH, FIXED, Notice, Plan, Progress, ignore_notice, require_mode, require_whole, silent
from engine.rather_than import known_references, require_rather_than
from engine.reference_vectors import ReferenceLike
from engine.references import References
from engine.refining import refined
from engine.saliency.stopping import AUTO, Budget

MOST_THREADS = 2**31 - 1
"""The largest number that ONNX Runtime takes."""


class Explainer:
    """One model, loaded and verified. Threads may share it: equal settings give equal maps, bit for bit.

    bundle: folder made by `python -m export`; None: the embedded demo (emoji)
    provider: auto, cpu, cuda, tensorrt, openvino; what is asked for is verified; auto takes the first of TensorRT, CUDA and
        the CPU (with ONNX Runtime) that really runs the model; `provider_reason` says why
    precision: auto, fp32, fp16, bf16, int8, if the bundle has it (OpenVINO runs a fp32 graph in bf16); auto takes the
        fastest that suits this machine and whose maps agree with fp32's by the bundle's report; `precision_reason` says why
    threads: CPU threads per network run; None: all cores
    cache_bytes: memory for prepared pictures, which `explain` and `explain_many` keep for the next reference; 0: keep none
    notice: called with a line about what takes long while a GPU is made ready, or what auto tried that does not run

    model: what was loaded, see `engine.model.LoadedModel`

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
        notice: Notice = ignore_notice,
    ) -> None:
        if threads is not None:
            require_whole("threads", threads, 1, MOST_THREADS)
        require_whole("cache_bytes", cache_bytes, 0, 2**63)
        folder = Path(bundle) if bundle is not None else demo_bundle()
        self.model, self.provider_reason = load_model(folder, provider, precision, threads, notice)
        self._cache = PreparedCache(cache_bytes)

    @property
    def provider(self) -> str:
        """What runs the networks: cpu, cuda, tensorrt or openvino."""
        return self.model.provider

    @property
    def precision(self) -> str:
        """The precision of the similarity graph: fp32, fp16, bf16 or int8."""
        return self.model.precision

    @property
    def precision_reason(self) -> str:
        """Why that precision was taken, in one line."""
        return self.model.precision_reason

    @property
    def has_gradient(self) -> bool:
        """Whether the bundle has the gradient graph that method mask needs."""
        return self.model.gradient_graph is not None

    def explain(
        self,
        query: ImageLike,
        reference: ReferenceLike,
        method: str | Method = "rise",
        mode: str = "fixed",
        condition: Condition = None,
        baseline: str | None = None,
        *,
        tolerance: float | None = None,
        deadline: float | None = None,
        top: int | None = None,
        ranking: str = JOINT,
        rather_than: ReferenceLike | None = None,
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
            ranking=ranking,
            rather_than=rather_than,
            progress=progress,
        )[0]

    def explain_many(
        self,
        query: ImageLike,
        references: Sequence[ReferenceLike],
        method: str | Method = "rise",
        mode: str = "fixed",
        condition: Condition | Sequence[Condition] = None,
        baseline: str | None = None,
        *,
        tolerance: float | None = None,
        deadline: float | None = None,
        top: int | None = None,
        ranking: str = JOINT,
        rather_than: ReferenceLike | None = None,
        progress: Progress | None = None,
    ) -> list[Explanation]:
        """One explanation per reference, in order; the passes over the query are run once.

        query: a path, a PIL image or a uint8 RGB array (H, W, 3)
        references: the same, or embeddings as `embed` returns them: arrays, tensors or lists of D numbers, (D,) or (1, D)
        method: "rise" or its options, `Rise(masks=...)`
        mode: "fixed": the references shown whole. The others mask each reference too, in as many passes again, map both
            pictures and match their regions; references must be images then. "pair": each map is against the other picture
            shown whole, as in two explanations; "both", as published: against the mean of the other's masked features
        condition: index or name, one for all or one per reference; None compares the embeddings as they are
        baseline: what hidden pixels become: mean, black, white, blur; None: the method's own
        tolerance, deadline: when the passes may end early, see `prepare`; without a cache, the tolerance is judged on the
            references given (mean), and of each masked reference on the query; masked pictures share the time
        top: attributes of a kind to name at most; None: all that reach the bundle's threshold
        ranking: "joint": attributes by the probability of being true of both pictures; "sane": by the paper's rule
        rather_than: one more reference: why those given and not this one? Maps of the difference, from the same passes
        progress: called with (passes done, passes in all), once for each picture that is masked

        Raises ImageError, OptionError.
        """
        require_mode(mode)
        naming, options = Naming(ranking, top), method_named(method)
        passes = PassOptions(
            resolve_baseline(options, baseline), Budget.of(options, True, tolerance, deadline), None, progress or silent
        )
        conditions = self.model.conditions(condition, len(references))
        if rather_than is not None:
            require_rather_than(self.model, options, mode)
        picture = self.model.picture(query)
        if self.model.takes_pairs:
            whole = References.loaded(self.model, references).all_pictures(NO_EMBEDDINGS)
            return explain_pairs(self.model, picture, whole, options, mode, passes, naming)
        if mode == FIXED and not isinstance(options, LearnedMask):
            shown = References.embedded(self.model, references)
            rival = None if rather_than is None else References.embedded(self.model, [rather_than])
            known = known_references(self.model, shown, conditions, rival)
            passes = passes if self._cache.limit else dataclasses.replace(passes, known=known)
            return self._prepared(picture, passes, options).explain_whole(shown, conditions, naming, rival)
        others = References.loaded(self.model, references)
        pictures = [picture, *(others.all_pictures() if mode != FIXED else [])]
        if isinstance(options, LearnedMask):
            return explain_learned(self.model, picture, others, conditions, options, mode, passes, naming)
        prepare = functools.partial(self._prepared, options=options)
        sides = prepare_together(prepare, pictures, conditions, passes, bool(self._cache.limit), masked=mode == BOTH)
        return sides[0].explain_many(sides[1:], conditions, top, mode=mode, ranking=ranking)

    def refining(
        self,
        query: ImageLike,
        reference: ReferenceLike,
        method: str | Method = "rise",
        mode: str = "fixed",
        condition: Condition = None,
        baseline: str | None = None,
        *,
        top: int | None = None,
        ranking: str = JOINT,
    ) -> Iterator[Explanation]:
        """Explanations of one pair, each from 128 masks more than the last, for as long as the caller goes on.

        The first has 256 masks; the last has those of `method`, 1024 for masks="auto". Where both pictures are masked, both
        refine.
        For method rise. Raises ImageError, OptionError.
        """
        options = method_named(method)
        if not isinstance(options, Rise):
            raise OptionError(f"refining needs method rise, got {options.name}: other methods have no map before their end")
        require_mode(mode)
        naming, conditions = Naming(ranking, top), self.model.conditions(condition, 1)
        picture, shown = self.model.picture(query), References.embedded(self.model, [reference])
        pictures = [picture, *(shown.all_pictures() if mode != FIXED else [])]
        first = dataclasses.replace(options, masks=min(AUTO[0], options.most_masks))
        passes = PassOptions(resolve_baseline(options, baseline), Budget())
        sides = [self._prepared(p, passes, first) for p in pictures]

        def explain(sides: list[Prepared]) -> Explanation:
            if mode != FIXED:
                return sides[0].explain_many([sides[1]], conditions, top, mode=mode, ranking=ranking)[0]
            return sides[0].explain_whole(shown, conditions, naming)[0]

        return refined(sides, options.most_masks, explain)

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
        self.model.require_embeddings("prepare a picture")
        options = require_plan(method_named(method)) if plan is None else method_of(plan, method)
        budget = Budget.of(options, plan is None, tolerance, deadline)
        passes = PassOptions(resolve_baseline(options, baseline), budget, None, progress or silent)
        picture = self.model.picture(image)
        if plan is not None:
            return prepare_picture(self.model, picture, options, plan, passes)
        return self._prepared(picture, passes, options)

    def _prepared(self, picture: Picture, passes: PassOptions, options: PlannedMethod) -> Prepared:
        """From the cache, if it is there, else prepared now."""
        digest = hashlib.sha256(picture.pixels.tobytes()).digest()
        key = (digest, picture.box, picture.original_size, options, passes.baseline, passes.budget.tolerance)
        found = self._cache.get(key) if self._cache.limit else None
        if found is None:
            found = prepare_picture(self.model, picture, options, None, passes)
            if self._cache.limit and not found.deadline_reached:
                self._cache.put(key, found)
        return found

    def load_prepared(self, path: str | os.PathLike[str]) -> Prepared:
        """Read what `Prepared.save` wrote. Raises OutputError if the file is something else, OptionError if another model,
        or another precision of this one, made it.
        """
        self.model.require_embeddings("use a prepared picture")
        fields = read_prepared(self.model, Path(path))
        activations = self.model.activations(fields["picture"])  # the bundle's attributes may have changed since
        return with_fits(Prepared(model=self.model, activations=activations, fits=None, **fields))

    def cache_info(self) -> CacheInfo:
        """Hits, misses and bytes of the cache of prepared pictures."""
        return self._cache.info()

    def embed(self, images: Sequence[ImageLike]) -> np.ndarray:
        """(n, D) float32, one row per image, as the network gives them. Raises ImageError."""
        self.model.require_embeddings("embed pictures")
        return self.model.embed(self._pictures("embed", images))

    def confidences(self, images: Sequence[ImageLike]) -> np.ndarray:
        """(n, A) float64 in [0, 1], one row per image: how likely each of the bundle's attributes is true of it.

        A `StoredReference` takes such a row. Raises ImageError; OptionError where the bundle has no attributes.
        """
        return self.model.confidences(self._pictures("confidences", images))

    def _pictures(self, caller: str, images: Sequence[ImageLike]) -> list[Picture]:
        if isinstance(images, (str, os.PathLike)) or not isinstance(images, Sequence):
            raise ImageError(f"{caller} takes a list of images, got {type(images).__name__}")
        return [self.model.picture(image) for image in images]
