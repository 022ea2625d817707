"""Explain the pairs of a part: each query is prepared once."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.assemble import Naming
from engine.batch.folder import BatchFolder
from engine.batch.pairs import ListedPair, Part
from engine.explainer import Explainer
from engine.explanation import Explanation
from engine.failing import PICTURE_ERRORS, picture_failure
from engine.methods.rise import Rise
from engine.picture import Picture
from engine.pictures.fetching import fetched, named_source
from engine.prepared import Prepared
from engine.protocol import FIXED
from engine.references import References

REFERENCES_AT_ONCE = 32
"""References that are in memory at a time."""


@dataclasses.dataclass(frozen=True)
class BatchOptions:
    """How pairs are explained.

    images: the folder that paths are relative to; mode: fixed, pair or both; rise: the passes
    pictures: whether each explanation is drawn too
    """

    images: Path
    mode: str
    rise: Rise
    pictures: bool


@dataclasses.dataclass(frozen=True)
class PartDone:
    """What became of a part: how many of its pairs are explained, and how many failed."""

    explained: int
    failed: int


@dataclasses.dataclass(frozen=True, eq=False)
class PartExplainer:
    """Explains parts and writes them."""

    explainer: Explainer
    options: BatchOptions
    folder: BatchFolder

    def __call__(self, part: Part) -> PartDone:
        """Explain a part's pairs and write it. Pairs whose pictures fail are written with the reason."""
        with self.folder.writing_part(part.number) as written:
            failed = written.failed
            for pairs in part.queries:
                try:
                    query = self._prepared(pairs[0].query)
                except PICTURE_ERRORS as error:
                    failed |= dict.fromkeys(pairs, picture_failure(error, self.explainer.model))
                    continue
                for start in range(0, len(pairs), REFERENCES_AT_ONCE):
                    for pair, found in self._explained(query, pairs[start : start + REFERENCES_AT_ONCE], failed):
                        written.add(pair, found, draw=self.options.pictures)
        return PartDone(len(part) - len(failed), len(failed))

    def _explained(
        self, query: Prepared, pairs: Sequence[ListedPair], failed: dict[ListedPair, str]
    ) -> list[tuple[ListedPair, Explanation]]:
        """Return the explanations of some pairs of a query; those that fail are added with the reason."""
        known: dict[ListedPair, Picture | Prepared] = {}
        for pair in pairs:
            try:
                load = self._picture if self.options.mode == FIXED else self._prepared
                known[pair] = load(pair.reference)
            except PICTURE_ERRORS as error:
                failed[pair] = picture_failure(error, self.explainer.model)
        return self._against(query, known, failed)

    def _against(
        self, query: Prepared, known: dict[ListedPair, Picture | Prepared], failed: dict[ListedPair, str]
    ) -> list[tuple[ListedPair, Explanation]]:
        """Return the explanations against references that were read; together if that goes well, else one by one."""
        model = self.explainer.model
        conditions = [model.manifest.condition_index(pair.condition) for pair in known]
        shown = [reference for reference in known.values() if isinstance(reference, Picture)]
        masked = [reference for reference in known.values() if isinstance(reference, Prepared)]
        try:
            if masked:
                found = query.explain_many(masked, conditions, mode=self.options.mode)
            else:
                references = References(shown, model.embed(shown), [None] * len(shown))
                found = query.explain_whole(references, conditions, Naming())
            return list(zip(known, found, strict=True))
        except PICTURE_ERRORS as error:
            reason = picture_failure(error, model)
            if len(known) == 1:
                failed |= dict.fromkeys(known, reason)
                return []
        return [one for pair, own in known.items() for one in self._against(query, {pair: own}, failed)]

    def _prepared(self, given: str) -> Prepared:
        with fetched(named_source(self.options.images, given)) as (file, _):
            return self.explainer.prepare(file, self.options.rise)

    def _picture(self, given: str) -> Picture:
        with fetched(named_source(self.options.images, given)) as (file, _):
            return self.explainer.model.picture(file)


def open_part_explainer(
    opening: Callable[..., Explainer], options: BatchOptions, folder: BatchFolder, threads: int
) -> PartExplainer:
    """Return what explains parts in another process. opening: `Explainer.elsewhere` of this one"""
    return PartExplainer(opening(threads=threads), options, folder)
