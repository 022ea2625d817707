"""A catalogue of prepared pictures that can say why: `Index` is the whole of it for callers."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.assemble import Naming
from engine.bundle.manifest import Condition
from engine.cluster import Cluster
from engine.errors import OptionError
from engine.explainer import Explainer
from engine.explanation import Explanation
from engine.index.audit import LEAST_QUERIES, audit_rows
from engine.index.audited import Audit
from engine.index.building import AddReport, BuildOptions, add_pictures, codec_of, create_index
from engine.index.choosing import TARGET
from engine.index.explaining import Others, RowExplainer, SizedExplainers
from engine.index.listing import Catalogue, Listed, listed_pictures
from engine.index.matches import Match
from engine.index.outside import explain_of_embedding, explain_outside, from_outside
from engine.index.regions import REGION_SIDE
from engine.index.sampling import PreparedById
from engine.index.searching import RowSearch
from engine.index.settings import Fidelity
from engine.index.store import STATE, IndexStore, compact_index, damage
from engine.index.table import ReadRows
from engine.methods import Refinable
from engine.methods.rise import Rise
from engine.pictures.loading import ImageLike
from engine.prepared import Prepared
from engine.protocol import FIXED, PAIR, Notice, Progress, ignore_notice, require_whole, silent
from engine.reference_vectors import ReferenceLike, as_vector
from engine.writing import writing

QueryLike = ImageLike | Prepared | np.ndarray
"""An id in the index, a picture, a prepared picture, or an embedding (D,) float."""
MOST_FOUND = 10_000


class Index:
    """Prepared pictures on disk, to search and to explain. A reader keeps the version that it opened.

    report: what the last `build` or `add` of this object did
    Made by `build` or `open`. Threads that read may share it; one that writes needs an Index of its own.
    """

    def __init__(self, store: IndexStore, explainer: Explainer) -> None:
        self._explainer, self._model = explainer, explainer.model
        self.report: AddReport | None = None
        self._opened(store)

    def _opened(self, store: IndexStore) -> None:
        store.settings.require(self._explainer, store.path)
        self._store, self.settings = store, store.settings
        self._condition = self._model.manifest.condition_index(store.settings.condition)
        self._names = ids = store.table.ids()
        self._places = {id_: place for place, id_ in enumerate(ids)}  # of two rows with one id, the last counts
        alive = np.isin(np.arange(len(ids)), list(self._places.values()))
        self._search = RowSearch(store.path, store.table, self._model, self._condition, alive)
        codec = codec_of(store.settings, store.basis, self._explainer)
        self._explainers = SizedExplainers(self._model, store.table, store.settings, codec, self._condition)

    @classmethod
    def build(
        cls,
        path: str | os.PathLike[str],
        explainer: Explainer,
        images: Catalogue,
        *,
        method: Refinable | None = None,
        condition: Condition = None,
        thumbnails: bool = False,
        target: tuple[float, float] = TARGET,
        cluster: Cluster | None = None,
        progress: Progress = silent,
        notice: Notice = ignore_notice,
    ) -> "Index":
        """Build an index, or go on with one that was stopped: pictures that are in it are not run again.

        images: a folder, a .csv or .parquet with the columns id and path or url, or a dict of sources by id
        method: options of the passes, None: `Rise()`; condition: the one of maps and similarities, one for each index
        thumbnails: keep the pictures too; else explanations read them from their files
        target: correlation with the maps from the passes that the format must reach, the median and the 10th percentile
        cluster: where pictures are prepared; None: in this process

        Raises OptionError, ImageError, OutputError.
        """
        folder, pictures = Path(path), listed_pictures(images)
        explainer.model.require_embeddings("fill an index")
        wanted = explainer.model.manifest.condition_index(condition)
        options = BuildOptions(method or Rise(), wanted, thumbnails, target)
        with writing(folder):
            begun = (folder / STATE).is_file()
            known = {} if begun else create_index(folder, explainer, pictures, options, progress)
            index = cls(IndexStore(folder), explainer)
            if not begun and not index.settings.fidelity.reaches(target):
                notice(f"no format reaches the fidelity that was wanted: {index.settings.fidelity} is the best")
            options.require_same(index.settings, explainer.model.condition_name(wanted), folder)
            index._add(pictures, known, progress, notice, cluster)
        return index

    @classmethod
    def open(cls, path: str | os.PathLike[str], explainer: Explainer | None = None) -> "Index":
        """Open an index. explainer: of its model; None: one is made of its bundle. Raises OutputError, OptionError."""
        store = IndexStore(Path(path))
        return cls(store, explainer or store.settings.explainer(store.path))

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._places

    @property
    def ids(self) -> list[str]:
        """The ids of all rows."""
        return list(self._places)

    @property
    def failed(self) -> dict[str, str]:
        """Why a picture has no row, by id. `add` tries it again."""
        return dict(self._store.state.failed)

    def fidelity(self) -> Fidelity:
        """How close the maps of all rows are to those from the passes, as each was measured when it was added."""
        return Fidelity.of(self._store.table.fidelity())

    def add(
        self,
        images: Catalogue,
        *,
        cluster: Cluster | None = None,
        progress: Progress = silent,
        notice: Notice = ignore_notice,
    ) -> AddReport:
        """Add pictures, see `build`: new ones, changed ones, those that failed. Raises OptionError, OutputError."""
        pictures = listed_pictures(images)
        with writing(self._store.path):
            self._opened(IndexStore(self._store.path))
            return self._add(pictures, {}, progress, notice, cluster)

    def remove(self, ids: Sequence[str]) -> None:
        """Remove rows, or pictures that failed. Raises OptionError if one is neither."""
        with writing(self._store.path):
            store = IndexStore(self._store.path)
            store.recover()
            self._require_known(sorted({*ids} - {*store.table.ids(), *store.state.failed}))
            store.remove(list(ids))
            self._opened(store)
            self._search.write_graph()

    def compact(self) -> None:
        """Write the rows into few files, which opens faster. Raises OutputError if the index is damaged."""
        compact_index(self._store.path)
        self._opened(IndexStore(self._store.path))

    def verify(self) -> list[str]:
        """Compare every file and every row with its checksum; return what is wrong, a line each."""
        return damage(self._store.path)

    def embeddings(self, ids: Sequence[str]) -> np.ndarray:
        """Return the embeddings (n, D) float32 of rows, as the network gave them. Raises OptionError for an unknown id."""
        return self._search.embeddings_at([self._places[self._known(id_)] for id_ in ids])

    def embedding(self, query: QueryLike) -> np.ndarray:
        """Return the embedding (D,) float32 of a row, or of what comes from outside. Raises ImageError."""
        if isinstance(query, Prepared):
            return self._prepared(query).whole
        if isinstance(query, str) and query in self:
            return self.embeddings([query])[0]
        vector = as_vector(query, self.settings.embedding)
        return self._explainer.embed([query])[0] if vector is None else vector

    def thumbnail(self, id_: str) -> bytes | None:
        """Return a row's picture as the network saw it, a JPEG; None where the index keeps none. Raises OptionError."""
        return self._store.table.picture(self._places[self._known(id_)])[2] or None

    def search(self, query: QueryLike, k: int = 20) -> list[Match]:
        """Return the k rows that are most similar to the query, best first; a query that is a row is not among them.

        Raises ImageError, OptionError.
        """
        require_whole("k", k, 1, MOST_FOUND)
        own = isinstance(query, str) and query in self
        places, similarities = self._search.nearest(self.embedding(query), k + own)
        scores, exact = zip(places.tolist(), similarities.tolist(), strict=True), self._search.is_exact
        found = [Match(self._names[place], score, exact=exact) for place, score in scores]
        return [match for match in found if not own or match.id != query][:k]

    def explain(
        self,
        query: QueryLike,
        references: Sequence[str | ReferenceLike],
        *,
        mode: str = PAIR,
        top: int | None = None,
        side: int | None = None,
        rather_than: str | ReferenceLike | None = None,
        correspondence: bool = False,
    ) -> list[Explanation]:
        """Return why the query matches each reference, in order, from what is stored.

        query: an id, or a picture from outside, prepared once; of an embedding, each reference is masked, and a note says so
        references: ids, or embeddings from outside; mode: "pair": with the map of each reference that is a row; "fixed"
        top: attributes of a kind at most; side: of maps, in pixels; None: as the network saw the pictures
        rather_than: one more reference, see `Explainer.explain_many`; correspondence: which tiles match, for two rows

        Raises OptionError, ImageError, OutputError for damaged rows.
        """
        naming, rows = Naming(top=top), self._explainers.at(side)
        if mode not in (FIXED, PAIR):
            raise OptionError(f"an index explains in mode {FIXED} or {PAIR}, got {mode!r}")
        if not references:
            return []
        known = [query] if isinstance(query, str) and query in self else []
        vector = None if isinstance(query, (str, Prepared)) else as_vector(query, self.settings.embedding)
        if (correspondence and not known) or (rather_than is not None and vector is not None):
            raise OptionError("correspondence needs a row as the query, and rather_than a row or a picture")
        if vector is not None:
            read = self._read([self._known(id_) for id_ in references])
            return list(explain_of_embedding(rows, vector, read, naming))
        own, others = self._others(rows, known, references, mode == PAIR)
        rival = None if rather_than is None else self._others(rows, [], [rather_than], False)[1]
        if known:
            return list(rows.explain(own, others, naming, rival, match_regions=correspondence))
        return list(explain_outside(rows, self._prepared(query), others, naming, rival))

    def search_and_explain(
        self, query: QueryLike, k: int = 20, *, mode: str = PAIR, top: int | None = None, side: int | None = None
    ) -> list[Match]:
        """Return `search`, with `explain` of each row that was found. A picture from outside costs its passes."""
        asked = query if isinstance(query, str) and query in self else self._prepared(query)
        found = self.search(asked, k)
        explained = self.explain(asked, [match.id for match in found], mode=mode, top=top, side=side)
        return [dataclasses.replace(m, explanation=e) for m, e in zip(found, explained, strict=True)]

    def annotate(
        self, query: QueryLike, ids: Sequence[str], *, mode: str = PAIR, top: int | None = None, side: int | None = None
    ) -> list[Explanation | None]:
        """Return why the query matches each id that another search found, in its order; None for ids that are not rows."""
        here = [id_ for id_ in ids if id_ in self]
        explained = iter(self.explain(query, here, mode=mode, top=top, side=side))
        return [next(explained) if id_ in self else None for id_ in ids]

    def audit(self, sample: int = 200, k: int = 20, *, seed: int = 0, progress: Progress = silent) -> Audit:
        """Return why the catalogue matches as it does, from random rows and their matches, without near-duplicates.

        sample: rows to ask; k: best matches of each, from 2; seed: of the sample
        Raises OptionError for an index of too few rows, OutputError for damaged ones.
        """
        require_whole("sample", sample, LEAST_QUERIES, MOST_FOUND)
        require_whole("k", k, 2, MOST_FOUND)
        explainers = self._explainers.at(REGION_SIDE), self._explainers.at(None)
        return audit_rows(explainers, self._search, {p: id_ for id_, p in self._places.items()}, (sample, k, seed), progress)

    def _add(
        self, pictures: Sequence[Listed], known: PreparedById, progress: Progress, notice: Notice, cluster: Cluster | None
    ) -> AddReport:
        self._store.recover()
        self.report = add_pictures(self._store, self._explainer, pictures, known, progress, notice, cluster)
        self._opened(self._store)
        self._search.write_graph()
        return self.report

    def _read(self, ids: Sequence[str]) -> ReadRows:
        return self._search.read([self._places[id_] for id_ in ids], ids)

    def _others(
        self, rows: RowExplainer, query: list[str], references: Sequence[str | ReferenceLike], mapped: bool
    ) -> tuple[ReadRows, Others]:
        """Read the query, if it is a row, and the references at once: all are rows, or all come from outside."""
        ids = [one for one in references if isinstance(one, str) and one in self]
        if len(ids) == len(references):
            read = self._read([*query, *ids])
            return read.part(slice(len(query))), rows.others(read.part(slice(len(query), None)), mapped)
        if ids:
            raise OptionError("references must be rows, or come from outside: explain the two kinds in two calls")
        for one in references:
            self._require_known([one] if isinstance(one, str) and not Path(one).is_file() else [])
        return self._read(query), from_outside(self._model, references)

    def _require_known(self, unknown: Sequence[str]) -> None:
        if unknown:
            raise OptionError(f"{self._store.path} has no row {unknown[0]!r}, and no such file is there: name its ids")

    def _known(self, id_: object) -> str:
        if not isinstance(id_, str) or id_ not in self:
            raise OptionError(f"{id_!r} is no row of {self._store.path}: name ids of the index")
        return id_

    def _prepared(self, query: QueryLike) -> Prepared:
        if not isinstance(query, Prepared):
            self._require_known([query] if isinstance(query, str) and not Path(query).exists() else [])
            return self._explainer.prepare(query, self.settings.passes)
        if query.model.graph_digest != self._model.graph_digest:
            raise OptionError("the query was prepared with another model than this index's, or another precision of it")
        return query
