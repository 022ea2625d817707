"""Method mask: pictures to pairs, pairs side by side to learned masks, masks to explanations."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from engine.assemble import Naming, assemble, rank_attributes, with_reference_map
from engine.attributes.ranking import Activations
from engine.explanation import Explanation
from engine.methods.learned_mask import LearnedMask, MaskPair, learn, rows_per_step
from engine.model import LoadedModel
from engine.passed import PassOptions
from engine.passes import whole_embeddings
from engine.picture import Picture
from engine.protocol import BOTH, FIXED, PAIR, Progress
from engine.references import References
from engine.runtime.batch_size import largest_batch
from engine.saliency.flatness import HIDING_CHANGES_NOTHING, OF_REFERENCE
from engine.saliency.regression import Estimate
from engine.saliency.stopping import Budget
from engine.seen_attributes import seen_in_embedding

ROOM = 4
"""Activations kept for the backward pass take about this many times the memory of a forward pass."""


def explain_learned(
    model: LoadedModel,
    query: Picture,
    references: References,
    conditions: Sequence[int | None],
    options: LearnedMask,
    mode: str,
    passes: PassOptions,
    naming: Naming,
) -> list[Explanation]:
    """One explanation per reference, in order; references are learned from side by side, as many at once as memory allows.

    mode: "both": a mask for either picture, learned together; "pair": each learned against the other picture shown whole
    references: pictures in both of these; the embeddings of pictures are computed here, in fp32
    Raises OptionError where the model has no gradient graph.
    """
    if mode == PAIR:
        return _explain_pair(model, query, references, conditions, options, passes, naming)
    sides = 1 + (mode == BOTH)
    network, preprocessing = model.gradient().network, model.preprocessing
    preprocessing.baseline(passes.baseline, query.pixels)  # an unknown name costs no passes
    whole = [query.pixels, *(r.pixels for r in references.pictures if r is not None)]
    embedded = whole_embeddings(network, preprocessing, whole, largest_batch(preprocessing))
    targets = references.embeddings.copy()
    targets[[r is not None for r in references.pictures]] = embedded[1:]
    references = dataclasses.replace(references, embeddings=targets)
    at_once = max(largest_batch(preprocessing) // ROOM // sides, 1)
    rows = options.iterations * rows_per_step(sides)
    found: list[Explanation] = []
    for start in range(0, len(references), at_once):
        part = slice(start, start + at_once)

        def shown(done: int, _: int, before: int = start * rows) -> None:
            passes.progress(before + done, len(references) * rows)

        share = passes.budget.share(-(-(len(references) - start) // at_once))
        learners = _Learners(model, query, embedded[:1], references[part], conditions[part], passes.baseline, sides)
        found += learners.explanations(options, share, naming, shown)
    return found


def _explain_pair(
    model: LoadedModel,
    query: Picture,
    references: References,
    conditions: Sequence[int | None],
    options: LearnedMask,
    passes: PassOptions,
    naming: Naming,
) -> list[Explanation]:
    """Each picture against the other shown whole: the references are explained one by one, and share the time."""
    pictures = references.all_pictures()
    own = dataclasses.replace(passes, budget=passes.budget.share(2))
    explained = explain_learned(model, query, references, conditions, options, FIXED, own, naming)
    unnamed = Naming(naming.ranking, top=0)
    found = []
    for done, (explanation, picture, condition) in enumerate(zip(explained, pictures, conditions, strict=True)):
        own = dataclasses.replace(passes, budget=passes.budget.share(len(pictures) - done))
        shown = References([query], np.zeros_like(references.embeddings[:1]), [None])
        (other,) = explain_learned(model, picture, shown, [condition], options, FIXED, own, unnamed)
        found.append(with_reference_map(explanation, other, PAIR))
    return found


def _noted(explanation: Explanation, flat: Sequence[bool]) -> Explanation:
    """The same with notes about sides (query, reference) that hiding does not change."""
    notes = tuple(
        note
        for note, nothing in zip((HIDING_CHANGES_NOTHING, OF_REFERENCE[HIDING_CHANGES_NOTHING]), flat, strict=False)
        if nothing
    )
    return dataclasses.replace(explanation, notes=notes + explanation.notes)


class _Learners:
    """A query and the references that are learned from side by side, in fp32.

    own: (1, D) float32, the query's embedding; references: with embeddings of all; sides: 1, or 2 where references are
    masked too; the rest as above
    """

    def __init__(
        self,
        model: LoadedModel,
        query: Picture,
        own: np.ndarray,
        references: References,
        conditions: Sequence[int | None],
        hidden: str,
        sides: int,
    ) -> None:
        self._model, self._query, self._references, self._conditions = model, query, references, conditions
        self._own, self._hidden, self._sides = own, hidden, sides

    def explanations(self, options: LearnedMask, budget: Budget, naming: Naming, progress: Progress) -> list[Explanation]:
        began, model, gradient = time.perf_counter(), self._model, self._model.gradient()
        channels_last = model.preprocessing.layout == "nhwc"
        pairs = self._pairs(options.seed)
        learned = learn(gradient.session, gradient.network, pairs, options, channels_last, budget.until, progress)
        maps = learned.maps(model.preprocessing.height, model.preprocessing.width)  # (n, s, H, W)
        ranked = rank_attributes(model, self._seen(), list(maps[:, 0]), self._references, naming)
        seconds = (time.perf_counter() - began) / len(pairs)
        explained = [
            assemble(
                model,
                self._query,
                reference,
                self._similarity(self._own, i),
                Estimate(maps[i, 0]),
                self._conditions[i],
                ranked[i],
                naming,
                deadline_reached=learned.iterations < options.iterations,
                reference_saliency=maps[i, 1] if self._sides == 2 else None,
                method=options.name,
                mode=BOTH if self._sides == 2 else FIXED,
                estimator=options.estimator,
                baseline=self._hidden,
                seed=options.seed,
                passes=learned.iterations * rows_per_step(self._sides) + 1 + (reference is not None) + self._needs_scale,
                timings={"prepare": 0.0, "explain": seconds},
                provider=gradient.provider,
                precision="fp32",
                threads=model.threads,
                batch=self._sides * len(pairs),
            )
            for i, reference in enumerate(self._references.pictures)
        ]
        return [_noted(explanation, flat) for explanation, flat in zip(explained, learned.flat.tolist(), strict=True)]

    def _seen(self) -> Activations | None:
        """What is seen of the query's attributes; there are no masked passes to say where vectors see them."""
        vectors = self._model.bundle.vectors
        seen = self._model.activations(self._query)
        return seen if seen is not None or vectors is None else seen_in_embedding(vectors, self._own[0])

    def _pairs(self, seed: int) -> list[MaskPair]:
        preprocessing = self._model.preprocessing
        pairs, blank = [], self._blank()
        for i, reference in enumerate(self._references.pictures):
            pictures = [self._query, reference][: self._sides]
            pixels = [p.pixels for p in pictures if p is not None]
            images = preprocessing.normalised(np.stack(pixels))
            baselines = np.stack([preprocessing.baseline(self._hidden, p) for p in pixels])
            scale = 1.0
            if blank is not None:
                scale = abs(self._similarity(self._own, i) - self._similarity(blank, i)) or 1.0
            weights = self._model.weights(self._conditions[i])
            pairs.append(MaskPair(images, baselines, self._references.embeddings[i], weights, scale, seed))
        return pairs

    @property
    def _needs_scale(self) -> bool:
        """A dot product or a distance has no unit to weigh a mask's size against, so its scale is measured first."""
        return self._model.manifest.metric != "cosine"

    def _blank(self) -> np.ndarray | None:
        """Embedding (1, D) of the query with every pixel hidden; None if nothing needs it."""
        if not self._needs_scale:
            return None
        return self._model.gradient().network.run(self._model.preprocessing.baseline(self._hidden, self._query.pixels)[None])

    def _similarity(self, embedding: np.ndarray, index: int) -> float:
        """Similarity of an embedding (1, D) to one reference."""
        condition, model = self._conditions[index], self._model
        other = model.reference_features(self._references.embeddings[index : index + 1], condition)
        return float((model.query_features(embedding, condition) @ other.T).item())
