"""Explain why two pictures match: explainer -> prepared (passes run once, maps by algebra) -> passes (the hot loop)."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from engine.assemble import JOINT, Naming
from engine.bundle.manifest import Condition
from engine.cache import CacheInfo, PreparedCache
from engine.errors import ImageError, OptionError
from engine.explain_learned import explain_learned
from engine.explain_pairs import NO_EMBEDDINGS, explain_pairs
from engine.explanation import Explanation
from engine.methods import Method, PlannedMethod, Refinable, method_named, method_of, require_plan, resolve_baseline
from engine.methods.learned_mask import LearnedMask
from engine.opened import Opened
from engine.passed import PassOptions, with_fits
from engine.picture import Picture
from engine.pictures.loading import ImageLike
from engine.pictures.reading import MAX_PIXELS, Reading
from engine.prepare_together import prepare_together
from engine.prepared import Prepared, prepare_picture
from engine.prepared_npz import read_prepared
from engine.protocol import BOTH, FIXED, Notice, Plan, Progress, ignore_notice, require_mode, silent
from engine.rather_than import known_references, require_rather_than
from engine.reference_vectors import ReferenceLike
from engine.references import References, listed
from engine.refining import refined
from engine.saliency.stopping import Budget


class Explainer(Opened):
    """One model, loaded and verified. Threads may share it: equal settings give equal maps, bit for bit.

    bundle: folder made by `python -m export`; None: the embedded demo (emoji)
    provider: auto, cpu, cuda, tensorrt, openvino; what is asked for is verified; auto takes the first of TensorRT, CUDA and
        the CPU that really runs the model, and there the runtime that is fastest of those installed, ONNX Runtime and
        OpenVINO; `provider_reason` says why
    precision: auto, fp32, fp16, bf16, int8, if the bundle has it (OpenVINO runs a fp32 graph in bf16); auto takes the
        fastest that suits this machine and whose maps agree with fp32's by the bundle's report; `precision_reason` says why
    threads: CPU threads per network run, at most 1024; None: all cores that this process may use
    cache_bytes: memory for prepared pictures, which `explain` and `explain_many` keep for the next reference; 0: keep none
    max_pixels, apply_profiles: how pictures are read, see `engine.pictures.reading.Reading`
    notice: called with a line about what takes long while a GPU is made ready, or what auto tried that does not run

    model: what was loaded, see `engine.model.LoadedModel`

    It is pickled by these arguments: whoever unpickles it loads the model. In a fork of the process that loaded it, it and
    what it prepared raise ProcessError. Raises BundleError, ProviderError, OptionError.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | None = None,
        provider: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        cache_bytes: int = 0,
        *,
        max_pixels: int = MAX_PIXELS,
        apply_profiles: bool = False,
        notice: Notice = ignore_notice,
    ) -> None:
        super().__init__(bundle, provider, precision, threads, cache_bytes, Reading(max_pixels, apply_profiles), notice)
        self._cache = PreparedCache(cache_bytes)

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
        references: Iterable[ReferenceLike],
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
        method: "rise" or its options, `Rise(masks=...)`; "tokens" for vision transformers
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
        naming, options, references = Naming(ranking, top), method_named(method), listed(references)
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
        progress: Progress | None = None,
    ) -> Iterator[Explanation]:
        """Explanations of one pair, each from 128 masks more than the last, for as long as the caller goes on.

        The first has 256 masks, of method tokens 192; the last has those of `method`, 1024 for masks="auto". Where both
        pictures are masked, both refine. progress: as in `explain_many`, told of each part on its own.
        For methods rise and tokens. Raises ImageError, OptionError.
        """
        options = method_named(method)
        if not isinstance(options, Refinable):
            got = options.name
            raise OptionError(f"refining needs method rise or tokens, got {got}: other methods have no map before their end")
        require_mode(mode)
        naming, conditions = Naming(ranking, top), self.model.conditions(condition, 1)
        picture, shown = self.model.picture(query), References.embedded(self.model, [reference])
        pictures = [picture, *(shown.all_pictures() if mode != FIXED else [])]
        first = dataclasses.replace(options, masks=min(options.first_look, options.most_masks))
        told = progress or silent
        passes = PassOptions(resolve_baseline(options, baseline), Budget(), None, told)
        sides = [self._prepared(p, passes, first) for p in pictures]

        def explain(sides: list[Prepared]) -> Explanation:
            if mode != FIXED:
                return sides[0].explain_many([sides[1]], conditions, top, mode=mode, ranking=ranking)[0]
            return sides[0].explain_whole(shown, conditions, naming)[0]

        return refined(sides, options.most_masks, explain, told)

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
            then where it should be reached, with tokens after 192 and every 64; judged on the leading directions of the
            masked embeddings. For estimator "regression"; None: for masks="auto" what 2000 masks of the published procedure
            would reach on this picture, with tokens .97, else every mask is run
        deadline: seconds from now after which to stop with what there is, one batch and 4 masks at the least; the fit of the
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
        key = (picture.key, options, passes.baseline, passes.budget.tolerance)
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
        self._model.require_own_process()
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
