"""A bundle that was changed, is incomplete, unsafe or inconsistent is refused with one clear error."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import copy_bundle, external_files, seal
from hypothesis import given
from hypothesis import strategies as st

from engine import BundleError, Explainer, OptionError
from engine.attributes.table import AttributeTable
from engine.bundle import PRECISION, SUMS, demo_bundle, load_bundle
from engine.bundle.manifest import attributes_from_json, attributes_to_json
from engine.bundle.report import GraphFidelity


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return copy_bundle(tiny_bundle, tmp_path / "bundle")


def rewrite(bundle: Path, **changes: object) -> None:
    """Change the manifest and make the sums agree, as somebody would who edits a bundle by hand."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | changes))
    seal(bundle)


def refusal(bundle: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Explainer(bundle)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["manifest.json", "similarity.fp32.onnx", "canonical.npz", SUMS])
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_one_changed_byte_is_found(bundle: Path, name: str, place: float) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[int(place * (len(content) - 1))] ^= 0x15
    (bundle / name).write_bytes(content)
    refusal(bundle)


@pytest.mark.parametrize("name", ["manifest.json", "similarity.fp32.onnx", "canonical.npz", SUMS])
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert name in refusal(bundle)


def test_a_missing_folder_says_how_to_make_one(tmp_path: Path) -> None:
    assert "python -m export" in refusal(tmp_path / "nowhere")


def test_an_unknown_version_is_refused(bundle: Path) -> None:
    rewrite(bundle, version=2)
    assert "version 2" in refusal(bundle)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "zip"},
        {"metric": "hamming"},
        {"graphs": []},
        {"preprocessing": {"height": 112}},
        {"conditions": {"names": ["a"], "weights": [[1.0]]}},
        {"surprise": 1},
        {"conditions": []},
        {"conditions": {"names": [1, 2], "weights": [[1.0] * 16] * 2}},
        {"embedding": 16.0},
        {"name": 7},
        {"name": "\ud800"},
        {"preprocessing": {"height": 112.0, "width": 112, "mean": [0, 0, 0], "std": [1, 1, 1]}},
        {"graphs": [5]},
        {"origin": "o" * 1001},
        {"embedding": 10**400},
        {"preprocessing": {"height": 112, "width": 112, "mean": [0, 0, 10**400], "std": [1, 1, 1]}},
        {"conditions": {"names": ["a"], "weights": [[10**400] * 16]}},
        {"conditions": {"names": ["a"], "weights": [["1"] * 16]}},
        {"conditions": {"names": ["a" * 10**6], "weights": [[1] * 16]}},
    ],
)
def test_an_invalid_manifest_is_refused(bundle: Path, changes: dict[str, object]) -> None:
    rewrite(bundle, **changes)
    refusal(bundle)


@pytest.mark.parametrize(
    "changes",
    [
        {"masks": 10**400},
        {"seed": "x"},
        {"identity": ["x"]},
        {"versions": 5},
        {"graphs": {"similarity.int8-cpu.onnx": {"speed": 10**400}}},
        {"pairs": 1.5},
        {"surprise": 1},
    ],
)
def test_an_invalid_report_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    folder = copy_bundle(demo_bundle(), tmp_path / "bundle")
    fields = json.loads((folder / PRECISION).read_text())
    graphs = changes.get("graphs", {})
    assert isinstance(graphs, dict)
    merged = {file: {**fidelity, **graphs.get(file, {})} for file, fidelity in fields["graphs"].items()}
    (folder / PRECISION).write_text(json.dumps({**fields, **changes, "graphs": merged}))
    seal(folder)
    with pytest.raises(BundleError, match=r"precision\.json is not valid"):
        load_bundle(folder)


def graph_with(bundle: Path, **changes: object) -> list[dict[str, object]]:
    (graph,) = json.loads((bundle / "manifest.json").read_text())["graphs"]
    return [graph | changes]


@pytest.mark.parametrize("changes", [{"input": "pixels"}, {"output": "vector"}])
def test_graph_and_manifest_must_agree_on_names(bundle: Path, changes: dict[str, object]) -> None:
    rewrite(bundle, graphs=graph_with(bundle, **changes))
    assert "promises" in refusal(bundle)


def test_graph_and_manifest_must_agree_on_sizes(bundle: Path) -> None:
    rewrite(bundle, embedding=17, conditions=None)
    assert "17" in refusal(bundle)


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/passwd", "a\\b", "..", "c:x.onnx", "", "folder/x.onnx"])
def test_names_that_lead_outside_are_refused(bundle: Path, name: str) -> None:
    shutil.copy(bundle / "similarity.fp32.onnx", bundle.parent / "outside.onnx")
    rewrite(bundle, graphs=graph_with(bundle, file=name))
    assert "plain file name" in refusal(bundle)
    (bundle / SUMS).write_text((bundle / SUMS).read_text() + f"{'0' * 64}  {name}\n")
    assert "plain file name" in refusal(bundle)


def test_a_link_that_leads_outside_is_refused(bundle: Path) -> None:
    graph = bundle / "similarity.fp32.onnx"
    shutil.move(graph, bundle.parent / "elsewhere.onnx")
    graph.symlink_to(bundle.parent / "elsewhere.onnx")
    assert "link" in refusal(bundle)


def with_external_data(bundle: Path, location: str) -> None:
    """Move the graph's weights into a file of their own, then say that the file is at `location`."""
    graph = bundle / "similarity.fp32.onnx"
    model = onnx.load(graph)
    onnx.save(
        model, graph, save_as_external_data=True, location="weights.bin", size_threshold=256
    )  # ONNX Runtime wants shapes inside
    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    graph.write_bytes(model.SerializeToString())
    rewrite(bundle)


def test_external_data_inside_the_bundle_is_used(bundle: Path, golden: dict[str, np.ndarray]) -> None:
    with_external_data(bundle, "weights.bin")
    assert external_files((bundle / "similarity.fp32.onnx").read_bytes()) == {"weights.bin"}
    np.testing.assert_allclose(Explainer(bundle).embed([golden["query"]])[0], golden["embedding_query"], rtol=1e-4)


def test_external_data_outside_the_bundle_is_refused(bundle: Path) -> None:
    with_external_data(bundle, "../weights.bin")
    shutil.move(bundle / "weights.bin", bundle.parent / "weights.bin")
    seal(bundle)
    assert "plain file name" in refusal(bundle)


def test_external_data_is_found_inside_nodes_and_subgraphs() -> None:
    tensor = onnx.helper.make_tensor("t", onnx.TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "hidden.bin"
    constant = onnx.helper.make_node("Constant", [], ["c"], value=tensor)
    inner = onnx.helper.make_graph([constant], "inner", [], [])
    outer = onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    model = onnx.helper.make_model(onnx.helper.make_graph([outer], "outer", [], []))
    assert external_files(model.SerializeToString()) == {"hidden.bin"}
    function = onnx.helper.make_function("d", "f", [], ["c"], [constant], [onnx.helper.make_opsetid("", 18)])
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []), functions=[function])
    assert external_files(model.SerializeToString()) == {"hidden.bin"}


def test_a_tag_that_two_readers_read_differently_is_refused(bundle: Path) -> None:
    """Protobuf's C++ reader drops the upper bits of a field key; one that hides external data must not pass."""
    with_external_data(bundle, "weights.bin")
    graph = bundle / "similarity.fp32.onnx"
    plain, disguised = b"\x6a", b"\xea\x80\x80\x80\x10"  # field 13, as it is and with bit 32 set
    tensor = onnx.load(graph, load_external_data=False).graph.initializer[0]
    entry = tensor.external_data[0].SerializeToString()
    content = disguised + bytes([len(entry)]) + entry
    field = lambda number, data: bytes([number << 3 | 2]) + bytes([len(data)]) + data  # noqa: E731
    assert external_files(field(7, field(5, plain + bytes([len(entry)]) + entry))) == {"weights.bin"}
    with pytest.raises(BundleError, match="field key"):
        external_files(field(7, field(5, content)))
    with pytest.raises(BundleError, match="longer"):
        external_files(b"\x80" * 20 + b"\x01")


def test_identity_covers_weights_in_files_of_their_own(bundle: Path) -> None:
    with_external_data(bundle, "weights.bin")
    before = load_bundle(bundle).identity
    weights = bytearray((bundle / "weights.bin").read_bytes())
    weights[100] ^= 1
    (bundle / "weights.bin").write_bytes(weights)
    rewrite(bundle)
    assert load_bundle(bundle).identity != before


def test_a_graph_for_another_target_is_not_taken(bundle: Path) -> None:
    graphs = [*graph_with(bundle, precision="fp16", target="gpu"), *graph_with(bundle)]
    rewrite(bundle, graphs=graphs)
    with pytest.raises(OptionError, match="fp16"):
        Explainer(bundle, precision="fp16")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04nonsense", b"\x93NUMPY"])
def test_a_broken_canonical_file_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / "canonical.npz").write_bytes(content)
    rewrite(bundle)
    assert "canonical.npz" in refusal(bundle)


def test_a_canonical_embedding_that_is_not_finite_is_refused(bundle: Path) -> None:
    with np.load(bundle / "canonical.npz") as data:
        arrays = dict(data) | {"similarity.fp32.onnx": np.full(16, np.inf, np.float32)}
    np.savez(bundle / "canonical.npz", **arrays)
    rewrite(bundle)
    assert "finite" in refusal(bundle)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        external_files(content)
    except BundleError as error:
        assert "not an ONNX file" in str(error)


def test_an_unlisted_graph_is_refused(bundle: Path) -> None:
    lines = [line for line in (bundle / SUMS).read_text().splitlines(keepends=True) if "onnx" not in line]
    (bundle / SUMS).write_text("".join(lines))
    assert "not listed" in refusal(bundle)


def test_a_graph_that_computes_something_else_is_found(bundle: Path) -> None:
    model = onnx.load(bundle / "similarity.fp32.onnx")
    bias = next(t for t in model.graph.initializer if list(t.dims) == [16])
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(model, bundle / "similarity.fp32.onnx")
    rewrite(bundle)
    assert "canonical" in refusal(bundle)


def test_a_changed_preprocessing_is_found_by_the_canonical_embedding(bundle: Path) -> None:
    fields = json.loads((bundle / "manifest.json").read_text())["preprocessing"]
    rewrite(bundle, preprocessing=fields | {"channel_order": "bgr"})
    assert "canonical" in refusal(bundle)


def test_identity_is_of_the_model_alone(bundle: Path) -> None:
    before = load_bundle(bundle)
    rewrite(bundle, name="renamed", licence="other")
    assert load_bundle(bundle).identity == before.identity
    rewrite(bundle, metric="dot")
    assert load_bundle(bundle).identity != before.identity


def test_sums_are_of_every_file_and_readable_by_sha256sum() -> None:
    folder = demo_bundle()
    listed = dict(reversed(line.split("  ")) for line in (folder / SUMS).read_text().splitlines())
    assert set(listed) == {p.name for p in folder.iterdir()} - {SUMS}
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_numbers_and_names_that_nothing_can_hold_are_refused() -> None:
    good = json.loads(
        attributes_to_json(AttributeTable(("a", "b"), "sigmoid", np.zeros(2, np.float32), prior=np.ones(2, np.float32)))
    )
    attributes_from_json(json.dumps(good))
    for change in (
        {"names": ["a", ""]},
        {"names": ["a", "b" * 1001]},
        {"prior": [0.5, 1.5]},
        {"prior": [0.5, -0.1]},
        {"bias": [0, 10**400]},
        {"threshold": 10**400},
        {"phi": [1, 10**400, 0]},
        {"joint": [1, 1, 10**400]},
        {"names": [["a"], "b"]},
        {"bias": ["0", "1"]},
        {"bias": [1e300, 0]},
    ):
        with pytest.raises(BundleError, match=r"attributes\.json is not valid"):
            attributes_from_json(json.dumps(good | change))
    graph = {
        "embedding_cosine_mean": 1.0,
        "embedding_cosine_least": 1.0,
        "map_correlation_mean": 1.0,
        "map_correlation_p10": 1.0,
        "map_correlation_least": 1.0,
        "speed": 2.0,
        "calibration": "",
    }
    GraphFidelity(**graph)  # type: ignore[arg-type]
    for name in ("speed", "map_correlation_mean"):
        with pytest.raises(OptionError, match=name):
            GraphFidelity(**graph | {name: 10**400})  # type: ignore[arg-type]
