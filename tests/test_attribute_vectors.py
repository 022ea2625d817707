"""Attributes by vector: planted vectors are found again, over the query, in references, and where they were planted."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from helpers import CAT, COUPLE, NAMES, PICTURES, copy_bundle, seal

from engine import BundleError, Explainer, LearnedMask, Lime, OptionError, Rise, Window
from engine.attributes.table import AttributeTable
from engine.attributes.vectors import AttributeVectors, mean_of_units, unit_rows
from engine.bundle import ATTRIBUTES, VECTORS, demo_bundle
from engine.bundle.manifest import MANIFEST, Manifest, attributes_to_json
from engine.files import write_npz

SHARPNESS = 40.0

METHODS = [Rise(masks=64), Rise(masks=64, estimator="sane"), Window(size=16, stride=16), Lime(samples=40)]


@pytest.fixture(scope="module")
def vectors(demo: Explainer) -> AttributeVectors:
    """One attribute per demo subject: the mean of its two drawings' unit embeddings, less that of all."""
    units = unit_rows(demo.embed([PICTURES / f"{n}-{v}.png" for n in NAMES for v in ("noto", "twemoji")]))
    means = units.reshape(len(NAMES), 2, -1).mean(1)
    planted = (means - means.mean(0)).astype(np.float32)
    ones = np.ones(len(NAMES), np.float32)
    return AttributeVectors(planted, SHARPNESS * ones, -10 * ones)


@pytest.fixture(scope="module")
def by_vector(vectors: AttributeVectors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with vectors in place of its attribute network."""
    return with_vectors(vectors, tmp_path_factory.mktemp("vectors") / "bundle")


def with_vectors(
    vectors: AttributeVectors, folder: Path, keep_network: bool = False, names: tuple[str, ...] = NAMES
) -> Path:
    copy_bundle(demo_bundle(), folder)
    if not keep_network:
        manifest = Manifest.from_json((folder / MANIFEST).read_text())
        graphs = tuple(g for g in manifest.graphs if g.role != "attributes")
        (folder / MANIFEST).write_text(dataclasses.replace(manifest, graphs=graphs).to_json())
        table = AttributeTable(names, "sigmoid", np.zeros(len(names), np.float32), 0.5)
        (folder / ATTRIBUTES).write_text(attributes_to_json(table))
    write_npz(folder / VECTORS, vectors.to_arrays())
    seal(folder)
    return folder


@pytest.mark.parametrize(
    "method", [Rise(masks=64), Rise(masks=64, estimator="sane"), Window(size=16, stride=16), Lime(samples=40)]
)
def test_planted_vectors_name_what_both_pictures_show(method: Rise | Window | Lime, by_vector: Path) -> None:
    explainer = Explainer(by_vector, precision="fp32")
    for name in NAMES:
        pair = [PICTURES / f"{name}-{vendor}.png" for vendor in ("noto", "twemoji")]
        found = explainer.explain(*pair, method)
        assert [a.name for a in found.attributes] == [name]
        (attribute,) = found.attributes
        assert attribute.map.sum() == pytest.approx(1, abs=1e-5)
        assert attribute.map.min() >= 0
        assert attribute.map.max() > 1.5 / attribute.map.size
    apart = explainer.explain(COUPLE[0], CAT[0], method)
    assert (apart.attributes, [a.name for a in apart.only_query]) == ((), ["couple"])
    assert [a.name for a in apart.only_reference] == ["cat"]
    assert apart.only_reference[0].map is None


def test_every_kind_of_reference_and_method_mask(by_vector: Path) -> None:
    explainer = Explainer(by_vector, precision="fp32")
    embedding = explainer.embed([CAT[1]])[0]
    prepared = explainer.prepare(CAT[0], Rise(masks=64))
    shown, bare = prepared.explain_many([CAT[1], embedding])
    both = prepared.explain(explainer.prepare(CAT[1], Rise(masks=64)))
    learned = explainer.explain(*CAT, LearnedMask(iterations=2))
    for found in (shown, bare, both, learned):
        assert [a.name for a in found.attributes] == ["cat"]
        assert found.attributes[0].score == pytest.approx(shown.attributes[0].score, abs=1e-6)
    assert learned.attributes[0].map.shape == (1, 1)
    np.testing.assert_allclose(explainer.confidences([*CAT, COUPLE[0]])[:, 0] > 0.5, [True, True, False])


def test_the_map_is_where_the_score_comes_from(by_vector: Path, vectors: AttributeVectors) -> None:
    """The twin: the saliency map against a reference whose factor is the vector."""
    explainer = Explainer(by_vector, precision="fp32")
    prepared = explainer.prepare(CAT[0], Rise(masks=256))
    seen = prepared.seen.maps[0]
    saliency = prepared.estimates(vectors.vectors[:1].astype(np.float64), None)[0].saliency
    cells = saliency.reshape(8, 8, 8, 8).mean((1, 3))
    assert np.corrcoef(seen.ravel(), np.maximum(cells - cells.mean(), 0).ravel())[0, 1] > 0.95


def test_confidences_are_those_of_the_slow_twin(vectors: AttributeVectors) -> None:
    embeddings = np.random.default_rng(0).normal(size=(5, vectors.vectors.shape[1])).astype(np.float32)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores = vectors.scale * (unit @ vectors.vectors.T) + vectors.bias
    np.testing.assert_allclose(vectors.confidences(embeddings), 1 / (1 + np.exp(-scores)), rtol=1e-4)
    softmax = dataclasses.replace(vectors, confidence="softmax").confidences(embeddings)
    np.testing.assert_allclose(softmax, np.exp(scores) / np.exp(scores).sum(1, keepdims=True), rtol=1e-4)
    assert np.isfinite(vectors.confidences(np.zeros((1, vectors.vectors.shape[1]), np.float32))).all()


def test_the_passes_add_to_what_the_embedding_says(vectors: AttributeVectors, tmp_path: Path) -> None:
    weak, none = (0.1 * vectors.vectors).astype(np.float32), np.zeros(len(NAMES), np.float32)
    told = dataclasses.replace(
        vectors, pass_own=weak, pass_mean=(SHARPNESS * vectors.vectors).astype(np.float32), pass_bias=none - 5
    )
    explainer = Explainer(with_vectors(told, tmp_path / "bundle"), precision="fp32")
    prepared = explainer.prepare(CAT[0], Rise(masks=64))
    own, mean = unit_rows(prepared.whole[None])[0], mean_of_units(prepared.embeddings)
    expected = 1 / (1 + np.exp(-(weak @ own + told.pass_mean @ mean - 5)))
    np.testing.assert_allclose(prepared.seen.confidences, expected, rtol=1e-5)
    assert not np.allclose(prepared.seen.confidences, vectors.confidences(prepared.whole[None])[0])


def test_with_a_network_too_vectors_speak_for_bare_embeddings(tmp_path: Path, demo: Explainer) -> None:
    names = demo.model.bundle.attributes.names
    units = unit_rows(demo.embed(CAT))
    confident = np.where(np.arange(len(names)) == names.index("face"), 5, -5).astype(np.float32)
    none = np.zeros((len(names), units.shape[1]), np.float32)
    vectors = AttributeVectors(none, np.ones(len(names), np.float32), confident)
    explainer = Explainer(with_vectors(vectors, tmp_path / "bundle", keep_network=True), precision="fp32")
    prepared = explainer.prepare(CAT[0], Rise(masks=16))
    bare, shown = prepared.explain(demo.embed([CAT[1]])[0]), prepared.explain(CAT[1])
    assert [a.name for a in bare.attributes] == ["face"]
    assert bare.attributes[0].reference_confidence == pytest.approx(1 / (1 + np.exp(-5)))
    assert [a.name for a in shown.attributes] == [a.name for a in demo.explain(*CAT, Rise(masks=16)).attributes]


def test_what_does_not_fit_is_refused(vectors: AttributeVectors, by_vector: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"vectors": vectors.vectors[0]}, r"\(A, D\)"),
        ({"confidence": "sure"}, "softmax, sigmoid"),
        ({"scale": vectors.scale[:1]}, "scale must be finite float32"),
        ({"bias": np.full(len(NAMES), np.nan, np.float32)}, "bias must be finite"),
        ({"vectors": vectors.vectors.astype(np.float64)}, "float64"),
        ({"pass_bias": vectors.bias}, "go together"),
    ):
        with pytest.raises(OptionError, match=message):
            dataclasses.replace(vectors, **changes)
    arrays = vectors.to_arrays()
    for odd, message in ((arrays | {"extra": arrays["bias"]}, "unknown extra"), ({"bias": arrays["bias"]}, "lacks")):
        broken = copy_bundle(by_vector, tmp_path / message.replace(" ", "-"))
        write_npz(broken / VECTORS, odd)
        seal(broken)
        with pytest.raises(BundleError, match=message):
            Explainer(broken)
    with pytest.raises(BundleError, match=r"a vector \(3, 64\) for each attribute.*got \(4, 64\)"):
        Explainer(with_vectors(vectors, tmp_path / "three", names=NAMES[:3]))
    lost = copy_bundle(by_vector, tmp_path / "lost")
    (lost / VECTORS).unlink()
    seal(lost)
    with pytest.raises(BundleError, match="or none of them"):
        Explainer(lost)
    (lost / VECTORS).write_bytes(b"PK not a zip")
    seal(lost)
    with pytest.raises(BundleError, match=r"not an \.npz archive"):
        Explainer(lost)
