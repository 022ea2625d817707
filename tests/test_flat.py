"""Flat means flat: where hiding changes nothing, or nothing that float32 can hold, no map draws rounding errors."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import CAT, DATA, noise
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from engine import BundleError, Explainer, LearnedMask, Lime, Rise, Window
from engine.attributes.table import AttributeTable
from engine.attributes.vectors import AttributeVectors
from engine.bundle import load_bundle
from engine.explain import main
from engine.pictures.preprocessing import Preprocessing
from engine.render.png import draw_explanation
from engine.render.texts import map_trust
from engine.saliency.flatness import HIDING_CHANGES_NOTHING, OF_REFERENCE, VANISHED
from engine.saliency.steadiness import FLAT_MAP
from export import OnnxSource, export_similarity
from export.attribute_files import write_attributes

BLACK = np.zeros((64, 64, 3), np.uint8)
ABOUT_REFERENCE = OF_REFERENCE[HIDING_CHANGES_NOTHING]
METHODS = (Rise(masks=64), Rise(masks=64, estimator="sane"), Window(), Lime(samples=64), LearnedMask(iterations=10))


def colours(folder: Path, metric: str, factor: float, dtype: type = np.float32) -> Explainer:
    """A network that gives the mean of each channel, with 1 added, times a factor."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 64, 64])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3])
    constants = {"axes": np.array([2, 3]), "one": np.ones(1, dtype), "factor": np.full(1, factor, dtype)}
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "one"], ["more"]),
        helper.make_node("Mul", ["more", "factor"], ["embedding"]),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "colours", [image], [embedding], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "c.onnx")
    return Explainer(
        export_similarity(OnnxSource(folder / "c.onnx"), Preprocessing(64, 64), folder / "bundle", metric=metric)
    )


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("mode", ["fixed", "pair", "both"])
def test_a_picture_that_hiding_does_not_change_has_no_map(method: object, mode: str, demo: Explainer) -> None:
    explanation = demo.explain(BLACK, CAT[1], method, mode, baseline="black")  # type: ignore[arg-type]
    assert not explanation.saliency.any()
    assert explanation.saliency_error is None or not explanation.saliency_error.any()
    assert explanation.saliency_reliability in (None, 0)
    assert HIDING_CHANGES_NOTHING in explanation.notes
    assert not explanation.links
    assert not explanation.opposing_attributes
    assert map_trust(explanation) == FLAT_MAP
    if mode != "fixed":
        assert explanation.reference_saliency is not None
        assert explanation.reference_saliency.any()
        assert ABOUT_REFERENCE not in explanation.notes
        other = demo.explain(CAT[1], BLACK, method, mode, baseline="black")  # type: ignore[arg-type]
        assert other.reference_saliency is not None
        assert not other.reference_saliency.any()
        assert ABOUT_REFERENCE in other.notes
        assert HIDING_CHANGES_NOTHING not in other.notes


@pytest.mark.parametrize("method", METHODS[1:4], ids=str)
def test_no_colour_is_drawn_where_nothing_matters(method: object, demo: Explainer) -> None:
    explanation = demo.explain(BLACK, CAT[1], method, baseline="black")  # type: ignore[arg-type]
    drawn = np.asarray(draw_explanation(explanation)).astype(int)
    panel = drawn[60:340, 320:600]  # most of the map
    assert np.ptp(panel, axis=2).max() < 30


def test_a_network_that_sees_nothing_says_so(tmp_path: Path) -> None:
    explainer = colours(tmp_path, "dot", 1.0)
    assert explainer.explain(noise(64, 64), CAT[1], Lime(samples=64)).saliency.any()
    blind = colours(tmp_path, "dot", 1e9)
    near = np.full((64, 64, 3), 1, np.uint8)  # a change of 1 / 255 in what is added to 1: no rounding
    assert blind.explain(near, CAT[1], Lime(samples=64)).saliency.any()


@pytest.mark.parametrize("method", METHODS[:4], ids=str)
@pytest.mark.parametrize("metric", ["dot", "euclidean"])
def test_a_map_that_float32_cannot_hold_is_an_error(method: object, metric: str, tmp_path: Path) -> None:
    explainer = colours(tmp_path, metric, 1e25)
    with pytest.raises(BundleError, match="too large for a map in float32") as caught:
        explainer.explain(noise(64, 64), CAT[1], method)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", METHODS[:4], ids=str)
def test_a_map_that_vanishes_in_float32_says_so(method: object, tmp_path: Path) -> None:
    explainer = colours(tmp_path, "euclidean", 1e-25)
    explanation = explainer.explain(noise(64, 64), CAT[1], method)  # type: ignore[arg-type]
    assert not explanation.saliency.any()
    assert VANISHED in explanation.notes
    assert explanation.saliency_reliability == 0


def test_cosines_of_embeddings_without_length_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="embedding of length"):
        colours(tmp_path, "cosine", 1e-20).embed([CAT[0]])
    assert colours(tmp_path, "cosine", 1e-11).explain(*CAT, Rise(masks=16)).similarity > 0.9


def test_attributes_by_vector_are_seen_nowhere_in_particular(tmp_path: Path) -> None:
    folder = export_similarity(OnnxSource(DATA / "tiny_general.onnx"), Preprocessing(112, 112), tmp_path / "bundle")
    names = ("a", "b")
    vectors = AttributeVectors(np.eye(2, 16, dtype=np.float32), np.ones(2, np.float32), np.zeros(2, np.float32))
    table = AttributeTable(names, "sigmoid", np.zeros(2, np.float32))
    write_attributes(load_bundle(folder), table, None, vectors)
    black = np.zeros((112, 112, 3), np.uint8)
    for method in METHODS[:4]:
        prepared = Explainer(folder).prepare(black, method, baseline="black")  # type: ignore[arg-type]
        assert prepared.seen is not None
        assert np.ptp(prepared.seen.maps) == 0


def test_the_command_says_that_a_map_is_flat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(BLACK).save(tmp_path / "black.png")
    options = ["--method", "lime", "--masks", "64", "--out", str(tmp_path / "e.html")]
    assert main([str(tmp_path / "black.png"), str(CAT[1]), *options]) == 0
    printed = capsys.readouterr().out
    assert f"map {FLAT_MAP}" in printed
    assert f"note: {HIDING_CHANGES_NOTHING}" in printed
    page = (tmp_path / "e.html").read_text()
    assert FLAT_MAP in page
    assert HIDING_CHANGES_NOTHING in page
