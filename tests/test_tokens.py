"""Method tokens: balanced plans, and on a small transformer the same answers as from tokens left out by hand."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import count_rows, exit_status, noise
from PIL import Image
from token_networks import exported_vit

from engine import Explainer, Explanation, OptionError, Rise, TokenPlan, Tokens
from engine.bundle import load_bundle
from engine.evaluate.command import main as evaluate
from engine.evaluate.sanity import main as sanity
from engine.methods.tokens import balanced, draw_parts
from engine.runtime.opening import open_tokens
from engine.runtime.token_network import TokenStage
from engine.saliency.map_fits import MapFits
from engine.saliency.regression import contrasts

SIDE = 32
QUERY, REFERENCE, OTHER = (noise(SIDE, SIDE, seed) for seed in range(3))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_vit(tmp_path_factory)


@pytest.fixture(scope="module")
def small(bundle: Path) -> Explainer:
    return Explainer(bundle, "cpu", "fp32")


@pytest.mark.parametrize("side", [4, 7, 8, 13, 14, 16])
@pytest.mark.parametrize("parts", [2, 4])
def test_every_group_divides_the_tokens_evenly(side: int, parts: int) -> None:
    labels = draw_parts(0, 70, parts, side, side).reshape(70, -1)
    counts = np.stack([(labels == part).sum(1) for part in range(parts)])
    assert (counts == side**2 // parts).all()
    assert ((labels == -1).sum(1) == side**2 % parts).all()


def test_fewer_passes_are_the_first_of_more() -> None:
    many, few = (Tokens(masks=masks, kept=0.25, seed=3).plan(7, 7) for masks in (400, 100))
    np.testing.assert_array_equal(many.first(100).kept, few.kept)
    assert not np.array_equal(Tokens(masks=100, kept=0.25, seed=4).plan(7, 7).kept, few.kept)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_whole_block_is_orthogonal(parts: int) -> None:
    """All contrasts of one block but those of the row that divides at random: each token against each other one."""
    groups = 64 if parts == 2 else 22
    labels = draw_parts(0, groups, parts, 8, 8).reshape(groups, 64)
    kept = (labels[:, None] == np.arange(parts)[:, None]).reshape(-1, 64).astype(float)
    rows = contrasts(kept, parts)
    gram = rows.T @ rows
    off = gram - np.diag(np.diag(gram))
    random = np.random.default_rng(0).permuted(np.tile(kept[:parts], (groups, 1, 1)), axis=2).reshape(-1, 64)
    by_chance = contrasts(random, parts)
    chance = by_chance.T @ by_chance
    assert np.abs(off).max() < np.abs(chance - np.diag(np.diag(chance))).max() / 3


def test_balancing_moves_no_more_than_it_must() -> None:
    labels = np.array([0, 0, 0, 0, 0, 1, 1])
    found = balanced(labels, np.array([5, 9, 1, 2, 3, 4, 6]), 2)
    np.testing.assert_array_equal(found, [1, -1, 0, 0, 0, 1, 1])


@pytest.mark.parametrize("kept", [0.5, 0.25])
def test_a_map_is_that_of_tokens_left_out_by_hand(small: Explainer, bundle: Path, kept: float) -> None:
    """Embeddings from the plan's indices one by one, then least squares on the contrasts of what was kept."""
    prepared = small.prepare(QUERY, Tokens(masks=64, kept=kept))
    network = open_tokens(load_bundle(bundle), "cpu", "fp32", None)
    image = small.model.preprocessing.normalised(QUERY)
    assert isinstance(prepared.plan, TokenPlan)
    for i in (0, 1, 63):
        patches = np.flatnonzero(prepared.plan.kept[i].ravel())[None]
        with network.stage(image, lambda start, stop, p=patches: p, 1) as stage:  # type: ignore[misc]
            stage.embed(0, 1)
            np.testing.assert_allclose(stage.embeddings()[0][0], prepared.embeddings[i], atol=1e-5)
    explanation = prepared.explain(REFERENCE)
    assert abs(float(explanation.saliency.mean())) < 1e-7 < float(explanation.saliency.std())
    assert (explanation.method, explanation.baseline, explanation.passes) == ("tokens", "none", 66)


@pytest.mark.parametrize("kept", [0.5, 0.25])
def test_a_planted_token_is_found(kept: float) -> None:
    """A similarity that is linear in the tokens kept: the map is highest at the planted one, and its mean is 0."""
    plan = Tokens(masks=128, kept=kept).plan(8, 8)
    scores = plan.kept[:, 2, 5] + 0.2
    (estimate,) = _fits(plan, scores[:, None]).estimates(np.ones((1, 1)), None)
    rows, columns = np.unravel_index(estimate.saliency.argmax(), estimate.saliency.shape)
    assert (rows // 8, columns // 8) == (2, 5)
    assert abs(float(estimate.saliency.mean())) < 1e-6
    assert estimate.reliability > 0.99


@pytest.mark.parametrize("interacting", [False, True], ids=["linear", "interactions"])
@pytest.mark.parametrize("kept", [0.5, 0.25])
@pytest.mark.parametrize("grid", [(7, 7), (8, 8), (14, 14), (16, 16), (15, 17)], ids=str)
def test_error_bars_cover_planted_maps(grid: tuple[int, int], kept: float, interacting: bool) -> None:
    """90% intervals of tile means, and the reliability beside the correlation that it estimates, over seeds and maps."""
    random, inside, told, true = np.random.default_rng(0), [], [], []
    for seed in range(4):
        plan = Tokens(masks=256, kept=kept, seed=seed).plan(*grid)
        shown = plan.kept.reshape(256, -1).astype(float)
        weights = random.normal(size=(4, shown.shape[1]))
        exact = shown @ weights.T
        noise = random.normal(size=exact.shape)
        if interacting:  # in threes: what pairs do by themselves, halves do not see
            one = (shown - kept)[:, random.permutation(shown.shape[1])]
            noise = one * np.roll(one, 1, 1) * np.roll(one, 2, 1) @ random.normal(size=weights.T.shape)
        noisy = exact + noise / noise.std(0) * exact.std(0) / 2
        maps = plan.design((64, 64)).geometry.tiles(weights)
        for expected, found in zip(maps, _fits(plan, noisy).estimates(np.eye(4), None), strict=True):
            got = found.saliency.reshape(16, 4, 16, 4).mean((1, 3)).ravel()
            inside.append(np.abs(got - expected) <= 1.645 * found.error.ravel())
            told.append(found.reliability)
            true.append(np.corrcoef(got, expected)[0, 1])
    assert 0.8 <= np.mean(inside) <= 0.97
    assert abs(np.mean(told) - np.mean(true)) < 0.05


@pytest.mark.parametrize("kept", [0.5, 0.25])
@pytest.mark.parametrize("grid", [(7, 7), (8, 8), (14, 14), (16, 16)], ids=str)
def test_a_map_of_few_tokens_is_known_to_be_reliable(grid: tuple[int, int], kept: float) -> None:
    """A tenth of the tokens matters, to all features: most others are told apart from them, and the stopping rule knows."""
    random, inside, told, true = np.random.default_rng(0), [], [], []
    for seed in range(4):
        plan = Tokens(masks=256, kept=kept, seed=seed).plan(*grid)
        weights = random.normal(size=(4, grid[0] * grid[1])) * (random.random(grid[0] * grid[1]) < 0.1)
        exact = plan.kept.reshape(256, -1) @ weights.T
        noisy = exact + random.normal(size=exact.shape) * exact.std(0) / 2
        maps = plan.design((64, 64)).geometry.tiles(weights)
        for expected, found in zip(maps, _fits(plan, noisy).estimates(np.eye(4), None), strict=True):
            got = found.saliency.reshape(16, 4, 16, 4).mean((1, 3)).ravel()
            inside.append(np.abs(got - expected) <= 1.645 * found.error.ravel())
            told.append(found.reliability)
            true.append(np.corrcoef(got, expected)[0, 1])
    assert np.mean(inside) >= 0.8
    assert abs(np.mean(told) - np.mean(true)) < 0.02


def test_a_map_without_noise_is_that_of_the_weights() -> None:
    """Also at the borders, where what all tokens share would show: each pass keeps as many, and so it is not known."""
    plan, weights = Tokens(masks=256).plan(8, 8), np.random.default_rng(0).random((1, 64))
    (found,) = _fits(plan, plan.kept.reshape(256, -1) @ weights.T).estimates(np.ones((1, 1)), None)
    (expected,) = plan.design((64, 64)).geometry.maps(weights)
    np.testing.assert_allclose(found.saliency, expected, atol=1e-3 * np.abs(expected).max())


def _fits(plan: TokenPlan, scores: np.ndarray) -> MapFits:
    return MapFits(plan.design((64, 64)), lambda condition: scores, scores.shape[1])


def test_more_passes_equal_preparing_with_as_many(small: Explainer) -> None:
    more = small.prepare(QUERY, Tokens(masks=32)).refine(40)
    whole = small.prepare(QUERY, Tokens(masks=72))
    np.testing.assert_array_equal(more.embeddings, whole.embeddings)
    np.testing.assert_array_equal(more.explain(REFERENCE).saliency, whole.explain(REFERENCE).saliency)
    lengths = [e.passes for e in small.refining(QUERY, REFERENCE, Tokens(masks=300))]
    assert lengths == [194, 302]


def test_many_references_cost_one_prepare(small: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = _counted(monkeypatch)
    several = small.explain_many(QUERY, [REFERENCE, OTHER], Tokens(masks=64))
    assert sum(counted) == 64
    monkeypatch.undo()
    alone = small.explain(QUERY, OTHER, Tokens(masks=64))
    np.testing.assert_allclose(several[1].saliency, alone.saliency, atol=1e-6)


def test_the_stem_runs_once_for_all_passes(small: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    small.model.tokens()  # opens the graphs
    rows = count_rows(monkeypatch)  # of the similarity graph and the stem
    small.prepare(QUERY, Tokens(masks=128))
    assert rows == [1, 1]


def test_both_pictures_and_rather_than(small: Explainer) -> None:
    pair = small.explain(QUERY, REFERENCE, Tokens(masks=64), mode="pair")
    assert pair.reference_saliency is not None
    assert pair.correspondence.shape == (64, 64)  # type: ignore[union-attr]
    assert pair.correspondence_reliability is not None
    told = small.explain(QUERY, REFERENCE, Tokens(masks=64), rather_than=OTHER)
    prepared = small.prepare(QUERY, Tokens(masks=64))
    maps = [prepared.explain(other).saliency for other in (REFERENCE, OTHER)]
    np.testing.assert_allclose(told.saliency, maps[0] - maps[1], atol=1e-5)


def test_prepared_pictures_are_kept_on_disk(small: Explainer, tmp_path: Path) -> None:
    prepared = small.prepare(QUERY, Tokens(masks=64, kept=0.25))
    prepared.save(tmp_path / "prepared.npz")
    read = small.load_prepared(tmp_path / "prepared.npz")
    np.testing.assert_array_equal(read.explain(REFERENCE).saliency, prepared.explain(REFERENCE).saliency)
    explanation = read.explain(REFERENCE)
    explanation.save(tmp_path / "why.npz")
    assert Explanation.load(tmp_path / "why.npz").to_dict() == explanation.to_dict()
    explanation.save(tmp_path / "why.png")


def test_auto_ends_where_the_map_is_reliable(small: Explainer) -> None:
    found = small.prepare(QUERY, "tokens")
    assert len(found.plan) in range(192, 1025, 64)
    assert found.fits is not None
    assert found.fits.convergence(None).reliability >= 0.97 or len(found.plan) == 1024
    assert len(small.prepare(QUERY, "tokens", tolerance=0.1).plan) == 192
    assert small.prepare(QUERY, Tokens(masks=1024), deadline=1e-6).deadline_reached


@pytest.mark.parametrize("kept", [0.5, 0.25])
def test_a_deadline_leaves_at_least_a_whole_group(small: Explainer, monkeypatch: pytest.MonkeyPatch, kept: float) -> None:
    small.prepare(QUERY, Tokens(masks=4))  # opens the model
    monkeypatch.setattr(small.model, "run_settings", dataclasses.replace(small.model.run_settings, batch=1))
    late = small.prepare(QUERY, Tokens(masks=64, kept=kept), deadline=1e-6)
    assert len(late.plan) == 4
    assert np.isfinite(late.explain(REFERENCE).saliency).all()


def test_what_it_does_not_do(small: Explainer, explainer: Explainer) -> None:
    with pytest.raises(OptionError, match="this bundle has none: use method rise"):
        explainer.explain(QUERY, REFERENCE, "tokens")
    with pytest.raises(OptionError, match="paints nothing: leave baseline 'blur' out"):
        small.explain(QUERY, REFERENCE, "tokens", baseline="blur")
    with pytest.raises(OptionError, match=r"kept must be one of 0\.5, 0\.25"):
        Tokens(kept=0.3)
    with pytest.raises(OptionError, match="keep as many tokens"):
        TokenPlan(np.array([[[True, False]], [[True, True]]]), 2)
    with pytest.raises(OptionError, match="the plan keeps tokens of"):
        small.prepare(QUERY, plan=Tokens(masks=8).plan(7, 7))
    with pytest.raises(OptionError, match="at least 8 tokens"):
        Tokens(kept=0.25).plan(2, 2)


def test_methods_are_those_that_a_bundle_has_graphs_for(
    small: Explainer,
    explainer: Explainer,
    bundle: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "tokens" in small.methods
    assert "tokens" not in explainer.methods
    for path, name in ((REFERENCE, "reference.png"), (QUERY, "query.png")):
        Image.fromarray(path).save(tmp_path / name)
    (tmp_path / "pairs.csv").write_text("query,reference\nquery.png,reference.png\n")
    arguments = [str(tmp_path / "pairs.csv"), "--masks", "64", "--precision", "fp32", "--quiet"]
    assert evaluate(
        [*arguments, "--bundle", str(tiny_bundle), "--methods", "tokens,rise", "--out", str(tmp_path / "no.json")]
    )
    assert "name other methods: --methods rise" in capsys.readouterr().err
    assert not evaluate([*arguments, "--bundle", str(bundle), "--methods", "tokens", "--out", str(tmp_path / "yes.json")])
    assert json.loads((tmp_path / "yes.json").read_text())["results"][0]["method"] == "tokens"
    assert exit_status(sanity, ["--sanity", "--methods", "tokens", "--out", str(tmp_path / "sanity.json")]) == 2
    assert "'tokens' is not one of rise, window, lime, mask" in capsys.readouterr().err


def test_a_plan_that_is_handed_in(small: Explainer) -> None:
    plan = Tokens(masks=64).plan(4, 4)
    handed = small.prepare(QUERY, plan=plan).explain(REFERENCE)
    drawn = small.prepare(QUERY, dataclasses.replace(Tokens(), masks=64)).explain(REFERENCE)
    assert (handed.estimator, handed.seed) == ("sane", None)
    coarse = [s.reshape(4, 8, 4, 8).mean((1, 3)).ravel() for s in (handed.saliency, drawn.saliency)]
    assert np.corrcoef(*coarse)[0, 1] > 0.8
    assert Rise(masks=64) != Tokens(masks=64)


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    embed = TokenStage.embed

    def spied(self: TokenStage, first: int, count: int, until: float | None) -> bool:
        counted.append(count)
        return embed(self, first, count, until)

    monkeypatch.setattr(TokenStage, "embed", spied)
    return counted


def test_openvino_gives_the_same(bundle: Path, small: Explainer) -> None:
    pytest.importorskip("openvino")
    other = Explainer(bundle, "openvino", "fp32")
    maps = [e.explain(QUERY, REFERENCE, Tokens(masks=32)).saliency for e in (small, other)]
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-3 * np.abs(maps[0]).max())
