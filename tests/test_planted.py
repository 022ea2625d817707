"""Truth planted in networks made by hand: what every method must find, and what none may find by chance."""

import base64
import dataclasses
import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import count_rows, views_of
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from engine import Explainer, Lime, LimePlan, Rise, RisePlan, Window
from engine.pictures.preprocessing import Preprocessing
from engine.render.colours import PANEL
from engine.render.html import page
from engine.render.panels import panels
from engine.render.png import GAP, LINE, draw_explanation
from engine.saliency.correspondence import correspondence, split_half_reliability, tile_features
from export import OnnxSource, export_similarity

SIDE, GRID = 64, 8
TILE = SIDE // GRID
PLAIN = Preprocessing(SIDE, SIDE)  # pixels / 255, so that the mean baseline is black
METHODS = (Rise(masks=1000, estimator="sane"), Rise(), Window(), Lime(samples=300))


def bundle(folder: Path, nodes: list[onnx.NodeProto], size: int, metric: str, **tensors: np.ndarray) -> Explainer:
    """An engine on a graph from `image` (N, 3, 64, 64) to `embedding` (N, size)."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", size])
    constants = [numpy_helper.from_array(v, k) for k, v in tensors.items()]
    graph = helper.make_graph(nodes, "planted", [image], [embedding], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "planted.onnx")
    return Explainer(export_similarity(OnnxSource(folder / "planted.onnx"), PLAIN, folder / "bundle", metric=metric))


def colours(folder: Path, metric: str) -> Explainer:
    """A network that gives the mean of each channel over the picture, and sees nothing else."""
    node = helper.make_node("ReduceMean", ["image", "axes"], ["embedding"], keepdims=0)
    return bundle(folder, [node], 3, metric, axes=np.array([2, 3]))


def test_rows_that_no_mask_fills_may_be_what_they_like(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("ReduceL2", ["mean", "last"], ["norm"], keepdims=1),
        helper.make_node("Div", ["mean", "norm"], ["embedding"]),  # not a number for a picture of zeros
    ]
    explainer = bundle(tmp_path, nodes, 3, "cosine", axes=np.array([2, 3]), last=np.array([1]))
    picture = np.random.default_rng(0).integers(100, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    assert explainer.model.run_settings.batch > 2
    assert np.isfinite(explainer.explain(picture, picture, Rise(masks=2)).saliency).all()


def blocks() -> np.ndarray:
    """(64, 64) labels of 8 x 8 tiles, row-major."""
    row, column = np.divmod(np.arange(SIDE * SIDE).reshape(SIDE, SIDE), SIDE)
    return row // TILE * GRID + column // TILE


@pytest.mark.parametrize("mode", ["fixed", "both"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.name} {m.estimator}")
def test_every_method_finds_the_one_region_a_network_sees(method: Rise | Window | Lime, mode: str, tmp_path: Path) -> None:
    top, left, side = 36, 12, 16
    nodes = [
        helper.make_node("Slice", ["image", "from", "to", "of"], ["region"]),
        helper.make_node("Flatten", ["region"], ["embedding"]),
    ]
    cut = {"from": np.array([top, left]), "to": np.array([top + side, left + side]), "of": np.array([2, 3])}
    explainer = bundle(tmp_path, nodes, 3 * side * side, "dot", **cut)
    pictures = [np.random.default_rng(s).integers(100, 256, (SIDE, SIDE, 3)).astype(np.uint8) for s in (0, 1)]
    explanation = explainer.explain(*pictures, method, mode=mode)
    maps = [explanation.saliency] + ([explanation.reference_saliency] if mode == "both" else [])
    for saliency in maps:
        row, column = np.unravel_index(saliency.argmax(), saliency.shape)
        if method.name == "lime":  # superpixels have edges of their own: the best one overlaps the region
            best = saliency == saliency.max()
            assert best[top : top + side, left : left + side].any()
        else:
            assert top <= row < top + side
            assert left <= column < left + side


def test_only_the_region_that_a_network_sees_is_coloured_in_picture_and_page(tmp_path: Path) -> None:
    top, left, side, cell = 36, 12, 16, 12  # pixels; a mask shows a region's surroundings with it, a cell and a half around
    nodes = [
        helper.make_node("Slice", ["image", "from", "to", "of"], ["region"]),
        helper.make_node("Flatten", ["region"], ["embedding"]),
    ]
    cut = {"from": np.array([top, left]), "to": np.array([top + side, left + side]), "of": np.array([2, 3])}
    explainer = bundle(tmp_path, nodes, 3 * side * side, "cosine", **cut)
    pictures = [np.random.default_rng(s).integers(100, 256, (SIDE, SIDE, 3)).astype(np.uint8) for s in (2, 3)]
    explanation = explainer.explain(*pictures)
    on_white = dataclasses.replace(explanation, query_image=np.full((SIDE, SIDE, 3), 255, np.uint8))
    shown = next(panel for panel in panels(on_white) if panel.layer is not None)
    coloured = np.ptp(np.asarray(shown.drawn()).astype(int), axis=-1)
    zoom = len(coloured) / SIDE
    y, x = (max(round(zoom * (edge - cell)), 0) for edge in (top, left))
    end_y, end_x = (round(zoom * (edge + side + cell)) for edge in (top, left))
    outside = np.ones(coloured.shape, bool)
    outside[y:end_y, x:end_x] = False
    assert coloured[~outside].max() > 100
    assert coloured[outside].max() <= 8
    drawn = np.asarray(draw_explanation(on_white)).astype(int)
    at, left_of = 3 * LINE + GAP - 6, 2 * GAP + PANEL
    assert (drawn[at : at + PANEL, left_of : left_of + PANEL] == np.asarray(shown.drawn())).all()
    (view,) = views_of(page([on_white]))
    source = view["sides"][0]["map"]["layer"].removeprefix("data:image/png;base64,")
    with Image.open(io.BytesIO(base64.b64decode(source))) as layer:
        np.testing.assert_array_equal(np.asarray(layer), shown.layer)


def test_lime_with_blocks_finds_exactly_the_blocks_a_network_sees(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Slice", ["image", "from", "to", "of"], ["region"]),
        helper.make_node("Flatten", ["region"], ["embedding"]),
    ]
    cut = {"from": np.array([16, 40]), "to": np.array([24, 48]), "of": np.array([2, 3])}
    explainer = bundle(tmp_path, nodes, 3 * 64, "dot", **cut)
    picture = np.full((SIDE, SIDE, 3), 200, np.uint8)
    plan = LimePlan(blocks(), np.random.default_rng(0).random((400, 64)) < 0.5)
    saliency = explainer.prepare(picture, "lime", plan=plan).explain(picture).saliency
    assert set(blocks()[saliency == saliency.max()]) == {2 * GRID + 5}


def tile(picture: np.ndarray, row: int, column: int, colour: tuple[int, int, int]) -> int:
    """Paint a tile; returns its number."""
    picture[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = colour
    return row * GRID + column


@pytest.mark.parametrize("method", [Rise(masks=2000, estimator="sane"), Rise(masks=512)], ids=lambda m: m.estimator)
def test_each_planted_tile_matches_its_partner_best(method: Rise, tmp_path: Path) -> None:
    """Red matches red and green matches green; white brightens every channel, so it matters to everything."""
    query, reference = (np.zeros((SIDE, SIDE, 3), np.uint8) for _ in range(2))
    red = tile(query, 1, 1, (255, 0, 0)), tile(reference, 6, 6, (255, 0, 0))
    green = tile(query, 5, 2, (0, 255, 0)), tile(reference, 2, 5, (0, 255, 0))
    tile(query, 3, 6, (255, 255, 255))
    tile(reference, 4, 1, (255, 255, 255))
    explanation = colours(tmp_path, "dot").explain(query, reference, method, mode="both")
    assert explanation.correspondence.shape == (64, 64)
    for a, b in (red, green):
        assert explanation.correspondence[a].argmax() == b
        assert explanation.correspondence[:, b].argmax() == a
    assert explanation.correspondence_reliability > 0.5


@pytest.mark.parametrize("method", METHODS[:3], ids=lambda m: f"{m.name} {m.estimator}")
def test_rather_than_tells_two_planted_regions_apart(method: Rise | Window, tmp_path: Path) -> None:
    """Red speaks for the red reference, green for the other one, and blue, which both lack, for neither."""
    query = np.zeros((SIDE, SIDE, 3), np.uint8)
    places = {(255, 0, 0): (1, 1), (0, 255, 0): (5, 5), (0, 0, 255): (1, 5)}
    for colour, (row, column) in places.items():
        query[row * TILE : (row + 2) * TILE, column * TILE : (column + 2) * TILE] = colour
    red, green = (np.full((SIDE, SIDE, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 200, 0)))
    told = colours(tmp_path, "dot").prepare(query, method).explain(red, rather_than=green)
    means = {c: told.saliency[r * TILE : (r + 2) * TILE, k * TILE : (k + 2) * TILE].mean() for c, (r, k) in places.items()}
    for_red, for_green, for_neither = means.values()
    assert for_red > for_neither > for_green
    assert for_red - for_neither == pytest.approx(for_neither - for_green, rel=0.25)
    top, left = np.unravel_index(told.saliency.argmax(), told.saliency.shape)
    low, right = np.unravel_index(told.saliency.argmin(), told.saliency.shape)
    assert TILE - 4 <= top < 3 * TILE + 4
    assert TILE - 4 <= left < 3 * TILE + 4
    assert 5 * TILE - 4 <= low < 7 * TILE + 4
    assert 5 * TILE - 4 <= right < 7 * TILE + 4


def test_a_network_that_hashes_pixels_matches_tiles_at_chance(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = random.normal(size=(3 * SIDE * SIDE, 32)).astype(np.float32) * 100
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["mixed"]),
        helper.make_node("Sin", ["mixed"], ["embedding"]),
    ]
    explainer = bundle(tmp_path, nodes, 32, "cosine", weights=weights)
    hits = trials = 0
    for seed in range(4):
        pictures = [random.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8) for _ in range(2)]
        explanation = explainer.explain(*pictures, Rise(masks=256, seed=seed), mode="both")
        partner = random.permutation(64)
        hits += int((explanation.correspondence.argmax(1) == partner).sum())
        trials += 64
        assert abs(explanation.correspondence_reliability) < 0.5
    # binomial(256, 1/64): mean 4; 99.9% of draws lie in 0..12
    assert trials == 256
    assert hits <= 12


def test_reliability_is_one_without_noise_and_none_with_too_few_masks() -> None:
    random = np.random.default_rng(1)
    queries, references = list(random.normal(size=(2, 9, 4))), list(random.normal(size=(2, 16, 4)))
    assert split_half_reliability([queries[0]] * 2, [references[0]] * 2) == pytest.approx(1)
    assert split_half_reliability([], references) is None
    halves = [correspondence(q, r).ravel().astype(float) for q, r in zip(queries, references, strict=True)]
    assert split_half_reliability(queries, references) == pytest.approx(np.corrcoef(halves)[0, 1], abs=1e-6)


def test_correspondence_is_the_formula_written_out() -> None:
    random = np.random.default_rng(2)
    phi_q, e_q, phi_r, e_r = (random.normal(size=s) for s in ((20, 4), (20, 3), (30, 9), (30, 3)))
    centred = [p - p.mean(0) for p in (phi_q, phi_r)]
    raw = np.zeros((4, 9))
    for i in range(20):
        for j in range(30):
            raw += np.outer(centred[0][i], centred[1][j]) * (e_q[i] @ e_r[j])
    j4, j9 = np.eye(4) - 1 / 4, np.eye(9) - 1 / 9
    np.testing.assert_allclose(
        correspondence(tile_features(phi_q, e_q), tile_features(phi_r, e_r)), j4 @ raw @ j9, rtol=1e-4, atol=1e-4
    )


def test_tiles_are_means_of_the_rendered_masks() -> None:
    renderer = Rise(masks=5, grid=6, estimator="sane").plan(np.empty((50, 35, 3))).renderer(50, 35)
    masks = np.empty((5, 50, 35), np.float32)
    renderer.masks(0, 5, masks)
    fine = np.kron(masks, np.ones((6, 6)))  # pixels cut so that tiles fall on their edges
    expected = fine.reshape(5, 6, 50, 6, 35).mean((2, 4)).reshape(5, 36)
    np.testing.assert_allclose(renderer.tiles(6), expected, atol=1e-6)


def test_a_zero_embedding_under_the_baseline_has_similarity_zero(tmp_path: Path) -> None:
    explainer = colours(tmp_path, "cosine")
    picture = np.full((SIDE, SIDE, 3), 200, np.uint8)
    hidden = RisePlan(np.zeros((3, 8, 8), bool), np.zeros((3, 2), int))
    prepared = explainer.prepare(picture, plan=hidden)
    assert not prepared.embeddings.any()
    for other in (picture, prepared):
        explanation = prepared.explain(other)
        assert not explanation.saliency.any()
        assert explanation.similarity == pytest.approx(1)
    window = explainer.explain(picture, np.zeros_like(picture), Window())
    assert window.similarity == 0
    assert not window.saliency.any()  # 1 - 0 for every window, which says nothing of any part


def test_a_hundred_references_run_the_masked_rows_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = colours(tmp_path, "cosine")
    rows = count_rows(monkeypatch)
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8) for _ in range(101)]
    prepared = explainer.prepare(pictures[0], Rise(masks=128))
    assert sum(rows) == 129
    explanations = prepared.explain_many(pictures[1:])
    assert sum(rows) == 129 + 100
    vectors = explainer.embed(pictures[1:])
    before = sum(rows)
    embedded = prepared.explain_many(list(vectors))
    assert sum(rows) == before
    for a, b in zip(explanations, embedded, strict=True):
        np.testing.assert_allclose(a.saliency, b.saliency, atol=1e-4)
