"""Prepare the pictures of a catalogue and store them: the format is chosen on a sample, then shard after shard is staged."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from engine.bundle import demo_bundle
from engine.cluster import Cluster, on_cluster
from engine.errors import OptionError
from engine.explainer import Explainer
from engine.failing import PICTURE_ERRORS, picture_failure
from engine.files import sha256_of
from engine.index.choosing import ChoiceSample, choose_format
from engine.index.codec import OperatorCodec
from engine.index.embeddings import ReferenceBasis
from engine.index.graph import APPROXIMATE_ABOVE, usearch_module
from engine.index.listing import Listed, is_unchanged
from engine.index.place import require_own_folder
from engine.index.rows import IndexRow, RowMaker
from engine.index.sampling import PreparedById, embedded_pictures, prepared_picture, some_prepared
from engine.index.settings import NOTHING_SEEN, Fidelity, IndexSettings, attributes_digest
from engine.index.store import DATA, ROWS, STAGED, IndexStore, StagedShard
from engine.index.table import lance_module, staged_fragments
from engine.methods import Refinable
from engine.methods.rise import Rise
from engine.model import LoadedModel
from engine.protocol import Notice, Progress
from engine.saliency.designs import TOKEN_SIDE
from engine.saliency.geometry import Geometry
from engine.saliency.operator import GROUPS

SHARD = 128
"""Pictures that are committed together: a killed build prepares at most so many again."""
SAMPLED, HELD_OUT = 2000, 256
"""Pictures that are embedded before a build, and those of them that no basis is fitted to."""


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """What a build may choose.

    passes: the method's options; condition: the index of the one that maps and similarities are under, None for none
    thumbnails: whether rows hold the picture; target: of the fidelity, its median and its 10th percentile

    Raises OptionError for passes whose maps are not linear in the reference, or say nothing of their error.
    """

    passes: Refinable
    condition: int | None
    thumbnails: bool
    target: tuple[float, float]

    def __post_init__(self) -> None:
        if self.passes.estimator != "regression":
            raise OptionError('an index needs estimator "regression", whose maps are linear in the reference')
        if isinstance(self.passes.masks, int) and self.passes.masks < 2 * GROUPS:
            raise OptionError(f"an index needs {2 * GROUPS} masks or more, to know their error; got {self.passes.masks}")

    def require_same(self, settings: IndexSettings, condition: str | None, path: Path) -> None:
        """Raise OptionError if an index was built with other options. condition: the name of the one that these ask for"""
        asked = (condition, self.passes, self.thumbnails, self.target)
        if (settings.condition, settings.passes, settings.thumbnails, settings.target) != asked:
            raise OptionError(f"{path} is an index with other options than these: `add` uses its own, or build another one")


@dataclasses.dataclass(frozen=True)
class AddReport:
    """What an `add` did. added, unchanged: pictures; failed: reasons by id; fidelity: of the rows that were added"""

    added: int
    unchanged: int
    failed: Mapping[str, str]
    fidelity: Fidelity


def create_index(
    path: Path, explainer: Explainer, pictures: Sequence[Listed], options: BuildOptions, progress: Progress
) -> PreparedById:
    """Choose the format on a sample of the pictures and make an index without rows; return what was prepared for that.

    Raises ImageError if no picture can be read.
    """
    require_own_folder(path)
    lance_module()  # before the passes, which take long
    model = explainer.model
    order = np.random.Generator(np.random.Philox(key=options.passes.seed)).permutation(len(pictures))[:SAMPLED]
    sampled = [pictures[i] for i in order]
    embeddings = embedded_pictures(explainer, sampled)
    features = model.reference_features(embeddings, options.condition)
    held_out = features[: min(max(len(features) // 3, 1), HELD_OUT)]
    known = some_prepared(explainer, sampled, options.passes, progress)
    prepared = [one for one, _ in known.values()]
    own = np.concatenate([model.reference_features(p.whole[None], options.condition) for p in prepared])
    fits = [p.fits.regression(options.condition) for p in prepared if p.fits is not None]
    sample = ChoiceSample(fits, own, held_out, features[len(held_out) :], model.manifest.embedding)
    codec, fidelity = choose_format(sample, options.target)
    table, seen = model.bundle.attributes, prepared[0].seen
    settings = IndexSettings(
        identity=model.bundle.identity,
        graph=model.graph_digest,
        attributes=attributes_digest(model),
        bundle="" if model.bundle.folder == demo_bundle() else str(model.bundle.folder.absolute()),
        precision=model.precision,
        provider=model.provider,
        embedding=model.manifest.embedding,
        metric=model.manifest.metric,
        names=0 if table is None else len(table.names),
        cells=NOTHING_SEEN if seen is None else (seen.maps.shape[1], seen.maps.shape[2]),
        condition=model.condition_name(options.condition),
        passes=options.passes,
        thumbnails=options.thumbnails,
        operator=codec.kept,
        fidelity=fidelity,
        target=options.target,
        apply_profiles=model.reading.apply_profiles,
    )
    IndexStore.create(path, settings, codec.basis.basis, embeddings[: len(held_out)])
    return known


def codec_of(settings: IndexSettings, basis: np.ndarray | None, explainer: Explainer) -> OperatorCodec:
    """Return what stores and reads the operators of an index."""
    references = ReferenceBasis(settings.embedding, settings.has_offset, basis)
    return OperatorCodec.of(settings.operator, references, geometry_of(settings.passes, explainer.model))


def geometry_of(passes: Refinable, model: LoadedModel) -> Geometry:
    """Return what makes maps of the coefficients that these passes are fitted by."""
    size = model.preprocessing.height, model.preprocessing.width
    if isinstance(passes, Rise):
        return Geometry.of(*size, passes.grid)
    (layout,) = (graph.layout for graph in model.manifest.graphs if graph.layout is not None)
    return Geometry.of_tokens(*size, TOKEN_SIDE, (layout.rows, layout.columns))


def add_pictures(
    store: IndexStore,
    explainer: Explainer,
    pictures: Sequence[Listed],
    known: PreparedById,
    progress: Progress,
    notice: Notice,
    cluster: Cluster | None = None,
) -> AddReport:
    """Prepare and commit what is new or has changed. For the writer alone, after `IndexStore.recover`.

    known: pictures that are prepared already, which a cluster prepares again; cluster: where; None: in this process
    """
    digests = store.table.digests()
    pending = [one for one in pictures if one.id in store.state.failed or not is_unchanged(one, digests.get(one.id))]
    if len(digests) + len(pending) > APPROXIMATE_ABOVE:
        usearch_module()  # before the passes, which take long
    results: Iterator[StagedRows]
    if cluster is None:
        results = map(ShardStager(store.path, maker_of(store, explainer), explainer, store.pool, known), shards(pending))
    else:
        results = on_cluster(
            functools.partial(open_stager, store.path.absolute(), explainer.elsewhere()), shards(pending), cluster
        )
    done, fidelity = 0, []
    failed: dict[str, str] = {}
    for staged, found in results:
        store.add_shard(staged)
        failed |= staged.failed
        fidelity.append(found)
        done += len(staged.ids) + len(staged.failed)
        progress(done, len(pending))
    store.drop_older_rows()
    measured = Fidelity.of(np.concatenate(fidelity)) if fidelity else Fidelity.of(np.zeros(0))
    if measured.maps and not measured.reaches(store.settings.target):
        wanted = "median {:.2f}, 10th percentile {:.2f}".format(*store.settings.target)
        notice(
            f"fidelity of the pictures added: {measured}; {wanted} were wanted. The basis fits other pictures than these: "
            "build a new index of all of them"
        )
    return AddReport(len(pending) - len(failed), len(pictures) - len(pending), failed, measured)


def maker_of(store: IndexStore, explainer: Explainer) -> RowMaker:
    """Return what makes the rows of an index."""
    condition = explainer.model.manifest.condition_index(store.settings.condition)
    codec = codec_of(store.settings, store.basis, explainer)
    return RowMaker(store.settings, codec, explainer.model.bundle.attributes, condition)


def shards(pictures: Sequence[Listed]) -> Iterator[Sequence[Listed]]:
    """Cut the pictures into shards of SHARD."""
    for start in range(0, len(pictures), SHARD):
        yield pictures[start : start + SHARD]


StagedRows = tuple[StagedShard, np.ndarray]
"""A shard that is not committed yet, and the fidelity (n, COMPARED) float16 of its rows."""


@dataclasses.dataclass(frozen=True, eq=False)
class ShardStager:
    """Prepares the pictures of a shard and writes their rows without committing them.

    path: of the index; pool: (R, D) float32, embeddings against which fidelity is measured, beside those of the shard
    known: pictures that are prepared; those used are taken out
    """

    path: Path
    maker: RowMaker
    explainer: Explainer
    pool: np.ndarray
    known: PreparedById

    def __call__(self, pictures: Sequence[Listed]) -> StagedRows:
        """Return the shard and its rows' fidelity. Raises OutputError."""
        rows: list[IndexRow] = []
        failed: dict[str, str] = {}
        maker, model = self.maker, self.explainer.model
        features = model.reference_features(self.pool, maker.condition)
        for one in pictures:
            try:
                one.id.encode(), one.source.encode()
                known = self.known.pop(one.id, None)
                prepared, digest = known or prepared_picture(self.explainer, one, maker.settings.passes)
            except PICTURE_ERRORS as error:
                failed[one.id] = picture_failure(error, model)
                continue
            except UnicodeEncodeError:
                failed[one.id] = "its name is not UTF-8: rename it"
                continue
            rows.append(maker.row((one.id, one.source), digest, prepared, features))
            features = np.concatenate([features, model.reference_features(prepared.whole[None], maker.condition)])
        content = "".join(f"{row.id}\0{row.digest.hex()}\0" for row in sorted(rows, key=lambda row: row.id))
        name = hashlib.sha256((content + "\0".join(failed)).encode(errors="backslashreplace")).hexdigest()
        fragments = staged_fragments(self.path / ROWS, maker.settings, rows) if rows else []
        shard = StagedShard(name, fragments, _files(self.path, fragments), [row.id for row in rows], failed)
        shard.write(self.path / STAGED)
        return shard, np.array([row.fidelity for row in rows], np.float16)


def open_stager(path: Path, opening: Callable[..., Explainer], threads: int) -> ShardStager:
    """Return what stages shards of an index in another process. opening: `Explainer.elsewhere` of the writer's"""
    store, explainer = IndexStore(path), opening(threads=threads)
    return ShardStager(path, maker_of(store, explainer), explainer, store.pool, {})


def _files(path: Path, fragments: Sequence[str]) -> dict[str, str]:
    names = [file["path"] for text in fragments for file in json.loads(text)["files"]]
    return {name: sha256_of(path / ROWS / DATA / name) for name in names}
