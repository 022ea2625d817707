"""Files of arrays: what nobody asks for is not read, and sizes are judged before numbers are read."""

import dataclasses
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import CAT, ROOT, Trap, copy_bundle, seal

from engine import BundleError, EngineError, Explainer, Explanation, OutputError, Rise, Window, npz
from engine.attributes.table import AttributeTable
from engine.attributes.vectors import AttributeVectors
from engine.bundle import VECTORS, load_bundle
from engine.bundle.manifest import attributes_to_json
from engine.reference_vectors import read_embedding_file
from export.index_embeddings import read_index
from export.inputs import load_conditions

UNREADABLE = b"\x93NUMPY\x01\x00 not a header, and far more than it says"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A prepared picture and an explanation, as the engine saves them."""
    folder = tmp_path_factory.mktemp("saved")
    explainer = Explainer(precision="fp32")
    prepared = explainer.prepare(CAT[0], Rise(masks=64))
    prepared.save(folder / "prepared.npz")
    explainer.explain(*CAT, Rise(masks=64), mode="pair").save(folder / "explanation.npz")
    explainer.prepare(CAT[0], Window(size=32, stride=32, pad=0)).save(folder / "window.npz")
    return {name: folder / f"{name}.npz" for name in ("prepared", "explanation", "window")}


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as data:
        return dict(data)


def with_fields(path: Path, out: Path, **changes: object) -> Path:
    """Write a copy of a saved file with other fields."""
    arrays = arrays_of(path)
    fields = json.loads(str(arrays["fields"])) | changes
    np.savez(out, **{**arrays, "fields": np.array(json.dumps(fields))})
    return out


def with_arrays(path: Path, out: Path, **changes: Any) -> Path:
    np.savez(out, allow_pickle=True, **{**arrays_of(path), **changes})
    return out


def load(name: str, path: Path) -> object:
    if name == "explanation":
        return Explanation.load(path)
    return Explainer(precision="fp32").load_prepared(path)


def test_one_reader_reads_all() -> None:
    """Whoever loads arrays in another way forgets one of its checks."""
    for package in ("engine", "export", "training"):
        for file in (ROOT / package).rglob("*.py"):
            assert "np.load(" not in file.read_text(), file


def test_arrays_that_nobody_asked_for_are_refused_or_not_read(saved: dict[str, Path], tmp_path: Path) -> None:
    for name in ("explanation", "prepared"):
        path = tmp_path / f"{name}.npz"
        path.write_bytes(saved[name].read_bytes())
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("surplus.npy", UNREADABLE)
        with pytest.raises(OutputError, match="unknown surplus"):
            load(name, path)
    np.savez(
        tmp_path / "own.npz", embeddings=np.ones((2, 3)), files=np.array(["a.png", "b.png"]), condition_weights=np.eye(3)
    )
    with zipfile.ZipFile(tmp_path / "own.npz", "a") as archive:
        archive.writestr("mine.npy", UNREADABLE)
        archive.writestr("notes.txt", b"mine too")
    (tmp_path / "a.png").touch()
    assert read_embedding_file(f"{tmp_path / 'own.npz'}:embeddings").shape == (2, 3)
    assert read_index(tmp_path / "own.npz", tmp_path, 3).rows.tolist() == [0]
    assert load_conditions(tmp_path / "own.npz").names == ("0", "1", "2")


def test_a_small_file_that_says_it_is_large_is_not_unpacked(
    saved: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "MOST_UNPACKED", 2**20)
    zeros, path = np.zeros((1024, 1024), np.float32), tmp_path / "bomb.npz"
    np.savez_compressed(path, embeddings=zeros, files=np.array(["a"] * 1024))
    assert path.stat().st_size < 2**14
    read: list[str] = []
    monkeypatch.setattr(npz.npy, "read_array", lambda *_, **__: read.append("read"))
    for reading in (lambda: read_embedding_file(f"{path}:embeddings"), lambda: read_index(path, tmp_path, 1024)):
        with pytest.raises(EngineError, match=r"'embeddings', float32 \(1024, 1024\), is larger than"):
            reading()
    assert not read


def test_a_large_file_of_arrays_that_are_not_packed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "MOST_UNPACKED", 100)
    np.savez(tmp_path / "a.npz", a=np.zeros(10_000))
    assert len(read_embedding_file(f"{tmp_path / 'a.npz'}:a")) == 10_000


@pytest.mark.parametrize("shape", ["(2000000000,)", "(-1,)", "(1000000, 1000000)", "(4, 4)"])
def test_headers_that_the_content_contradicts_are_refused(shape: str, tmp_path: Path) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    content = (
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(64 if shape != "(4, 4)" else 63)
    )
    (tmp_path / "a.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", content)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(EngineError, match="not an array of numbers that numpy wrote"):
            read_embedding_file(str(tmp_path / name))


def test_twins_other_packings_and_objects_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    with zipfile.ZipFile(tmp_path / "lzma.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.write(tmp_path / "a.npy", "a.npy")
    with pytest.warns(UserWarning), zipfile.ZipFile(tmp_path / "twins.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "a.npy")
        archive.write(tmp_path / "a.npy", "a.npy")
    np.savez(tmp_path / "objects.npz", a=np.array([Trap(tmp_path / "sprung")]))
    for name, said in (("lzma", "another way"), ("twins", "same name"), ("objects", "Python objects")):
        with pytest.raises(EngineError, match=said):
            read_embedding_file(str(tmp_path / f"{name}.npz"))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("similarity", "0.9"),
        ("similarity", float("inf")),
        ("similarity", 10**400),
        ("query_box", [0, 0, 1]),
        ("query_box", [9, 0, 1, 5]),
        ("query_size", [10**9, 10**9]),
        ("query_size", [0, 5]),
        ("method", 5),
        ("passes", 1.5),
        ("seed", 10**40),
        ("attributes", 7),
        ("attributes", [{"name": ["x"], "score": 1, "confidence": 1, "match": 1, "prior": 1}]),
        ("model", "demo"),
        ("model", {"name": "demo"}),
        ("notes", [5]),
        ("links", [{"query_box": [1]}]),
        ("timings", {"prepare": "long"}),
        ("surprise", 1),
        ("saliency_reliability", "good"),
    ],
)
def test_an_explanation_of_other_types_is_refused(name: str, value: object, saved: dict[str, Path], tmp_path: Path) -> None:
    changed = with_fields(saved["explanation"], tmp_path / "changed.npz", **{name: value})
    with pytest.raises(OutputError, match=r"changed\.npz: it is not a saved explanation") as caught:
        Explanation.load(changed)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(changed))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("saliency", np.zeros((3, 3), np.float32)),
        ("saliency", np.full((64, 64), np.nan, np.float32)),
        ("saliency", np.full((64, 64), 1e300)),
        ("saliency", np.array([["a"]])),
        ("saliency_error", np.zeros(4, np.float32)),
        ("saliency_error", np.zeros((15, 16), np.float32)),
        ("reference_saliency_error", np.zeros((16, 17), np.float32)),
        ("correspondence", np.zeros((64, 63), np.float32)),
        ("correspondence", np.zeros((63, 63), np.float32)),
        ("query_image", np.zeros((64, 64, 3), np.uint16)),
        ("reference_image", np.zeros((64, 64), np.uint8)),
        ("fields", np.array("{")),
        ("fields", np.array("[" * 100_000)),
        ("fields", np.array("[]")),
        ("fields", np.zeros(3)),
    ],
)
def test_an_explanation_of_other_arrays_is_refused(
    name: str, value: np.ndarray, saved: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="it is not a saved explanation"):
        Explanation.load(with_arrays(saved["explanation"], tmp_path / "changed.npz", **{name: value}))


def test_a_map_of_a_reference_without_its_picture_is_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    arrays = arrays_of(saved["explanation"])
    fields = json.loads(str(arrays["fields"]))
    link = {"query_box": [0, 0, 8, 8], "reference_box": [0, 0, 8, 8], "strength": 1.0, "reliability": 1.0}
    for kept, links in (("reference_saliency", []), ("correspondence", []), ("links", [link])):
        for gone in ("reference_image", "reference_box"):
            told = fields | {"links": links} | ({"reference_box": None} if gone == "reference_box" else {})
            left_out = {"reference_saliency", "correspondence", "reference_saliency_error", gone} - {kept}
            left = {name: array for name, array in arrays.items() if name not in left_out}
            np.savez(tmp_path / "changed.npz", **left | {"fields": np.array(json.dumps(told))})
            with pytest.raises(OutputError, match=f"it has {kept} but no {gone}"):
                Explanation.load(tmp_path / "changed.npz")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("embeddings", np.full((64, 64), 1e300)),
        ("whole", np.full(64, -1e300)),
        ("whole", np.zeros(64, np.int64)),
        ("plan_shifts", np.full((64, 2), 10**6)),
        ("plan_grids", np.ones((64, 8, 8), np.int8)),
        ("pixels", np.zeros((64, 64, 3), np.uint16)),
    ],
)
def test_a_prepared_picture_of_other_arrays_is_refused(
    name: str, value: np.ndarray, saved: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="it is not a prepared picture"):
        load("prepared", with_arrays(saved["prepared"], tmp_path / "changed.npz", **{name: value}))


@pytest.mark.parametrize("plan", [{"lattice": [10**12, 10**12]}, {"stride": [0, 0]}, {"size": "x"}, {"pad": [-1, 0]}])
def test_a_plan_of_odd_windows_is_refused(plan: dict[str, object], saved: dict[str, Path], tmp_path: Path) -> None:
    fields = json.loads(str(arrays_of(saved["window"])["fields"]))
    changed = with_fields(saved["window"], tmp_path / "changed.npz", plan=fields["plan"] | plan)
    with pytest.raises(OutputError, match="it is not a prepared picture"):
        load("prepared", changed)


def test_vectors_of_a_bundle_are_judged_before_they_are_read(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = copy_bundle(tiny_bundle, tmp_path / "bundle")
    table = AttributeTable(("a", "b"), "sigmoid", np.zeros(2, np.float32))
    (folder / "attributes.json").write_text(attributes_to_json(table))
    vectors = AttributeVectors(np.ones((2, 16), np.float32), np.ones(2, np.float32), np.zeros(2, np.float32))
    good = vectors.to_arrays()
    for changes, said in (
        ({}, ""),
        ({"vectors": np.ones((2, 17), np.float32)}, r"'vectors' must be floating-point numbers \(any, 16\)"),
        ({"vectors": np.ones((2, 16))}, "float64"),
        ({"scale": np.array(["a", "b"])}, "'scale' must be floating-point"),
        ({"confidence": np.array(5)}, "'confidence' must be text"),
    ):
        np.savez(folder / VECTORS, **{**good, **changes})
        seal(folder)
        if said:
            with pytest.raises(BundleError, match=said):
                load_bundle(folder)
        else:
            assert load_bundle(folder).vectors is not None


def test_a_pipe_is_no_file_of_arrays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(OutputError, match="it is not a file"):
        Explanation.load(tmp_path / "pipe.npz")


def test_what_the_engine_saves_it_reads(saved: dict[str, Path]) -> None:
    explanation = Explanation.load(saved["explanation"])
    assert dataclasses.replace(explanation).to_dict()["mode"] == "pair"
    assert load("prepared", saved["window"]).plan.lattice == (2, 2)  # type: ignore[attr-defined]
