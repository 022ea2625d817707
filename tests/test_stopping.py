"""When the passes end: tolerance, deadline, refining, and one measured batch."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import CAT, COUPLE, GESTURE, count_rows
from hypothesis import given
from hypothesis import strategies as st

from engine import Explainer, ImageError, Lime, OptionError, Rise, Window
from engine.files import cache_folder
from engine.rather_than import known_references
from engine.references import References
from engine.runtime.batch_size import largest_batch, timed_batch
from engine.runtime.session import Session
from engine.saliency.stopping import Budget, Convergence


def test_auto_runs_as_many_masks_as_its_pictures_need(demo: Explainer) -> None:
    easy, hard = demo.explain(*CAT), demo.explain(*COUPLE, tolerance=0.98)
    assert 258 <= easy.passes < hard.passes <= 1026
    assert hard.saliency_reliability >= 0.98 or hard.passes == 1026
    # the number of masks decides the map, not how it was arrived at
    same = demo.explain(*COUPLE, Rise(masks=hard.passes - 2))
    np.testing.assert_array_equal(hard.saliency, same.saliency)
    np.testing.assert_array_equal(hard.saliency_error, same.saliency_error)
    assert demo.explain(*CAT, Rise(estimator="sane", masks=300)).saliency_error is None


def test_by_default_the_map_is_as_good_as_the_published_one() -> None:
    """The estimate of what 2000 published masks reach is what two independent thousands of them say."""
    explainer = Explainer(precision="fp32")
    found = explainer.explain(*COUPLE)
    assert 258 <= found.passes < 1026
    prepared = explainer.prepare(COUPLE[0], Rise(masks=found.passes - 2))
    known = known_references(explainer.model, References.embedded(explainer.model, [COUPLE[1]]), [None])
    told = prepared.fits.convergence(known)
    assert told.reliability >= told.published
    fewer = explainer.prepare(COUPLE[0], Rise(masks=found.passes - 2 - 128)).fits.convergence(known)
    assert fewer.reliability < fewer.published or found.passes == 258
    plain = [explainer.explain(*COUPLE, Rise(masks=2000, estimator="sane", seed=s)).saliency.ravel() for s in range(1, 5)]
    between = np.corrcoef(plain)[np.triu_indices(4, 1)].mean()
    assert np.sqrt(between) == pytest.approx(told.published, abs=0.03)


def test_what_was_asked_about_decides_when_it_is_enough(demo: Explainer, tiny_bundle: Path) -> None:
    """`explain` looks at its reference, under its condition; `prepare` knows neither."""
    found = demo.explain(*CAT, tolerance=0.97)
    fewer = demo.prepare(CAT[0], Rise(masks=256)).explain(CAT[1])
    assert fewer.saliency_reliability >= 0.97
    assert found.passes == 258
    assert len(demo.prepare(CAT[0], tolerance=0.97).plan) > 256
    conditioned = Explainer(tiny_bundle)
    vector = conditioned.embed([CAT[1]])[0]
    prepared = conditioned.prepare(CAT[0], Rise(masks=256))
    for condition in (None, 0, 1, 2):
        known = known_references(conditioned.model, References.embedded(conditioned.model, [vector]), [condition])
        told = prepared.explain(vector, condition=condition).saliency_reliability
        assert prepared.fits.convergence(known).reliability == pytest.approx(told)


def test_pictures_that_are_both_masked_reach_the_tolerance_against_each_other(demo: Explainer) -> None:
    for pair in (CAT, COUPLE, GESTURE):
        both = demo.explain(*pair, mode="both", tolerance=0.93)
        # less than the tolerance by as much as the other picture's further masks moved its mean
        assert min(both.saliency_reliability, both.reference_saliency_reliability) >= 0.925
        assert both.passes < 2 + 2 * 1024
    by_default = demo.explain(*CAT, mode="both")
    assert 2 + 2 * 256 <= by_default.passes < 2 + 2 * 1024
    # the published procedure's few masks on the reference make its map worse, so that fewer of ours do
    sides = [demo.prepare(p, Rise(masks=512)) for p in CAT]
    known = sides[1].as_reference(None)
    masked, whole = (sides[0].fits.convergence({None: k}) for k in (known, dataclasses.replace(known, masked=())))
    assert masked.published < whole.published
    assert masked.reliability == whole.reliability
    several = demo.explain_many(CAT[0], [CAT[1], COUPLE[1]], mode="both", tolerance=0.93)
    assert np.mean([e.saliency_reliability for e in several]) >= 0.925


def test_a_tolerance_never_runs_more_masks_than_were_asked_for(demo: Explainer) -> None:
    assert demo.explain(*COUPLE, Rise(masks=300), tolerance=1).passes == 302
    assert demo.explain(*COUPLE, Rise(masks=100), tolerance=0.5).passes == 102
    assert demo.explain(*COUPLE, Rise(masks=900), tolerance=0.5).passes == 258


def test_several_references_are_judged_by_their_mean(demo: Explainer) -> None:
    vectors = list(demo.embed([CAT[1], COUPLE[1], *GESTURE]))
    found = demo.explain_many(COUPLE[0], vectors, tolerance=0.95)
    assert len({e.passes for e in found}) == 1
    reached = np.mean([e.saliency_reliability for e in found])
    assert reached >= 0.95 or found[0].passes == 1025
    fewer = [demo.prepare(COUPLE[0], Rise(masks=256)).explain(v).saliency_reliability for v in vectors]
    assert (np.mean(fewer) >= 0.95) == (found[0].passes == 257)


@given(
    done=st.integers(0, 2000),
    fidelity=st.none() | st.builds(Convergence, st.floats(0, 1), st.floats(0, 1)),
    total=st.integers(1, 2000),
    tolerance=st.none() | st.floats(0.01, 1),
)
def test_goals_go_forward_and_end(done: int, fidelity: Convergence | None, total: int, tolerance: float | None) -> None:
    goal = Budget(tolerance, as_published=tolerance is None).goal(done, fidelity, total)
    if goal is None:
        assert done >= total or fidelity.reliability >= (fidelity.published if tolerance is None else tolerance)
    else:
        assert done < goal <= total
    assert Budget().goal(done, fidelity, total) == (None if done >= total else total)


def test_a_deadline_gives_the_best_map_so_far_with_its_error(demo: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = demo.prepare(CAT[0], Rise(masks=1024))
    clock = [0.0]
    monkeypatch.setattr("engine.passes.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("engine.saliency.stopping.time.perf_counter", lambda: clock[0])
    run = Session.run

    def slow(self: Session, batch: np.ndarray) -> np.ndarray:
        clock[0] += 0.1 * (len(batch) > 1)
        return run(self, batch)

    monkeypatch.setattr(Session, "run", slow)
    late = demo.prepare(CAT[0], Rise(masks=1024), deadline=0.35)
    assert late.deadline_reached
    assert len(late.plan) == 3 * late.run_settings.batch  # a fourth would have ended after 0.4
    np.testing.assert_array_equal(late.embeddings, whole.embeddings[: len(late.plan)])
    explanation = late.explain(CAT[1])
    assert explanation.saliency_error is not None
    assert "the deadline ended the passes early" in explanation.notes[0]
    at_least = demo.prepare(CAT[0], Rise(estimator="sane"), deadline=1e-6)
    assert len(at_least.plan) == at_least.run_settings.batch
    assert len(demo.prepare(CAT[0], Lime(samples=300), deadline=0.15).plan) == late.run_settings.batch
    looked = demo.prepare(CAT[0], tolerance=1, deadline=0.1 * (256 / late.run_settings.batch + 0.05))
    assert len(looked.plan) == 256  # one batch more would be late
    assert looked.deadline_reached
    clock[0] = 0.0
    in_time = demo.prepare(CAT[0], Rise(masks=64), deadline=60.0)
    assert not in_time.deadline_reached
    both = demo.explain(*CAT, Rise(masks=1024), mode="both", deadline=0.45)
    assert both.passes <= 2 + 4 * late.run_settings.batch


def test_refining_is_preparing_with_more_masks(demo: Explainer) -> None:
    for estimator in ("regression", "sane"):
        first = demo.prepare(CAT[0], Rise(masks=200, estimator=estimator, seed=4))
        further = first.refine(100).refine()
        once = demo.prepare(CAT[0], Rise(masks=428, estimator=estimator, seed=4))
        assert (len(first.plan), len(further.plan)) == (200, 428)
        np.testing.assert_allclose(further.embeddings, once.embeddings, atol=1e-5)
        np.testing.assert_allclose(further.explain(CAT[1]).saliency, once.explain(CAT[1]).saliency, atol=1e-3)
        assert further.seconds > first.seconds
    for prepared in (demo.prepare(CAT[0], Lime(samples=9)), demo.prepare(CAT[0], plan=once.plan)):
        with pytest.raises(OptionError, match="refine needs method rise"):
            prepared.refine()
    with pytest.raises(OptionError, match="masks"):
        once.refine(0)


def test_refining_yields_better_and_better_explanations(demo: Explainer) -> None:
    found = list(demo.refining(*COUPLE, top=1))
    assert [e.passes for e in found] == [m + 2 for m in range(256, 1025, 128)]
    told = [e.saliency_reliability for e in found]
    assert told[-1] > told[0]
    assert np.mean(found[-1].saliency_error) < np.mean(found[0].saliency_error)
    assert all(len(e.attributes) <= 1 for e in found)
    two = list(demo.refining(*CAT, Rise(masks=300), mode="both"))
    assert [e.passes for e in two] == [2 * 256 + 2, 2 * 300 + 2]
    assert two[1].correspondence is not None
    with pytest.raises(OptionError, match="refining needs method rise"):
        demo.refining(*CAT, "window")
    with pytest.raises(ImageError):
        demo.refining(CAT[0], "nowhere.png")


@pytest.mark.parametrize(
    "options",
    [
        {"tolerance": 0},
        {"tolerance": 1.5},
        {"tolerance": "high"},
        {"tolerance": 0.9, "method": Rise(estimator="sane")},
        {"tolerance": 0.9, "method": "window"},
        {"deadline": 0},
        {"deadline": float("nan")},
        {"deadline": "soon"},
        {"deadline": 1, "method": Window()},
        {"top": -1},
        {"top": 1.5},
    ],
)
def test_impossible_ends_are_refused(demo: Explainer, options: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        demo.explain(*CAT, **options)  # type: ignore[arg-type]


def test_a_plan_handed_in_has_no_tolerance(demo: Explainer) -> None:
    plan = demo.prepare(CAT[0], Rise(masks=40)).plan
    prepared = demo.prepare(CAT[0], plan=plan)
    assert prepared.explain(CAT[1]).estimator == "sane"
    with pytest.raises(OptionError, match="tolerance"):
        demo.prepare(CAT[0], plan=plan, tolerance=0.9)


@pytest.mark.parametrize(
    "options", [{"precision": "fp32"}, {"precision": "int8"}, {"precision": "int8", "cache_bytes": 2**22}]
)
def test_threads_that_share_an_explainer_get_the_serial_maps(options: dict[str, Any]) -> None:
    explainer = Explainer(**options)
    pairs = [CAT, COUPLE] * 3

    def maps(pair: tuple[Path, Path]) -> bytes:
        return explainer.explain(*pair, Rise(masks=256)).saliency.tobytes()

    serial = [maps(pair) for pair in pairs]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(maps, pairs)) == serial
        prepared = explainer.prepare(CAT[0], Rise(masks=256))
        shared = list(pool.map(lambda _: prepared.explain(CAT[1]).saliency.tobytes(), range(4)))
    assert shared == [serial[0]] * 4


def test_the_batch_is_measured_once_and_kept(demo: Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = demo.model
    preprocessing, picture = model.preprocessing, model.bundle.canonical["picture"]

    def batch_of(number: int) -> int:
        return timed_batch(model.similarity, preprocessing, ("model", number), picture).batch

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sizes = count_rows(monkeypatch)
    batch = batch_of(2)
    assert batch in sizes
    assert set(sizes) == {16, 32, 64}
    (file,) = cache_folder().glob("batch-*.json")
    kept = json.loads(file.read_text())
    assert (kept["batch"], kept["setting"]) == (batch, ["model", 2])
    assert 0 < kept["row_seconds"] < 1
    file.write_text(json.dumps({"batch": 32, "row_seconds": 0.5}))
    sizes.clear()
    assert batch_of(2) == 32
    assert not sizes
    for damaged in (
        "{",
        "[]",
        '{"batch": 32}',
        '{"batch": 5, "row_seconds": 1}',
        '{"batch": 32, "row_seconds": -1}',
        "[" * 10**5,
    ):
        file.write_text(damaged)
        assert batch_of(2) in (16, 32, 64)
    assert batch_of(3) in (16, 32, 64)
    assert len(list(cache_folder().glob("batch-*.json"))) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")  # cannot be written: measured each time
    assert batch_of(2) <= largest_batch(preprocessing)


def test_no_batch_is_tried_whose_activations_would_fill_the_memory(demo: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    held = [0]

    class Greedy:
        def run(self, batch: np.ndarray) -> np.ndarray:
            sizes.append(len(batch))
            held[0] = max(held[0], len(batch) * 9 * 10**6)  # an arena keeps its largest size
            return batch

    monkeypatch.setattr("engine.runtime.batch_size.resident_bytes", lambda: 10**9 + held[0])
    picture = np.zeros((64, 64, 3), np.uint8)
    assert timed_batch(Greedy(), demo.model.preprocessing, ("greedy",), picture).batch in (16, 32)
    assert max(sizes) == 32  # 64 would take 576 MB
