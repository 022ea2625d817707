"""Prepared queries, kept in memory and on disk; attributes as objects for the best alone."""

import gc
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from helpers import BANDAGE, CAT, COUPLE, GESTURE, count_rows

from engine import Explainer, Lime, OptionError, OutputError, Prepared, Rise, Window
from engine.saliency.designs import kept_rows

QUERIES = [pair[0] for pair in (CAT, COUPLE, GESTURE, BANDAGE)]
OTHER = CAT[1]


def test_a_query_is_prepared_once_for_all_its_references(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = Explainer(precision="fp32", cache_bytes=2**26)
    first = explainer.explain(QUERIES[0], OTHER)
    rows = count_rows(monkeypatch)
    again = explainer.explain(QUERIES[0], OTHER)
    assert rows == [1, 1]  # the reference, in the similarity network and in the attribute network
    np.testing.assert_array_equal(first.saliency, again.saliency)
    assert explainer.prepare(QUERIES[0]).explain(OTHER).passes == first.passes
    info = explainer.cache_info()
    assert (info.hits, info.misses, info.entries) == (2, 1, 1)
    assert info.hit_rate == pytest.approx(2 / 3)
    assert 0 < info.bytes <= info.limit == 2**26
    # whatever changes the passes is another entry; a condition, another reference or `top` is not
    for changed in ({"method": Rise(seed=1)}, {"baseline": "white"}, {"tolerance": 0.9}, {"method": Lime(samples=20)}):
        explainer.explain(QUERIES[0], OTHER, **changed)
    assert explainer.cache_info().misses == 5
    explainer.explain_many(QUERIES[0], [OTHER, QUERIES[1]], top=1)
    explainer.explain(QUERIES[0], OTHER, baseline="mean")  # the method's own, said aloud
    assert explainer.cache_info().misses == 5
    late = explainer.prepare(QUERIES[2], Rise(masks=1024), deadline=1e-6)
    assert late.deadline_reached
    assert not explainer.prepare(QUERIES[2], Rise(masks=1024)).deadline_reached


def test_the_least_recently_used_goes_first() -> None:
    size = Explainer(precision="fp32").prepare(QUERIES[0], Rise(masks=64)).nbytes
    explainer = Explainer(precision="fp32", cache_bytes=int(2.5 * size))
    for i in (0, 1, 0, 2):  # 1 makes room for 2
        explainer.prepare(QUERIES[i], Rise(masks=64))
    assert (explainer.cache_info().entries, explainer.cache_info().hits) == (2, 1)
    explainer.prepare(QUERIES[0], Rise(masks=64))
    assert explainer.cache_info().hits == 2
    explainer.prepare(QUERIES[1], Rise(masks=64))
    assert explainer.cache_info().hits == 2
    assert explainer.cache_info().bytes <= explainer.cache_info().limit
    before = explainer.cache_info().bytes
    explainer.prepare(QUERIES[3], Rise(masks=4000, estimator="sane"))  # larger than the cache
    assert explainer.cache_info().bytes == before
    none = Explainer(precision="fp32")
    none.prepare(QUERIES[0], Rise(masks=64))
    assert (none.cache_info().entries, none.cache_info().misses) == (0, 0)
    with pytest.raises(OptionError, match="cache_bytes"):
        Explainer(cache_bytes=-1)


def test_what_is_said_to_be_held_is_held(demo: Explainer) -> None:
    """Against what Python frees with it, after an explanation in mode "both" has made all that it keeps.

    It alone keeps the rows of its seed, as where every picture has its own: `kept_rows` has forgotten them.
    """
    other = demo.prepare(OTHER, Rise(masks=256, seed=1))
    kept_rows.cache_clear()  # of earlier tests
    tracemalloc.start()
    try:
        prepared = demo.prepare(QUERIES[0], Rise(masks=256))
        prepared.explain(other)
        kept_rows.cache_clear()
        said = prepared.nbytes
        before, _ = tracemalloc.get_traced_memory()
        del prepared
        gc.collect()
        freed = before - tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.9 * freed < said < 1.1 * freed


@pytest.mark.parametrize(
    "method", [Rise(), Rise(masks=50, estimator="sane"), Lime(samples=30), Window()], ids=lambda m: f"{m.name} {m.estimator}"
)
def test_a_saved_query_explains_as_before(method: Rise | Lime | Window, tmp_path: Path) -> None:
    explainer = Explainer(precision="fp32")
    prepared = explainer.prepare(QUERIES[0], method, baseline="white")
    prepared.save(tmp_path / "query.npz")
    loaded = Explainer(precision="fp32").load_prepared(tmp_path / "query.npz")
    assert isinstance(loaded, Prepared)
    one, other = prepared.explain(OTHER), loaded.explain(OTHER)
    np.testing.assert_array_equal(one.saliency, other.saliency)
    assert {k: v for k, v in one.to_dict().items() if k != "timings"} == {
        k: v for k, v in other.to_dict().items() if k != "timings"
    }
    if method == Rise():
        np.testing.assert_array_equal(loaded.refine().embeddings, prepared.refine().embeddings)


def test_files_that_do_not_fit_are_refused(tmp_path: Path, tiny_bundle: Path) -> None:
    prepared = Explainer(precision="fp32").prepare(QUERIES[0], Rise(masks=4))
    file = tmp_path / "query.npz"
    prepared.save(file)
    with pytest.raises(OptionError, match="another model"):
        Explainer(tiny_bundle).load_prepared(file)
    with pytest.raises(OptionError, match="precision fp32"):
        Explainer(precision="int8").load_prepared(file)
    with pytest.raises(OptionError, match="different precisions"):
        prepared.explain(Explainer(precision="int8").prepare(QUERIES[1], Rise(masks=4)))
    with pytest.raises(OutputError, match=r"cannot read .*missing\.npz: No such file"):
        Explainer().load_prepared(tmp_path / "missing.npz")
    (tmp_path / "broken.npz").write_bytes(file.read_bytes()[:-400])
    with pytest.raises(OutputError, match=r"cannot read .*broken\.npz: it is not an \.npz archive"):
        Explainer().load_prepared(tmp_path / "broken.npz")
    prepared.explain(OTHER).save(tmp_path / "explanation.npz")
    with pytest.raises(OutputError, match="not a prepared picture"):
        Explainer().load_prepared(tmp_path / "explanation.npz")
    with pytest.raises(OutputError, match=r"\.npz"):
        prepared.save(tmp_path / "query.json")
    with np.load(file) as data:
        arrays = {name: data[name] for name in data}
    arrays["embeddings"] = arrays["embeddings"][:-1]
    np.savez(tmp_path / "short.npz", **arrays)
    with pytest.raises(OutputError, match=r"'embeddings' must be .* \(4, 64\), got float32 \(3, 64\)"):
        Explainer(precision="fp32").load_prepared(tmp_path / "short.npz")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("running", "batch"), 0),
        (("running", "batch"), "x"),
        (("running", "threads"), 10**9),
        (("running", "provider"), "moon"),
        (("baseline",), "pink"),
        (("seconds",), "a"),
        (("options", "seed"), -1),
        (("method",), "guess"),
    ],
)
def test_fields_that_cannot_be_true_are_refused(place: tuple[str, ...], value: object, tmp_path: Path) -> None:
    explainer = Explainer(precision="fp32")
    explainer.prepare(QUERIES[0], Rise(masks=4)).save(tmp_path / "query.npz")
    with np.load(tmp_path / "query.npz") as data:
        arrays = {name: data[name] for name in data}
    fields = json.loads(str(arrays["fields"]))
    inner = fields
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    np.savez(tmp_path / "changed.npz", **{**arrays, "fields": np.array(json.dumps(fields))})
    with pytest.raises(OutputError, match=r"changed\.npz: it is not a prepared picture"):
        explainer.load_prepared(tmp_path / "changed.npz")
    arrays["embeddings"] = np.full_like(arrays["embeddings"], np.nan)
    np.savez(tmp_path / "changed.npz", **arrays)
    with pytest.raises(OutputError, match="not finite"):
        explainer.load_prepared(tmp_path / "changed.npz")


def test_a_refined_query_says_how_it_ran_now(tmp_path: Path) -> None:
    Explainer(precision="fp32", threads=1).prepare(QUERIES[0], Rise(masks=4)).save(tmp_path / "query.npz")
    loaded = Explainer(precision="fp32", threads=2).load_prepared(tmp_path / "query.npz")
    assert loaded.run_settings.threads == 1
    refined = loaded.refine(4)
    assert (refined.run_settings.threads, refined.options) == (2, Rise(masks=8))


def test_a_model_with_many_conditions_keeps_few_fits(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.saliency.map_fits.KEPT_CONDITIONS", 2)
    prepared = Explainer(tiny_bundle).prepare(QUERIES[0], Rise(masks=64))
    first = prepared.explain(prepared.whole, condition=0).saliency
    fits = prepared.fits
    assert fits is not None
    kept = [fits.regression(condition) for condition in (0, 1, 0)]
    assert kept[0] is kept[2]
    fits.regression(2)  # 1 was used least recently and makes room
    assert fits.regression(0) is kept[0]
    assert fits.regression(1) is not kept[1]
    fits.regression(2)
    assert fits.regression(0) is not kept[0]
    np.testing.assert_array_equal(prepared.explain(prepared.whole, condition=0).saliency, first)


def test_top_makes_objects_of_the_best_alone() -> None:
    prepared = Explainer(precision="fp32").prepare(QUERIES[0], Rise(masks=64))
    every = prepared.explain(OTHER).attributes
    assert len(every) >= 2
    for top in (0, 1, 2, 100):
        best = prepared.explain(OTHER, top=top).attributes
        assert [a.name for a in best] == [a.name for a in every[:top]]
