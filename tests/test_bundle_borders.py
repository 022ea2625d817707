"""A bundle at the borders of what is allowed: where external data may hide in a graph, and every field of its files."""

import dataclasses
import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import copy_bundle, external_files, seal

from engine import BundleError, OptionError
from engine.attributes.table import AttributeTable
from engine.attributes.vectors import AttributeVectors
from engine.bundle import ATTRIBUTES, SUMS, VECTORS, checksums, demo_bundle, graph_digest, load_bundle
from engine.bundle.external_data import fields_of, whole_numbers
from engine.bundle.manifest import (
    LARGEST_EMBEDDING,
    Conditions,
    Graph,
    Manifest,
    TokenLayout,
    attributes_from_json,
    attributes_to_json,
    identity,
)
from engine.bundle.report import GraphFidelity, MapFidelity, Report
from engine.pictures.preprocessing import Preprocessing
from engine.typed import typed

PREPROCESSING = Preprocessing(8, 8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
BASE = Graph("a.onnx", "similarity", "fp32", "any", 18, "image", "embedding")


def hidden(name: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="t", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=name)
    tensor.external_data.add(key="length", value="4")
    return tensor


def in_attribute(model: onnx.ModelProto) -> onnx.AttributeProto:
    return model.graph.node.add().attribute.add(f=1.5, i=3, s=b"\x0a\x05hello")


PLACES: dict[str, Callable[[onnx.ModelProto, onnx.TensorProto], Any]] = {
    "initializer": lambda m, t: m.graph.initializer.append(t),
    "sparse values": lambda m, t: m.graph.sparse_initializer.add().values.CopyFrom(t),
    "sparse indices": lambda m, t: m.graph.sparse_initializer.add().indices.CopyFrom(t),
    "attribute t": lambda m, t: in_attribute(m).t.CopyFrom(t),
    "attribute g": lambda m, t: in_attribute(m).g.initializer.append(t),
    "attribute tensors": lambda m, t: in_attribute(m).tensors.append(t),
    "attribute graphs": lambda m, t: in_attribute(m).graphs.add().initializer.append(t),
    "attribute sparse": lambda m, t: in_attribute(m).sparse_tensor.values.CopyFrom(t),
    "attribute sparse, several": lambda m, t: in_attribute(m).sparse_tensors.add().indices.CopyFrom(t),
    "function node": lambda m, t: m.functions.add().node.add().attribute.add().t.CopyFrom(t),
    "function attribute": lambda m, t: m.functions.add().attribute_proto.add().t.CopyFrom(t),
    "training start": lambda m, t: m.training_info.add().initialization.initializer.append(t),
    "training step": lambda m, t: m.training_info.add().algorithm.initializer.append(t),
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_a_tensor_may_be(place: str) -> None:
    model = onnx.ModelProto(ir_version=10, producer_name="x" * 200)
    PLACES[place](model, hidden("hidden.bin"))
    model.graph.initializer.append(hidden("plain.bin"))
    assert external_files(model.SerializeToString()) == {"hidden.bin", "plain.bin"}


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message, of fewer than 128 bytes or of 128 to 16,383."""
    size = len(content)
    return bytes([number << 3 | 2, *([size] if size < 128 else [size & 127 | 128, size >> 7])]) + content


def test_numbers_of_every_kind_are_skipped_to_the_byte() -> None:
    entry = field(13, field(1, b"location") + field(2, b"w.bin"))
    graph = field(7, field(5, entry))
    eight, four, several = b"\x09" + bytes([255] * 8), b"\x0d" + bytes([255] * 4), b"\x08" + b"\xff" * 9 + b"\x01"
    assert external_files(eight + four + several + graph + eight) == {"w.bin"}
    assert external_files(b"\x08" + b"\x80" * 9 + b"\x00") == set()
    for broken, words in (
        (b"\x08" + b"\x80" * 10 + b"\x00", "longer"),
        (graph[:-1], "past its end"),
        (graph + b"\x0b", "wire type 3"),
        (b"\x80\x80\x80\x80\x10", "field key"),
        (graph + b"\x08", "index out of"),
    ):
        with pytest.raises(BundleError, match=words):
            external_files(broken)
    assert external_files(b"\xf8\xff\xff\xff\x0f\x00") == set()  # the largest key that is one
    with pytest.raises(BundleError, match="not an ONNX file"):
        external_files(field(7, field(5, field(13, field(1, b"location") + field(2, b"\xff")))))
    assert external_files(field(7, field(5, field(13, field(1, b"location"))))) == {""}


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "n",
        "licence": "MIT",
        "preprocessing": PREPROCESSING,
        "embedding": 2,
        "metric": "cosine",
    }
    return Manifest(**{**fields, "graphs": (BASE,), **changes})


def test_a_manifest_may_have_every_allowed_value() -> None:
    for changes in (
        {"name": ""},
        {"name": "n" * 1000},
        {"licence": ""},
        {"origin": ""},
        {"origin": "o" * 1000},
        {"embedding": 1},
        {"embedding": LARGEST_EMBEDDING},
        {"metric": "dot"},
        {"metric": "euclidean"},
        {"graphs": (dataclasses.replace(BASE, precision="bf16", target="gpu", role="gradient", second_input="other"),)},
        {"conditions": Conditions(("a", "b" * 1000), np.array([[1, -2], [0, 3]], np.float32))},
    ):
        made = manifest(**changes)
        again = Manifest.from_json(made.to_json())
        assert again.to_json() == made.to_json()
        assert again.graphs == made.graphs


def test_a_manifest_refuses_the_next_value() -> None:
    good = np.ones((2, 2), np.float32)
    for changes, words in (
        ({"name": "n" * 1001}, "name must be one line"),
        ({"name": "a\nb"}, "name must be one line"),
        ({"licence": None}, "licence text"),
        ({"origin": "a\nb"}, "origin must be one line"),
        ({"origin": "o" * 1001}, "origin must be one line"),
        ({"origin": 3}, "origin must be one line"),
        ({"embedding": 0}, "embedding"),
        ({"embedding": LARGEST_EMBEDDING + 1}, "embedding"),
        ({"metric": "hamming"}, "metric must be one of"),
        ({"graphs": (dataclasses.replace(BASE, file=3),)}, "must be names"),
        ({"graphs": (dataclasses.replace(BASE, second_input=3),)}, "must be names"),
        ({"graphs": (dataclasses.replace(BASE, role="x"),)}, "'x' is not one of"),
        ({"graphs": (dataclasses.replace(BASE, precision="x"),)}, "'x' is not one of"),
        ({"graphs": (dataclasses.replace(BASE, target="x"),)}, "'x' is not one of"),
        ({"conditions": Conditions(("a", "b"), good[:1])}, "weights must be finite"),
        ({"conditions": Conditions(("a", "b"), np.ones((2, 3), np.float32))}, "weights must be finite"),
        ({"conditions": Conditions((), np.ones((0, 2), np.float32))}, "weights must be finite"),
        ({"conditions": Conditions(("a", "b"), good * np.inf)}, "weights must be finite"),
        ({"conditions": Conditions(("a", "a"), good)}, "distinct names"),
        ({"conditions": Conditions(("a", ""), good)}, "distinct names"),
        ({"conditions": Conditions(("a", "b" * 1001), good)}, "distinct names"),
    ):
        with pytest.raises(OptionError, match=words):
            manifest(**changes)


def test_the_text_of_a_manifest_keeps_what_older_engines_know() -> None:
    plain = json.loads(manifest().to_json())
    assert plain["format"] == "sane-bundle"
    assert plain["version"] == 1
    assert "origin" not in plain
    assert "second_input" not in plain["graphs"][0]
    assert plain["conditions"] is None
    assert json.loads(manifest(origin="hub").to_json())["origin"] == "hub"
    third = manifest(conditions=Conditions(("a",), np.array([[0.1, 1 / 3]], np.float32)))
    assert "0.33333334" in third.to_json()
    for broken, words in (
        ("[", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a bundle's"),
        ('{"format": "sane-bundle"}', "version None"),
        (json.dumps(plain | {"version": 2}), "version 2"),
        (json.dumps({k: v for k, v in plain.items() if k != "conditions"}), "not valid"),
        (json.dumps(plain | {"conditions": {"names": ["a"], "weights": [[1e39, 0]]}}), "not valid"),
    ):
        with pytest.raises(BundleError, match=words):
            Manifest.from_json(broken)


def test_graphs_are_found_by_role_precision_and_target() -> None:
    gpu = dataclasses.replace(BASE, file="b.onnx", target="gpu", precision="fp16")
    half = dataclasses.replace(BASE, file="c.onnx", target="cpu", precision="fp16")
    made = manifest(graphs=(gpu, half, BASE))
    assert made.graph("similarity", "fp16", "gpu") is gpu
    assert made.graph("similarity", "fp16", "cpu") is half
    assert made.graph("similarity", "fp32", "gpu") is made.base is BASE
    assert made.graph("attributes", "fp32", "cpu") is None
    with pytest.raises(BundleError, match="no fp32 similarity graph"):
        _ = manifest(graphs=(gpu,)).base


def test_conditions_are_named_or_counted() -> None:
    seven = (*"abcdef", "3")
    made = manifest(conditions=Conditions(seven, np.ones((7, 2), np.float32)))
    assert [made.condition_index(c) for c in (None, 0, 6, "a", "3", "6", "0")] == [None, 0, 6, 0, 6, 6, 0]
    for wrong in (7, -1, "7", "x", True, 1.0, "1" * 5000, "-1"):
        with pytest.raises(OptionError, match=r"below 7.*such as a, b, c, d, e, \.\.\."):
            made.condition_index(wrong)  # type: ignore[arg-type]
    six = manifest(conditions=Conditions(seven[:6], np.ones((6, 2), np.float32)))
    with pytest.raises(OptionError, match=r"such as a, b, c, d, e, \.\.\.$"):
        six.condition_index(6)
    few = manifest(conditions=Conditions(seven[:5], np.ones((5, 2), np.float32)))
    with pytest.raises(OptionError, match=r"such as a, b, c, d, e$"):
        few.condition_index(5)
    with pytest.raises(OptionError, match="leave it out"):
        manifest().condition_index(0)


def test_the_identity_is_the_same_for_ever() -> None:
    assert identity(manifest(), ["00", "11"]) == "19f15f4ceffe667b32d669b626ffefcb888ebea758092bbcd367353e8ba7c62e"
    weights = Conditions(("a",), np.array([[0.1, 2]], np.float32))
    others = [manifest(metric="dot"), manifest(conditions=weights)]
    found = {identity(m, ["00", "11"]) for m in (*others, manifest())} | {identity(manifest(), ["11", "00"])}
    assert len(found) == 4
    assert identity(manifest(name="other", origin="hub"), ["00", "11"]) == identity(manifest(), ["00", "11"])


def test_the_text_of_attributes_is_read_back_and_old_texts_too() -> None:
    bias, prior = np.array([0.1, -2], np.float32), np.array([0.25, 1], np.float32)
    table = AttributeTable(("a", "ü"), "sigmoid", bias, prior=prior)
    text = attributes_to_json(table)
    fields = json.loads(text)
    assert fields["bias"] == [0.1, -2]
    assert "ü" in text
    assert "joint" not in fields
    again = attributes_from_json(text)
    assert attributes_to_json(again) == text
    np.testing.assert_array_equal(again.bias, bias)
    np.testing.assert_array_equal(again.prior, prior)
    del fields["scale"]
    np.testing.assert_array_equal(attributes_from_json(json.dumps(fields)).slopes, [1, 1])
    assert attributes_from_json(json.dumps(fields | {"prior": None})).prior is None
    with pytest.raises(BundleError, match="not of version 1"):
        attributes_from_json(json.dumps(fields | {"version": 2}))
    for broken in ("[]", "{", json.dumps(fields | {"surprise": 1}), "[" * 100_000, json.dumps(fields | {"bias": [1e39, 0]})):
        with pytest.raises(BundleError, match="not valid"):
            attributes_from_json(broken)


GOOD: dict[str, Any] = {
    "embedding_cosine_mean": 1.0,
    "embedding_cosine_least": -1.0,
    "map_correlation_mean": 0.999,
    "map_correlation_p10": 0.999,
    "map_correlation_least": 1,
    "speed": None,
    "calibration": "",
}


def test_a_report_at_its_borders() -> None:
    assert GraphFidelity(**GOOD).passes
    assert not GraphFidelity(**GOOD | {"map_correlation_p10": 0.9989}).passes
    assert not GraphFidelity(**GOOD | {"map_correlation_mean": 0.9989}).passes
    assert str(GraphFidelity(**GOOD)) == "map correlation 0.99900 (nine of ten 0.99900): passes"
    slow = GraphFidelity(**GOOD | {"map_correlation_mean": 0.5, "speed": 2, "kept_fp32": ("a", "b")})
    assert str(slow) == (
        "map correlation 0.50000 (nine of ten 0.99900): does not pass, 0.999 is needed; 2.00 times as fast as fp32"
        "; 2 nodes left in fp32"
    )
    for change in (
        {"embedding_cosine_least": -1.001},
        {"map_correlation_least": 1.001},
        {"map_correlation_least": True},
        {"map_correlation_least": float("nan")},
        {"speed": 0},
        {"speed": -1},
        {"speed": True},
        {"speed": 10**309},
        {"calibration": None},
        {"kept_fp32": (1,)},
    ):
        with pytest.raises(OptionError):
            GraphFidelity(**GOOD | change)
    largest = 1.7976931348623157e308
    assert GraphFidelity(**GOOD | {"speed": largest}).speed == largest


def test_other_maps_of_a_report_at_their_borders() -> None:
    good = {"estimator": "sane", "masks": 1, "pairs": 1, "mean": 1, "p10": -1}
    assert str(MapFidelity(**good)) == "sane, 1 masks: 1.00000 (nine of ten -1.00000)"
    for change in ({"estimator": "rise"}, {"masks": 0}, {"pairs": 0}, {"mean": 1.001}, {"p10": float("nan")}):
        with pytest.raises(OptionError):
            MapFidelity(**good | change)
    with pytest.raises(OptionError, match="masks must be a whole number"):
        typed(GraphFidelity, GOOD | {"other_maps": [good | {"masks": "1"}]})
    assert typed(GraphFidelity, GOOD | {"other_maps": [good]}).other_maps == (MapFidelity(**good),)


def test_a_report_is_read_back_and_old_ones_had_the_published_estimator() -> None:
    fidelity = GraphFidelity(**GOOD | {"kept_fp32": ("a",)})
    report = Report("id", 1, 2, 3, 4, 5, "cpu", "x86_64", {"numpy": "2"}, {"g.onnx": fidelity}, "regression")
    again = Report.from_json(report.to_json())
    assert again.graphs == report.graphs
    assert again.to_json() == report.to_json()
    fields = json.loads(report.to_json())
    del fields["estimator"]
    assert Report.from_json(json.dumps(fields)).estimator == "sane"
    with pytest.raises(BundleError, match="not of version 1"):
        Report.from_json(json.dumps(fields | {"version": 2}))
    with pytest.raises(OptionError, match="estimator must be one of"):
        dataclasses.replace(report, estimator="ridge")
    for broken in (
        "[]",
        "{",
        json.dumps(fields | {"surprise": 1}),
        "[" * 100_000,
        json.dumps(fields | {"graphs": {"g": {}}}),
    ):
        with pytest.raises(BundleError, match="not valid"):
            Report.from_json(broken)


@pytest.fixture
def demo_copy(tmp_path: Path) -> Path:
    return copy_bundle(demo_bundle(), tmp_path / "bundle")


def refused(folder: Path, words: str) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        load_bundle(folder)
    assert "\n" not in str(caught.value)


def test_what_loading_gives_is_what_the_files_say(demo_copy: Path) -> None:
    bundle = load_bundle(demo_copy)
    assert (bundle.folder, bundle.vectors) == (demo_copy, None)
    assert bundle.attributes is not None
    assert bundle.precision is not None
    assert bundle.identity == bundle.precision.identity
    assert bundle.canonical["picture"].shape == (64, 64, 3)
    assert set(bundle.canonical) == {"picture", *(g.file for g in bundle.manifest.graphs)}
    assert checksums(demo_copy) == (demo_copy / SUMS).read_text()
    digest = bundle.digests[bundle.manifest.base.file]
    assert digest == hashlib.sha256((demo_copy / bundle.manifest.base.file).read_bytes()).hexdigest()
    assert graph_digest(bundle, bundle.manifest.base) == digest


def test_the_digest_of_a_graph_covers_its_weights_in_the_order_of_their_names() -> None:
    model = onnx.ModelProto(ir_version=10)
    model.graph.initializer.extend([hidden("w.bin"), hidden("b.bin")])
    digests = {BASE.file: "00", "w.bin": "11", "b.bin": "22"}
    beside = {BASE.file: external_files(model.SerializeToString())}
    bundle = dataclasses.replace(load_bundle(demo_bundle()), digests=digests, beside=beside)
    assert graph_digest(bundle, BASE) == hashlib.sha256(b"002211").hexdigest()


def test_sums_are_lines_of_a_digest_two_spaces_and_a_name(demo_copy: Path) -> None:
    text = (demo_copy / SUMS).read_text()
    for broken in (text + "word\n", text + f"{'0' * 63}  a\n", text + f"{'0' * 64} a\n", text + "\n"):
        (demo_copy / SUMS).write_text(broken)
        refused(demo_copy, "not a list of sha256 sums")
    (demo_copy / SUMS).write_bytes(b"\xff\xfe")
    refused(demo_copy, "is not text")


def test_attributes_need_what_gives_their_scores(demo_copy: Path, tmp_path: Path) -> None:
    (demo_copy / ATTRIBUTES).unlink()
    seal(demo_copy)
    refused(demo_copy, "must have attributes.json and an attribute graph")


def test_vectors_are_one_for_each_attribute(demo_copy: Path) -> None:
    table = attributes_from_json((demo_copy / ATTRIBUTES).read_text())
    for shape, said in (
        ((len(table.names), 64), None),
        ((len(table.names) - 1, 64), "must have a vector"),
        ((len(table.names), 63), "must be floating-point numbers"),
    ):
        np.savez(demo_copy / VECTORS, **vectors_of(*shape))
        seal(demo_copy)
        if said is None:
            assert load_bundle(demo_copy).vectors is not None
        else:
            refused(demo_copy, said)
    (demo_copy / VECTORS).write_bytes(b"PK nonsense")
    seal(demo_copy)
    refused(demo_copy, "attribute_vectors.npz")


@pytest.mark.parametrize("gone", ["vectors", "scale", "bias", "confidence"])
def test_an_array_that_vectors_lack_is_named(demo_copy: Path, gone: str) -> None:
    table = attributes_from_json((demo_copy / ATTRIBUTES).read_text())
    arrays = vectors_of(len(table.names), 64)
    del arrays[gone]
    np.savez(demo_copy / VECTORS, **arrays)
    seal(demo_copy)
    refused(demo_copy, f"attribute_vectors.npz is not valid: .*: it lacks {gone}; export")


def test_an_array_that_nobody_asked_for_is_refused(demo_copy: Path) -> None:
    table = attributes_from_json((demo_copy / ATTRIBUTES).read_text())
    np.savez(demo_copy / VECTORS, **vectors_of(len(table.names), 64), other=np.zeros(3))
    seal(demo_copy)
    refused(demo_copy, "attribute_vectors.npz is not valid: .*other")


def vectors_of(attributes: int, embedding: int) -> dict[str, np.ndarray]:
    parts = np.ones((attributes, embedding), np.float32), np.ones(attributes, np.float32), np.zeros(attributes, np.float32)
    return AttributeVectors(*parts).to_arrays()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"picture": np.zeros((64, 63, 3), np.uint8)}, "must be whole numbers"),
        ({"picture": np.zeros((64, 64, 3), np.int16)}, "must be whole numbers"),
        ({"similarity.fp32.onnx": None}, "no array 'similarity.fp32.onnx'"),
        ({"picture": None}, "no array 'picture'"),
        ({"similarity.fp32.onnx": np.ones((1, 64), np.float32)}, "must be floating-point numbers"),
        ({"similarity.fp32.onnx": np.ones(64, np.int32)}, "must be floating-point numbers"),
        ({"similarity.fp32.onnx": np.ones(0, np.float32)}, "empty result"),
        ({"similarity.fp32.onnx": np.full(64, np.nan, np.float32)}, "not finite"),
    ],
)
def test_the_canonical_results_are_one_finite_row_for_each_graph(
    demo_copy: Path, changes: dict[str, np.ndarray | None], words: str
) -> None:
    with np.load(demo_copy / "canonical.npz") as data:
        arrays = {name: array for name, array in ({**data} | changes).items() if array is not None}
    np.savez(demo_copy / "canonical.npz", **arrays)
    seal(demo_copy)
    refused(demo_copy, words)


def test_a_report_is_about_graphs_of_its_bundle(demo_copy: Path) -> None:
    fields = json.loads((demo_copy / "precision.json").read_text())
    (graph,) = fields["graphs"].values()
    (demo_copy / "precision.json").write_text(json.dumps(fields | {"graphs": {"other.onnx": graph}}))
    seal(demo_copy)
    refused(demo_copy, "about another model")


def test_whole_numbers_have_64_bits_and_a_sign() -> None:
    packed = onnx.AttributeProto(ints=[-1, 0, 300, 2**63 - 1, -(2**63)]).SerializeToString()
    found = [one for number, value in fields_of(memoryview(packed)) if number == 8 for one in whole_numbers(value)]
    assert found == [-1, 0, 300, 2**63 - 1, -(2**63)]
    assert list(whole_numbers(memoryview(b"\x01\xac\x02\x00"))) == [1, 300, 0]


def test_a_disk_that_fails_is_one_line(demo_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("engine.bundle.sha256_of", failing)
    refused(demo_copy, f"cannot read the bundle {demo_copy}: Input/output error")


def test_weights_beside_a_graph_are_listed_and_inside(demo_copy: Path) -> None:
    graph = demo_copy / "similarity.fp32.onnx"
    model = onnx.load(graph)
    onnx.save(model, graph, save_as_external_data=True, location="w.bin", size_threshold=256)
    (demo_copy / "precision.json").unlink()  # of the graph as it was
    seal(demo_copy)
    whole = (demo_copy / SUMS).read_text()
    assert load_bundle(demo_copy).beside[graph.name] == {"w.bin"}
    (demo_copy / SUMS).write_text("".join(line for line in whole.splitlines(True) if "w.bin" not in line))
    refused(demo_copy, "w.bin is not listed in SHA256SUMS")
    (demo_copy / "w.bin").rename(demo_copy.parent / "w.bin")
    refused(demo_copy, "w.bin is missing")
    graph.write_bytes(graph.read_bytes().replace(b"w.bin", b"../wb"))
    seal(demo_copy)
    refused(demo_copy, "'../wb' is not a plain file name")


def test_an_export_that_was_stopped_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "bundle", "`python -m export similarity --out .* makes one")
    other = tmp_path / f".bundle.{'0' * 8}.old"
    other.mkdir()
    refused(tmp_path / "bundle", "makes one")  # nothing of a bundle
    (other / SUMS).touch()
    refused(tmp_path / "bundle", f"an export was stopped that replaced it: rename {other} to {tmp_path / 'bundle'}$")


def test_the_layout_of_tokens_at_its_borders() -> None:
    assert [TokenLayout(*given).count for given in ((0, 1, 1), (1, 2, 3), (65_536, 65_536, 1))] == [1, 7, 131_072]
    for given, words in (
        ((-1, 1, 1), "prefix"),
        ((65_537, 1, 1), "prefix"),
        ((0, 0, 1), "rows"),
        ((0, 65_537, 1), "rows"),
        ((0, 1, 0), "columns"),
        ((0, 1, 65_537), "columns"),
    ):
        with pytest.raises(OptionError, match=words):
            TokenLayout(*given)


def test_graphs_of_stem_and_tokens_go_together() -> None:
    stem = dataclasses.replace(BASE, file="s.onnx", role="stem")
    tokens = dataclasses.replace(BASE, file="t.onnx", role="tokens", layout=TokenLayout(1, 7, 8))
    made = manifest(graphs=(BASE, stem, tokens))
    assert Manifest.from_json(made.to_json()).graphs == made.graphs
    for graphs in (
        (BASE, stem),
        (BASE, tokens),
        (BASE, stem, dataclasses.replace(tokens, layout=None)),
        (BASE, dataclasses.replace(stem, layout=TokenLayout(1, 7, 8)), tokens),
    ):
        with pytest.raises(OptionError, match="go together"):
            manifest(graphs=graphs)


def test_limits_are_the_ones_that_are_written_down() -> None:
    """In numbers, not by their names in the code (docs/security.md)."""
    assert manifest(embedding=1_000_000).embedding == 1_000_000
    with pytest.raises(OptionError, match="embedding"):
        manifest(embedding=1_000_001)
    made = manifest(conditions=Conditions(("a", "b", "c"), np.ones((3, 2), np.float32)))
    assert made.condition_index("000000002") == 2
    with pytest.raises(OptionError, match="no condition '0000000002'"):
        made.condition_index("0000000002")


def test_numbers_of_a_manifest_are_numbers() -> None:
    text = json.loads(manifest(conditions=Conditions(("a",), np.ones((1, 2), np.float32))).to_json())
    for weights in ([[True, False]], [["1", "2"]], [[None, 1]], [[1], [1, 2]]):
        with pytest.raises(BundleError, match="not valid"):
            Manifest.from_json(json.dumps(text | {"conditions": {"names": ["a"], "weights": weights}}))


def test_what_is_written_is_what_was_written_byte_for_byte() -> None:
    """Whoever exports the same model again gets the same checksums."""
    for name, again in (
        ("manifest.json", lambda text: Manifest.from_json(text).to_json()),
        ("attributes.json", lambda text: attributes_to_json(attributes_from_json(text))),
    ):
        text = (demo_bundle() / name).read_text(encoding="utf-8")
        assert again(text) == text
    report = Report("id", 1, 2, 3, 4, 5, "cpu", "x86_64", {"numpy": "2"}, {})
    assert "bf16" not in report.to_json()  # as reports were before there was one
    assert report.to_json().startswith('{\n "version": 1,\n "identity": "id",\n "calibration_pictures": 1,\n')


def test_what_a_file_says_is_not_repeated_whole(demo_copy: Path) -> None:
    long = "x" * 100_000
    text = json.loads((demo_copy / "manifest.json").read_text())
    graph, *graphs = text["graphs"]
    for change in (
        {"metric": long},
        {"version": long},
        {"graphs": [graph | {"role": long}, *graphs]},
        {"graphs": [graph | {"file": "x/" + "x" * 900}, *graphs]},
        {"preprocessing": text["preprocessing"] | {"channels": long}},
    ):
        with pytest.raises(BundleError) as caught:
            (demo_copy / "manifest.json").write_text(json.dumps(text | change))
            seal(demo_copy)
            load_bundle(demo_copy)
        assert len(str(caught.value)) < 1000
    (demo_copy / SUMS).write_text(f"{'0' * 64}  {long}\n")
    (demo_copy / "manifest.json").write_text(json.dumps(text))
    with pytest.raises(BundleError) as caught:
        load_bundle(demo_copy)
    assert len(str(caught.value)) < 1000


def test_a_file_may_have_two_spaces_in_its_name(demo_copy: Path) -> None:
    (demo_copy / "a  b.txt").write_text("a")
    seal(demo_copy)
    assert "a  b.txt" in load_bundle(demo_copy).digests


def test_vectors_without_attributes_are_refused(demo_copy: Path) -> None:
    np.savez(demo_copy / VECTORS, **vectors_of(1, 64))
    (demo_copy / ATTRIBUTES).unlink()
    seal(demo_copy)
    refused(demo_copy, r"must have a vector \(0, 64\) for each attribute")
