"""A catalogue of prepared pictures: its explanations beside direct ones, its searches, and what is run again."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import CAT, DATA, IMAGENET, count_rows, write_blurred
from index_pictures import write_catalogue
from PIL import Image

from engine import Explainer, Explanation, ImageError, OptionError, OutputError, Rise
from engine.index import Index
from engine.index.choosing import TARGET
from engine.index.listing import listed_pictures
from engine.index.outside import ROW_IS_QUERY
from engine.pictures.fetching import fetched
from export import OnnxSource, export_similarity

pytest.importorskip("lance", reason="needs pylance, of the extra `index`")

IDS = [f"{vendor}/{name}.png" for vendor in ("noto", "twemoji") for name in ("bandage", "cat", "couple", "gesture")]
CATS = ("noto/cat.png", "twemoji/cat.png")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalogue(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def built(demo: Explainer, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: tests that change one copy it."""
    path = tmp_path_factory.mktemp("index") / "demo"
    Index.build(path, demo, pictures)
    return path


@pytest.fixture
def index(built: Path, demo: Explainer, tmp_path: Path) -> Index:
    return Index.open(shutil.copytree(built, tmp_path / "index"), demo)


def alike(a: np.ndarray | None, b: np.ndarray | None) -> float:
    assert a is not None
    assert b is not None
    assert a.shape == b.shape
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_every_picture_has_a_row_and_the_format_reaches_its_target(index: Index) -> None:
    assert index.ids == IDS
    assert len(index) == 8
    assert CATS[0] in index
    assert index.settings.fidelity.reaches(TARGET)
    assert index.fidelity().reaches(TARGET)
    assert index.verify() == []


def test_explanations_are_those_of_the_passes_but_for_compression(index: Index, demo: Explainer, pictures: Path) -> None:
    explained = index.explain(CATS[0], IDS[2:], mode="pair")
    prepared = [demo.prepare(pictures / id_) for id_ in (CATS[0], *IDS[2:])]
    for own, other in zip(explained, prepared[1:], strict=True):
        direct = prepared[0].explain(other, mode="pair")
        assert own.similarity == pytest.approx(direct.similarity, abs=1e-6)
        assert alike(own.saliency, direct.saliency) > 0.95
        assert alike(own.reference_saliency, direct.reference_saliency) > 0.95
        assert own.saliency_reliability == pytest.approx(direct.saliency_reliability, abs=0.02)
        assert own.reference_saliency_reliability == pytest.approx(direct.reference_saliency_reliability, abs=0.02)
        level = np.sqrt(np.square(direct.saliency_error).mean())
        assert np.ptp(own.saliency_error) == 0
        assert own.saliency_error[0, 0] == pytest.approx(level, rel=0.25)
        for kind in ("attributes", "only_query", "only_reference"):
            ours, theirs = ([(a.name, a.score) for a in getattr(e, kind)] for e in (own, direct))
            assert [name for name, _ in ours] == [name for name, _ in theirs]
            np.testing.assert_allclose([s for _, s in ours], [s for _, s in theirs], atol=1e-3)
        assert (own.passes, own.mode, own.model) == (direct.passes, direct.mode, direct.model)
        assert (own.query_box, own.query_size) == (direct.query_box, direct.query_size)
        assert (own.query_image == direct.query_image).all()
        assert (own.reference_image == direct.reference_image).all()
        assert "compressed; correlation with those of the passes: median" in own.notes[-1]


def test_they_are_saved_and_read_back_like_any_other(index: Index, tmp_path: Path) -> None:
    (explanation,) = index.explain(CATS[0], [CATS[1]], correspondence=True)
    for suffix in (".png", ".html", ".json", ".npz"):
        explanation.save(tmp_path / f"why{suffix}")
    loaded = Explanation.load(tmp_path / "why.npz")
    assert (loaded.query_image == explanation.query_image).all()
    assert (loaded.saliency == explanation.saliency).all()
    assert loaded.to_dict() == explanation.to_dict()
    assert "compressed" in (tmp_path / "why.html").read_text()
    assert explanation.on_original().shape == explanation.query_size[::-1]
    changed = dataclasses.replace(explanation, similarity=0.5)
    assert (changed.reference_image == explanation.reference_image).all()


def test_one_way_small_maps_and_few_attributes(index: Index) -> None:
    full, small = (index.explain(CATS[0], CATS[1:], mode="fixed", side=side, top=2)[0] for side in (None, 16))
    assert small.saliency.shape == (16, 16)
    np.testing.assert_allclose(small.saliency, full.saliency.reshape(16, 4, 16, 4).mean((1, 3)), atol=1e-6)
    assert (small.mode, small.reference_saliency, len(small.attributes)) == ("fixed", None, 2)
    assert index.explain(CATS[0], []) == []
    with pytest.raises(OptionError, match="mode fixed or pair, got 'both'"):
        index.explain(CATS[0], CATS[1:], mode="both")


def test_correspondence_of_two_rows(index: Index, demo: Explainer, pictures: Path) -> None:
    (explanation,) = index.explain(CATS[0], [CATS[1]], correspondence=True)
    direct = demo.prepare(pictures / CATS[0]).explain(demo.prepare(pictures / CATS[1]), mode="pair")
    assert alike(explanation.correspondence, direct.correspondence) > 0.95
    ratio = np.linalg.norm(explanation.correspondence) / np.linalg.norm(direct.correspondence)  # type: ignore[arg-type]
    assert ratio == pytest.approx(1, abs=0.1)
    assert explanation.links is None  # nothing is known of the halves of the masks


def test_why_one_rather_than_another(index: Index, demo: Explainer, pictures: Path) -> None:
    (own,) = index.explain(CATS[0], [CATS[1]], rather_than=IDS[0])
    direct = demo.explain(pictures / CATS[0], pictures / CATS[1], rather_than=pictures / IDS[0])
    assert own.rather_than_similarity == pytest.approx(direct.rather_than_similarity, abs=1e-6)
    assert alike(own.saliency, direct.saliency) > 0.95
    assert [a.name for a in own.attributes] == [a.name for a in direct.attributes]
    assert (own.rather_than_image == direct.rather_than_image).all()
    assert own.mode == "fixed"


def test_a_query_from_outside_costs_its_passes_alone(index: Index, demo: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.open(CAT[0]).convert("RGB").rotate(10, fillcolor="white")
    rows = count_rows(monkeypatch)
    prepared = demo.prepare(picture)
    alone, rows[:] = sum(rows), []
    found = index.search_and_explain(picture, 3)
    assert sum(rows) == alone
    assert {found[0].id, found[1].id} == set(CATS)
    own = next(match.explanation for match in found if match.id == CATS[1])
    assert own is not None
    np.testing.assert_allclose(own.saliency, prepared.explain(CAT[1]).saliency, atol=1e-6)  # of the passes
    assert own.mode == "pair"
    (back,) = index.explain(CATS[1], [picture], mode="fixed")
    assert alike(own.reference_saliency, back.saliency) > 0.9999
    small = index.explain(picture, [CATS[1]], side=16)[0]
    assert small.saliency.shape == small.reference_saliency.shape == (16, 16)  # type: ignore[union-attr]


def test_embeddings_from_outside(index: Index, demo: Explainer, pictures: Path) -> None:
    vector = demo.embed([pictures / CATS[1]])[0]
    (own,) = index.explain(CATS[0], [vector])
    (row,) = index.explain(CATS[0], [CATS[1]])
    np.testing.assert_allclose(own.saliency, row.saliency, atol=1e-6)
    assert (own.reference_image, own.reference_saliency) == (None, None)
    (back,) = index.explain(vector, [CATS[0]])  # the row is the query of its explanation
    np.testing.assert_allclose(back.saliency, row.saliency, atol=1e-6)
    assert (back.mode, back.notes[0], back.reference_image) == ("fixed", ROW_IS_QUERY, None)
    np.testing.assert_array_equal(back.query_image, row.query_image)
    assert not any(ROW_IS_QUERY in one.notes for one in (own, row))
    assert index.search(vector, 1)[0].id == CATS[1]


def test_search_is_exact_and_leaves_out_the_row_that_asks(index: Index, demo: Explainer, pictures: Path) -> None:
    unit = demo.embed([pictures / id_ for id_ in IDS]).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    scores = unit @ unit[1]
    order = [i for i in np.argsort(-scores) if i != 1]
    found = index.search(CATS[0], 20)
    assert [match.id for match in found] == [IDS[i] for i in order]
    np.testing.assert_allclose([match.similarity for match in found], scores[order], atol=1e-6)
    assert [m.id for m in index.search(pictures / CATS[0], 2)] == [CATS[0], IDS[order[0]]]


def test_a_large_index_is_searched_without_keeping_it(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = index.search(CATS[0], 5)
    monkeypatch.setattr("engine.index.searching.SEARCH_BYTES", 0)
    again = Index.open(index._store.path, index._explainer)
    assert [vars(m) for m in again.search(CATS[0], 5)] == [vars(m) for m in kept]


@pytest.mark.parametrize("limit", [("table", "ROWS_KEPT_BYTES"), ("searching", "SEARCH_BYTES")])
def test_rows_that_are_not_kept_in_memory_are_explained_alike(
    limit: tuple[str, str], index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [IDS[7], IDS[0], CATS[1], IDS[0]]
    kept = index.explain(CATS[0], asked)
    monkeypatch.setattr("engine.index.{}.{}".format(*limit), 0)
    again = Index.open(index._store.path, index._explainer).explain(CATS[0], asked)
    for own, other in zip(kept, again, strict=True):
        assert (own.saliency == other.saliency).all()
        assert (own.reference_saliency == other.reference_saliency).all()
        assert [a.name for a in own.attributes] == [a.name for a in other.attributes]


def test_another_search_keeps_its_ranking(index: Index) -> None:
    asked = [IDS[0], "unknown", CATS[1], IDS[7]]
    found = index.annotate(CATS[0], asked)
    assert [e is None for e in found] == [False, True, False, False]
    for id_, explanation in zip(asked, found, strict=True):
        if explanation is not None:
            assert explanation.similarity == pytest.approx(index.explain(CATS[0], [id_])[0].similarity)
    assert index.annotate(CATS[0], []) == []


def test_only_what_is_new_or_has_changed_is_run(
    index: Index, pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    rows = count_rows(monkeypatch)
    report = index.add(folder)
    assert (report.added, report.unchanged, rows) == (0, 8, [])
    shutil.copy(pictures / IDS[0], folder / CATS[1])  # the cat is now a bandage
    write_blurred(folder, 1, 64)
    (folder / "broken.png").write_text("no picture")
    report = index.add(folder)
    assert (report.added, report.unchanged, list(report.failed)) == (2, 7, ["broken.png"])
    assert len(index) == 9
    assert index.search(IDS[0], 1)[0].id == CATS[1]
    assert "not a readable picture" in index.failed["broken.png"]
    shutil.copy(pictures / IDS[0], folder / "broken.png")
    assert index.add(folder).added == 1  # what failed is tried again
    assert index.failed == {}
    assert index.verify() == []


def test_rows_are_removed(index: Index) -> None:
    index.remove([CATS[1], IDS[0]])
    assert index.ids == [id_ for id_ in IDS if id_ not in (CATS[1], IDS[0])]
    assert CATS[1] not in {match.id for match in index.search(CATS[0])}
    assert index.verify() == []
    with pytest.raises(OptionError, match=r"has no row 'twemoji/cat\.png'"):
        index.explain(CATS[0], [CATS[1]])
    with pytest.raises(OptionError, match="has no row 'nothing'"):
        index.remove(["nothing"])


def test_a_reader_keeps_what_it_opened(index: Index, demo: Explainer, tmp_path: Path) -> None:
    reader = Index.open(index._store.path, demo)
    before = reader.explain(CATS[0], [CATS[1]])[0]
    index.remove([CATS[1]])
    index.add(write_blurred(tmp_path / "more", 2, 64) if (tmp_path / "more").mkdir() is None else tmp_path)
    index.compact()
    after = reader.explain(CATS[0], [CATS[1]])[0]
    assert (after.saliency == before.saliency).all()
    assert reader.ids == IDS
    assert Index.open(index._store.path, demo).ids == index.ids
    assert index.verify() == []


def test_pictures_are_read_when_they_are_looked_at(index: Index, demo: Explainer, pictures: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    plain, kept = (
        Index.build(tmp_path / str(thumbnails), demo, folder, method=Rise(masks=32), thumbnails=thumbnails)
        for thumbnails in (False, True)
    )
    shutil.copy(folder / IDS[0], folder / CATS[0])
    (explanation,) = plain.explain(CATS[0], [CATS[1]])
    assert explanation.reference_image is not None
    with pytest.raises(ImageError, match="has changed since it was indexed"):
        explanation.query_image  # noqa: B018
    shown = kept.explain(CATS[0], [CATS[1]])[0].query_image
    direct = demo.model.picture(pictures / CATS[0]).pixels
    assert np.abs(shown.astype(int) - direct).mean() < 8  # JPEG


@pytest.mark.parametrize("condition", [None, "shoe"])
@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_every_metric_and_condition(metric: str, condition: str | None, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle
    if metric != "cosine":
        if condition is not None:
            pytest.skip("one metric with conditions is enough")
        bundle = export_similarity(OnnxSource(DATA / "tiny_general.onnx"), IMAGENET, tmp_path / "bundle", metric=metric)
    explainer = Explainer(bundle, precision="fp32")
    (tmp_path / "pictures").mkdir()
    folder = write_blurred(tmp_path / "pictures", 6, 112)
    index = Index.build(tmp_path / "index", explainer, folder, method=Rise(masks=256), condition=condition, target=(1, 1))
    ids = [f"0{i}.png" for i in (1, 2, 3)]
    for id_, own in zip(ids, index.explain("00.png", ids, correspondence=True), strict=True):
        direct = explainer.prepare(folder / "00.png", Rise(masks=256)).explain(
            explainer.prepare(folder / id_, Rise(masks=256)), condition, mode="pair"
        )
        assert own.similarity == pytest.approx(direct.similarity, rel=1e-5)
        assert alike(own.saliency, direct.saliency) > 0.9
        assert alike(own.reference_saliency, direct.reference_saliency) > 0.9
        assert alike(own.correspondence, direct.correspondence) > 0.9
        ratio = np.linalg.norm(own.correspondence) / np.linalg.norm(direct.correspondence)  # type: ignore[arg-type]
        assert ratio == pytest.approx(1, abs=0.1)
        assert own.condition == condition
        if metric == "euclidean":  # the offset's noise goes with that of the rest: what is not known is not said
            assert (own.saliency_error, own.saliency_reliability, own.reference_saliency_reliability) == (None, None, None)
        else:
            assert own.saliency_reliability == pytest.approx(direct.saliency_reliability, abs=0.05)
    scores = {m.id: m.similarity for m in index.search("00.png", 9)}
    assert scores == pytest.approx({id_: index.explain("00.png", [id_])[0].similarity for id_ in scores})
    assert list(scores.values()) == sorted(scores.values(), reverse=True)


def test_another_model_precision_or_table_is_refused(built: Path, tiny_bundle: Path, demo_with: Callable[..., Path]) -> None:
    for explainer, said in (
        (Explainer(tiny_bundle), "built with another model"),
        (Explainer(precision="int8"), "built with precision fp32, this explainer runs int8: make it with precision='fp32'"),
        (Explainer(demo_with(threshold=0.3), precision="fp32"), "attributes .* have changed"),
    ):
        with pytest.raises(OptionError, match=said):
            Index.open(built, explainer)


def test_a_build_with_other_options_does_not_touch_an_index(index: Index, demo: Explainer, pictures: Path) -> None:
    with pytest.raises(OptionError, match="is an index with other options than these"):
        Index.build(index._store.path, demo, pictures, thumbnails=True)
    for method, said in ((Rise(estimator="sane"), "linear in the reference"), (Rise(masks=16), "needs 32 masks or more")):
        with pytest.raises(OptionError, match=said):
            Index.build(index._store.path, demo, pictures, method=method)


def test_catalogues_of_tables_and_urls(pictures: Path, tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "a.csv").write_text(f"id,path,note\n7,{pictures / CATS[0]},x\n3,b.png,y\n")
    found = listed_pictures(tmp_path / "a.csv")
    assert [(one.id, one.source) for one in found] == [("3", str(tmp_path / "b.png")), ("7", str(pictures / CATS[0]))]
    url = (pictures / CATS[0]).as_uri()
    parquet.write_table(pa.table({"id": [7, 3], "url": [url, "s3://bucket/x.jpg"]}), tmp_path / "a.parquet")
    found = listed_pictures(tmp_path / "a.parquet")
    assert [(one.id, one.source) for one in found] == [("3", "s3://bucket/x.jpg"), ("7", url)]
    pytest.importorskip("fsspec")
    with fetched(url) as (copy, digest), fetched(str(pictures / CATS[0])) as (_, same):
        assert digest == same
        assert copy.read_bytes() == (pictures / CATS[0]).read_bytes()
    with pytest.raises(ImageError, match=r"cannot read file:///nowhere\.png"), fetched("file:///nowhere.png"):
        pass


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "id,path\n1,a.png\n1,b.png\n", "ids must be distinct .*, got '1'"),
        ("a.csv", "id,file\n1,a.png\n", "needs the columns id and path, or id and url; it has id, file"),
        ("a.csv", "id,path\n1,a.png,b\n", "line 2: too many columns"),
        ("a.csv", "id,path\n1,a.png\n,b.png\n", "line 3: an id is needed, and the cell is empty"),
        ("a.csv", "path\na.png\n", "the columns must be id and, if wanted, path, url; got path"),
        ("a.csv", "id,path\n", "has no pictures"),
        ("a.parquet", "text", "is not a Parquet file"),
        ("nothing", None, "there is no folder"),
        ("empty", "", "has no pictures"),
    ],
)
def test_catalogues_that_are_none(name: str, text: str | None, said: str, tmp_path: Path) -> None:
    if text == "":
        (tmp_path / name).mkdir()
    elif text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(OptionError, match=said):
        listed_pictures(tmp_path / name)


def test_cells_that_are_empty_are_no_names(demo: Explainer, pictures: Path, tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"id": ["a", None], "path": ["a.png", "b.png"]}), tmp_path / "ids.parquet")
    with pytest.raises(OptionError, match=r"ids\.parquet, row 2: an id is needed"):
        listed_pictures(tmp_path / "ids.parquet")
    parquet.write_table(pa.table({"id": [1.0, float("nan")], "path": ["a.png", "b.png"]}), tmp_path / "nan.parquet")
    with pytest.raises(OptionError, match=r"nan\.parquet, row 2: an id is needed"):
        listed_pictures(tmp_path / "nan.parquet")
    cats = [str(pictures / id_) for id_ in CATS]
    parquet.write_table(pa.table({"id": ["a", "b", "c"], "path": [*cats, None]}), tmp_path / "paths.parquet")
    (tmp_path / "paths.tsv").write_text(f"id\tpath\na\t{cats[0]}\nb\t{cats[1]}\nc\n")  # and by spreadsheets of any country
    assert listed_pictures(tmp_path / "paths.parquet") == listed_pictures(tmp_path / "paths.tsv")
    index = Index.build(tmp_path / "index", demo, tmp_path / "paths.parquet", method=Rise(masks=32))
    assert (index.ids, index.failed) == (["a", "b"], {"c": "its table names no path and no URL"})


def test_what_is_no_index(demo: Explainer, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"there is no index at .*: `python -m engine\.index build"):
        Index.open(tmp_path, demo)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_text("text")
    with pytest.raises(ImageError, match="none of 1 pictures can be read"):
        Index.build(tmp_path / "index", demo, tmp_path / "pictures")


def test_a_table_of_urls_is_built_from_and_what_failed_is_tried_again(
    demo: Explainer, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec")
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    broken = folder / IDS[3]
    content = broken.read_bytes()
    broken.write_text("no picture")
    lines = [f"sku-{i},{(folder / id_).as_uri()}" for i, id_ in enumerate(IDS[:4])]
    (tmp_path / "a.csv").write_text("\n".join(["id,url", *lines, f"gone,{(tmp_path / 'gone.png').as_uri()}"]) + "\n")
    index = Index.build(tmp_path / "index", demo, tmp_path / "a.csv", method=Rise(masks=32))
    assert sorted(index.ids) == ["sku-0", "sku-1", "sku-2"]
    assert sorted(index.failed) == ["gone", "sku-3"]
    assert "cannot read file://" in index.failed["gone"]
    assert (index.explain("sku-0", ["sku-1"])[0].query_image == demo.model.picture(folder / IDS[0]).pixels).all()
    rows = count_rows(monkeypatch)
    report = index.add(tmp_path / "a.csv")
    assert (report.added, report.unchanged, sorted(report.failed), rows) == (0, 3, ["gone", "sku-3"], [])
    broken.write_bytes(content)
    report = index.add(tmp_path / "a.csv")
    assert (report.added, report.unchanged, list(report.failed)) == (1, 3, ["gone"])
    assert list(index.failed) == ["gone"]
    assert sum(rows) < 2 * (32 + 2)  # one picture's passes
