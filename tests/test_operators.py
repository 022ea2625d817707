"""Graphs that never end, draw random numbers, or whose rows depend on each other get into no bundle and out of none."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import seal
from onnx import TensorProto, helper, numpy_helper
from test_bundle_borders import field

from engine import BundleError, EngineError, Explainer
from engine.bundle import CANONICAL
from engine.bundle.external_data import files_and_operators
from engine.bundle.operators import MOST_NODES, check_operators
from engine.files import write_npz
from engine.pictures.preprocessing import Preprocessing
from export import OnnxSource, export_similarity
from export.demo_pictures import demo_pictures

PLAIN = Preprocessing(32, 32)
make = helper.make_node
MEAN = make("ReduceMean", ["x", "axes"], ["embedding"], keepdims=0)
PASS = make("Identity", ["image"], ["x"])


def model_of(nodes: list[onnx.NodeProto], **tensors: np.ndarray) -> onnx.ModelProto:
    """A graph from `image` (N, 3, 32, 32) to `embedding` (N, 3)."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 32, 32])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3])
    constants = {"axes": np.array([2, 3]), **tensors}
    graph = helper.make_graph(
        nodes, "g", [image], [embedding], [numpy_helper.from_array(v, k) for k, v in constants.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def endless(kind: str = "Loop") -> list[onnx.NodeProto]:
    """A loop that adds 0 to the picture for ever."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [make("Identity", ["go"], ["on"]), make("Add", ["in", "nothing"], ["out"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("in", TensorProto.FLOAT, None)],
        [value("on", TensorProto.BOOL, []), value("out", TensorProto.FLOAT, None)],
    )
    return [make(kind, ["", "yes", "image"], ["x"], body=body), MEAN]


def noisy(operator: str, **attributes: Any) -> list[onnx.NodeProto]:
    """Random numbers, times 1e-9."""
    drawn = make(operator, ["image"], ["r"], **attributes)
    return [drawn, make("Mul", ["r", "small"], ["s"]), make("Add", ["image", "s"], ["x"]), MEAN]


FILLED = [
    make("ConstantOfShape", ["shape"], ["c"]),
    make("ReduceMean", ["c"], ["m"], keepdims=0),
    make("Add", ["image", "m"], ["x"]),
]
SCALED = [
    make("Mul", ["image", "image"], ["square"]),
    make("DynamicQuantizeLinear", ["square"], ["q", "scale", "zero"]),
    make("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
    MEAN,
]
LARGEST = [make("ReduceMax", ["image"], ["most"], keepdims=0), make("Div", ["image", "most"], ["x"]), MEAN]
DROPPED = [make("Dropout", ["image", "half", "yes"], ["x"]), MEAN]
CONSTANTS = {
    "yes": np.array(True),
    "nothing": np.zeros((), np.float32),
    "small": np.float32([1e-9]),
    "half": np.float32(0.5),
    "shape": np.array([2**16, 2**15]),
}
BRANCH = helper.make_graph(
    [make("RandomUniformLike", ["image"], ["b"])], "b", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)]
)
FAULTS = {
    "loop": (endless(), "has a Loop, which may never end"),
    "normal": (noisy("RandomNormalLike"), r"draws random numbers \(RandomNormalLike\)"),
    "uniform": (noisy("RandomUniformLike", seed=1.0), r"draws random numbers \(RandomUniformLike\)"),
    "branch": ([make("If", ["yes"], ["x"], then_branch=BRANCH, else_branch=BRANCH), MEAN], "draws random numbers"),
    "fill": ([*FILLED, MEAN], r"a tensor of 2,147,483,648 numbers \(ConstantOfShape\)"),
    "expand": ([make("Expand", ["half", "shape"], ["c"]), *FILLED[1:], MEAN], r"2,147,483,648 numbers \(Expand\)"),
}
DEPENDENT = {"scaled": SCALED, "largest": LARGEST, "dropped": DROPPED}


def bundle_of(folder: Path, nodes: list[onnx.NodeProto]) -> Path:
    """A bundle whose graph was replaced by hand, with the canonical result that a sound graph would have."""
    onnx.save(model_of([PASS, MEAN]), folder / "sound.onnx")
    bundle = export_similarity(OnnxSource(folder / "sound.onnx"), PLAIN, folder / "bundle")
    onnx.save(model_of(nodes, **CONSTANTS), bundle / "similarity.fp32.onnx")
    if nodes is LARGEST:
        picture = demo_pictures(PLAIN)[0]
        result = (picture.astype(np.float32) / picture.max()).mean((0, 1))
        write_npz(bundle / CANONICAL, {"picture": picture, "similarity.fp32.onnx": result})
    seal(bundle)
    return bundle


@pytest.mark.parametrize("name", FAULTS)
def test_a_bundle_with_such_a_graph_is_refused_before_it_is_opened(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, said = FAULTS[name]
    bundle = bundle_of(tmp_path, nodes)
    monkeypatch.setattr("engine.runtime.session.open_session", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(BundleError, match=said) as caught:
        Explainer(bundle)
    assert "similarity.fp32.onnx" in str(caught.value)


@pytest.mark.parametrize("name", FAULTS)
def test_such_a_graph_is_not_exported(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, said = FAULTS[name]
    onnx.save(model_of(nodes, **CONSTANTS), tmp_path / "odd.onnx")
    monkeypatch.setattr("export.onnx_source.runner_of", lambda *_: pytest.fail("it was run"))
    with pytest.raises(EngineError, match=f"odd.onnx .*{said}"):
        export_similarity(OnnxSource(tmp_path / "odd.onnx"), PLAIN, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_loop_after_the_tensor_that_is_wanted_does_no_harm(tmp_path: Path) -> None:
    after = endless()[0]
    after.input[2] = "embedding"
    after.output[0] = "detections"
    model = model_of([PASS, MEAN, after], **CONSTANTS)
    model.graph.output.append(helper.make_tensor_value_info("detections", TensorProto.FLOAT, ["batch", 3]))
    onnx.save(model, tmp_path / "detector.onnx")
    export_similarity(OnnxSource(tmp_path / "detector.onnx", output="embedding"), PLAIN, tmp_path / "bundle")
    Explainer(tmp_path / "bundle")


def test_a_constant_of_a_usual_size_is_no_fault(tmp_path: Path) -> None:
    for nodes in (FILLED, [make("Expand", ["half", "shape"], ["c"]), *FILLED[1:]]):
        shape = helper.make_tensor("shape", TensorProto.INT64, [2], [100, 1000])
        constant = make("Constant", [], ["size"], value=shape)
        resized = [
            helper.make_node(n.op_type, ["size" if i == "shape" else i for i in n.input], n.output) for n in nodes[:1]
        ]
        onnx.save(model_of([constant, *resized, *nodes[1:], MEAN], **CONSTANTS), tmp_path / "c.onnx")
        Explainer(export_similarity(OnnxSource(tmp_path / "c.onnx"), PLAIN, tmp_path / "bundle"))


@pytest.mark.parametrize("name", DEPENDENT)
def test_rows_that_depend_on_each_other_are_found_at_load(name: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"another result beside a second one|canonical") as caught:
        Explainer(bundle_of(tmp_path, DEPENDENT[name]), precision="fp32")
    if name != "dropped":  # which fails both checks
        assert "over the whole batch, or draws random numbers" in str(caught.value)


@pytest.mark.parametrize("name", DEPENDENT)
def test_rows_that_depend_on_each_other_are_found_at_export(name: str, tmp_path: Path) -> None:
    onnx.save(model_of(DEPENDENT[name], **CONSTANTS), tmp_path / "odd.onnx")
    with pytest.raises(EngineError):
        export_similarity(OnnxSource(tmp_path / "odd.onnx"), PLAIN, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


OPSETS = helper.make_opsetid("", 18), helper.make_opsetid("own", 1)


def checked(model: onnx.ModelProto | bytes) -> None:
    """Raise BundleError as the engine does for a model's bytes."""
    content = model if isinstance(model, bytes) else model.SerializeToString()
    check_operators(content, files_and_operators(content)[1], Path("a.onnx"))


def with_functions(*functions: onnx.FunctionProto) -> onnx.ModelProto:
    model = model_of([PASS, MEAN])
    model.functions.extend(functions)
    return model


def function(name: str, nodes: list[onnx.NodeProto], domain: str = "own", overload: str = "") -> onnx.FunctionProto:
    return helper.make_function(domain, name, ["a"], ["b"], nodes, OPSETS, overload=overload)


def test_a_function_may_stand_for_so_many_nodes_and_no_more() -> None:
    few = function("few", [make("Identity", ["a"], ["b"])] * 128)
    many = [make("few", ["a"], ["b"], domain="own")] * (MOST_NODES // 128)
    checked(with_functions(few, function("many", many)))
    with pytest.raises(BundleError, match="stands for 16,385 nodes, and 16,384 are allowed"):
        checked(with_functions(few, function("many", [*many, make("Identity", ["a"], ["b"])])))


@pytest.mark.parametrize("differ_by", ["name", "domain", "overload"])
def test_functions_that_double_are_refused_whatever_tells_them_apart(differ_by: str) -> None:
    def doubling(levels: int) -> onnx.ModelProto:
        """Functions each of which calls the one before twice."""
        functions, body = [], [make("Identity", ["a"], ["b"])]
        for level in range(levels):
            named = {"name": "f", "domain": "own", "overload": "", differ_by: f"f{level}"}
            functions.append(function(nodes=body, **named))
            body = [make(named["name"], ["a"], ["b"], domain=named["domain"], overload=named["overload"])] * 2
        return with_functions(*functions)

    checked(doubling(10))
    with pytest.raises(BundleError, match="functions inlined"):
        checked(doubling(40))


def test_a_function_that_calls_itself_is_refused_and_one_of_its_name_is_another() -> None:
    for elsewhere in ({"domain": "other"}, {"domain": "own", "overload": "other"}):
        checked(with_functions(function("f", [make("f", ["a"], ["b"], **elsewhere)])))
    with pytest.raises(BundleError, match="has a function that calls itself"):
        checked(with_functions(function("f", [make("f", ["a"], ["b"], domain="own")])))


def test_a_name_in_one_function_says_nothing_of_the_same_name_in_another() -> None:
    longest = make("Constant", [], ["t"], value=numpy_helper.from_array(np.array([2**63 - 1]), "v"))
    wide = [make("Shape", ["a"], ["t"]), make("Expand", ["a", "t"], ["b"])]
    checked(with_functions(helper.make_function("own", "end", ["a"], ["t"], [longest], OPSETS), function("wide", wide)))
    with pytest.raises(BundleError, match="9,223,372,036,854,775,807 numbers"):
        checked(with_functions(function("wide", [longest, wide[1]])))


def as_numbers(shape: list[int]) -> onnx.TensorProto:
    """Not packed as bytes."""
    return helper.make_tensor("Expand.shape", TensorProto.INT64, [len(shape)], shape)


def as_bytes(shape: list[int]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(shape, np.int64), "Expand.shape")


def once_elsewhere(shape: list[int]) -> onnx.TensorProto:
    tensor = as_bytes(shape)
    tensor.data_location = TensorProto.DEFAULT
    return tensor


def of_constant(**value: Any) -> onnx.ModelProto:
    return model_of([make("Constant", [], ["Expand.shape"], **value), MEAN])


def in_branch(shape: list[int]) -> onnx.ModelProto:
    held = helper.make_graph([], "b", [], [], [as_bytes(shape)])
    return model_of([make("If", ["yes"], ["x"], then_branch=held, else_branch=held)])


HELD: dict[str, Callable[[list[int]], onnx.ModelProto]] = {
    "initializer": lambda shape: model_of([MEAN], **{"Expand.shape": np.array(shape, np.int64)}),
    "initializer that was read from another file": lambda shape: with_initializer(once_elsewhere(shape)),
    "numbers": lambda shape: with_initializer(as_numbers(shape)),
    "constant": lambda shape: of_constant(value=as_bytes(shape)),
    "constant of numbers": lambda shape: of_constant(value=as_numbers(shape)),
    "list": lambda shape: of_constant(value_ints=shape),
    "branch": in_branch,
}
"""A model that holds a shape, without what makes a tensor of it."""


def with_initializer(*tensors: onnx.TensorProto) -> onnx.ModelProto:
    model = model_of([MEAN])
    model.graph.initializer.extend(tensors)
    return model


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand"])
@pytest.mark.parametrize("held", HELD)
def test_a_tensor_may_have_so_many_numbers_and_no_more(held: str, operator: str) -> None:
    inputs = ["image", "Expand.shape"] if operator == "Expand" else ["Expand.shape"]
    for shape, allowed in (([2**14, 2**14], True), ([1] * 15 + [2**28], True), ([2**28 + 1], False), ([2**14] * 3, False)):
        model = HELD[held](shape)
        model.graph.node.append(make(operator, inputs, ["x"]))
        if allowed:
            checked(model)
            continue
        with pytest.raises(BundleError, match=rf"makes a tensor of {math.prod(shape):,} numbers \({operator}\)"):
            checked(model)


def test_what_hides_a_shape_is_refused() -> None:
    made = make("ConstantOfShape", ["Expand.shape"], ["x"])
    outside = as_bytes([2])
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="w.bin")
    for model in (
        with_initializer(outside),
        of_constant(value=outside),
        *(hold([2**33] + [1] * more) for hold in HELD.values() for more in (16, 39)),
    ):
        model.graph.node.append(made)
        with pytest.raises(BundleError, match=r"shape of a tensor \(ConstantOfShape\) in another file, or of more than 16"):
            checked(model)


def test_fields_that_occur_twice_are_read_as_runtimes_read_them() -> None:
    large, small, made = as_bytes([2**40]), as_bytes([0]), make("ConstantOfShape", ["Expand.shape"], ["x"])
    other_name = onnx.TensorProto(name="Expand.shape").SerializeToString()
    twice = [
        # a graph in two parts, one with the node and one with its shape
        model_of([made]).SerializeToString()
        + onnx.ModelProto(graph=onnx.GraphProto(initializer=[large])).SerializeToString(),
        # the last content, name and operator count
        of_parts(initializer=small.SerializeToString() + large.SerializeToString(), node=made.SerializeToString()),
        of_parts(
            initializer=onnx.TensorProto(name="o", raw_data=large.raw_data).SerializeToString() + other_name,
            node=made.SerializeToString(),
        ),
        of_parts(
            initializer=large.SerializeToString(),
            node=make("Add", ["Expand.shape"], ["x"]).SerializeToString()
            + onnx.NodeProto(op_type="ConstantOfShape").SerializeToString(),
        ),
        # bytes count before numbers
        of_parts(
            initializer=large.SerializeToString() + onnx.TensorProto(int64_data=[0]).SerializeToString(),
            node=made.SerializeToString(),
        ),
    ]
    for model in twice:
        onnx.ModelProto.FromString(model)
        with pytest.raises(BundleError, match="1,099,511,627,776 numbers"):
            checked(model)
    halves = (
        onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR, t=as_numbers([2**20])).SerializeToString() * 2
    )
    constant = onnx.NodeProto(op_type="Constant", output=["", "Expand.shape"]).SerializeToString() + field(5, halves)
    with pytest.raises(BundleError, match="1,099,511,627,776 numbers"):
        checked(of_parts(node=constant) + model_of([made]).SerializeToString())


def of_parts(**parts: bytes) -> bytes:
    """A model of one graph, from the bytes of a node and of an initializer."""
    numbers = {"node": 1, "initializer": 5}
    return field(7, b"".join(field(numbers[name], content) for name, content in parts.items()))


def test_a_file_that_is_no_model_is_said_to_be_none() -> None:
    odd = model_of([make("Expand", ["image", "shape"], ["x"]), MEAN]).SerializeToString().replace(b"shape", b"\xff" * 5)
    with pytest.raises(BundleError, match="not an ONNX file"):
        check_operators(odd, {"Expand"}, Path("a.onnx"))
