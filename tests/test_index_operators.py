"""Operators in few bytes: modes of maps, rounding, what is known of their noise, and the choice of a format. No table."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import PICTURES, count_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import Explainer, OptionError, Rise
from engine.attributes.ranking import Activations
from engine.attributes.table import AttributeTable
from engine.index import Index
from engine.index.choosing import ChoiceSample, candidates, choose_format
from engine.index.codec import COMPARED, OperatorCodec, nearest
from engine.index.embeddings import ReferenceBasis
from engine.index.listing import listed_pictures
from engine.index.noise import MapNoise, lost_signal, variances
from engine.index.operators import MapModes, OperatorFormat, Operators, encoded
from engine.index.rows import nameable, packed_maps, unpacked_maps
from engine.methods.rise import draw_balanced
from engine.saliency.geometry import TILES, Geometry
from engine.saliency.operator import MaskRows, Operator
from engine.saliency.regression import Regression, differences

SIZE, FEATURES = (48, 40), 24
GEOMETRY = Geometry.of(*SIZE, 8)


def regression(seed: int, masks: int = 256, noise: float = 0.3) -> Regression:
    """A fit of a smooth picture: its tiles' effects on F features are smooth, and of a few kinds."""
    random = np.random.default_rng(seed)
    plan = draw_balanced(Rise(seed=seed), masks, *SIZE)
    tiles = plan.renderer(*SIZE).tiles(TILES)
    y, x = np.mgrid[:TILES, :TILES] / TILES
    bumps = [np.exp(-((y - a) ** 2 + (x - b) ** 2) * 20).ravel() for a, b in random.random((4, 2))]
    features = tiles @ np.stack(bumps).T @ random.standard_normal((4, FEATURES)) / 10
    features += noise / 10 * random.standard_normal(features.shape)
    z = differences(features)
    return Regression(Operator.fitted(MaskRows.of(tiles[::2] - 0.5), z), GEOMETRY, z)


@pytest.fixture(scope="module")
def fits() -> list[Regression]:
    return [regression(seed) for seed in range(4)]


def references(count: int, seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, FEATURES))


def test_all_modes_are_the_map_itself(fits: list[Regression]) -> None:
    modes, r = MapModes.largest(GEOMETRY, TILES**2), references(3)
    own = modes.maps(r @ modes.of_weights(fits[0].weights).T)
    direct = np.stack([e.saliency for e in fits[0].estimates(r)])
    np.testing.assert_allclose(own, direct, atol=1e-5 * np.abs(direct).max())


def test_few_modes_are_the_projection_on_the_largest(fits: list[Regression]) -> None:
    every, few = MapModes.largest(GEOMETRY, TILES**2), MapModes.largest(GEOMETRY, 30)
    whole, part = every.of_weights(fits[0].weights), few.of_weights(fits[0].weights)
    np.testing.assert_allclose(part, whole[few.row * TILES + few.column])
    drawn = few.maps(np.eye(30)).reshape(30, -1).astype(np.float64)
    np.testing.assert_allclose(drawn @ drawn.T, np.eye(30), atol=1e-5)
    values = np.outer(*(np.linalg.svd(m)[1] for m in (GEOMETRY.rows, GEOMETRY.columns)))
    assert values[few.row, few.column].min() >= np.sort(values, axis=None)[-30]


def test_maps_of_another_size_are_means_over_areas(fits: list[Regression]) -> None:
    modes = MapModes.largest(GEOMETRY, 49)
    c = references(2) @ modes.of_weights(fits[0].weights).T
    full = modes.maps(c).reshape(2, 12, 4, 10, 4).mean((2, 4))
    np.testing.assert_allclose(modes.shown_at(12, 10).maps(c), full, atol=1e-6)


def test_correlations_without_drawing(fits: list[Regression]) -> None:
    modes = MapModes.largest(GEOMETRY, TILES**2)
    a, b = (references(3) @ modes.of_weights(fit.weights).T for fit in fits[:2])
    drawn = [np.corrcoef(*(m.ravel() for m in pair))[0, 1] for pair in zip(modes.maps(a), modes.maps(b), strict=True)]
    np.testing.assert_allclose(modes.correlations(a, b), drawn, atol=1e-4)
    np.testing.assert_allclose(modes.correlations(a, 3 * a), 1)
    assert (modes.correlations(a, np.zeros_like(a)) == 0).all()


def test_counts_and_formats_that_mean_nothing() -> None:
    with pytest.raises(OptionError, match="have 256 modes, got 300"):
        MapModes.largest(GEOMETRY, 300)
    for wrong in ((0, 8, 8, 0), (49, -1, 8, 0), (49, 8, 5, 0), (49, 8, 8, 50)):
        with pytest.raises(OptionError, match="a format needs"):
            OperatorFormat(*wrong)


@given(
    seed=st.integers(0, 1000),
    modes=st.integers(1, 9),
    basis=st.integers(0, 5),
    bits=st.sampled_from((4, 8)),
    size=st.floats(1e-12, 1e12),
)
@settings(max_examples=60)
def test_numbers_are_rounded_to_the_nearest_level(seed: int, modes: int, basis: int, bits: int, size: float) -> None:
    random = np.random.default_rng(seed)
    matrix = size * random.standard_normal((modes, FEATURES))
    directions = np.linalg.qr(random.standard_normal((FEATURES, basis)))[0] if basis else None
    kept = OperatorFormat(modes, basis, bits)
    record = encoded(matrix, directions, kept)
    assert record.nbytes == kept.dtype(FEATURES).itemsize
    inside = matrix if directions is None else matrix @ directions
    (found,) = Operators.decoded(record[None], kept, FEATURES).inside
    step = np.abs(inside).max(1) / (2 ** (bits - 1) - 1)
    assert (np.abs(found - inside) <= 0.51 * step[:, None] + 1e-4 * np.abs(inside).max()).all()


def test_the_rest_takes_what_basis_and_rounding_leave_out() -> None:
    random = np.random.default_rng(0)
    matrix = random.standard_normal((16, 3)) @ random.standard_normal((3, FEATURES))
    basis = np.linalg.qr(random.standard_normal((FEATURES, 4)))[0]
    errors = []
    for rest in (0, 2, 4):
        kept = OperatorFormat(16, 4, 4, rest)
        (whole,) = Operators.decoded(encoded(matrix, basis, kept)[None], kept, FEATURES).matrices(basis)
        errors.append(float(np.linalg.norm(whole - matrix) / np.linalg.norm(matrix)))
    assert errors[0] > 0.5
    assert errors[1] < errors[0] / 1.5
    assert errors[2] < 0.1


def test_coefficients_are_the_products_of_the_restored_matrices() -> None:
    random = np.random.default_rng(1)
    basis, kept = np.linalg.qr(random.standard_normal((FEATURES, 4)))[0], OperatorFormat(16, 4, 8, 2)
    records = np.stack([encoded(random.standard_normal((16, FEATURES)), basis, kept) for _ in range(3)])
    operators, r = Operators.decoded(records, kept, FEATURES), references(3).astype(np.float32)
    whole = operators.matrices(basis)
    inside = r @ basis.astype(np.float32)
    np.testing.assert_allclose(operators.coefficients(r, inside), np.einsum("nmf,nf->nm", whole, r), atol=1e-4)
    one = Operators.decoded(records[:1], kept, FEATURES)
    np.testing.assert_allclose(one.coefficients(r, inside), r @ whole[0].T, atol=1e-4)
    np.testing.assert_allclose(operators.coefficients(r[:1], inside[:1]), whole @ r[0], atol=1e-4)


NOTHING = np.zeros((FEATURES, FEATURES))


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("columns", [None, 12])
def test_noise_is_that_of_the_jackknife(
    fits: list[Regression], columns: int | None, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:  # as where a basis has many columns
        monkeypatch.setattr("engine.index.noise.WHOLE_COLUMNS", 0)
    # as of an index: what the maps depend on most, and some of the rest
    some = None if columns is None else np.concatenate([fits[0].leading(4), references(columns - 4, 5)])
    basis = None if some is None else np.linalg.qr(some.T)[0]
    r = references(30)
    noise = np.stack([MapNoise.of(fits[0], basis, FEATURES, NOTHING[:columns, :columns]).record()] * 30)
    inside = r if basis is None else r @ basis
    found = variances(noise, inside.astype(np.float32), np.square(r).sum(1))
    replicates, factor = fits[0].replicates(r)
    direct = factor * replicates.var(2).sum(0)
    ratio = found / direct
    assert 0.9 < np.median(ratio) < 1.1
    spread = 0.25 if basis is None else 0.5
    assert np.quantile(np.abs(np.log(ratio)), 0.9) < (0.05 if whole and basis is None else spread)
    level = np.sqrt(found) * noise["error"]
    np.testing.assert_allclose(
        np.median(level / np.sqrt(factor * np.square(replicates).sum(0).mean(1))), 1, atol=0.02 if basis is None else 0.1
    )


@pytest.mark.parametrize("kept", [OperatorFormat(12, 0, 4), OperatorFormat(12, 12, 4), OperatorFormat(12, 12, 4, 2)])
def test_what_storing_takes_from_the_signal_is_known(kept: OperatorFormat, fits: list[Regression]) -> None:
    basis = ReferenceBasis.fitted(references(40, 5), FEATURES, kept)
    codec, fit = OperatorCodec.of(kept, basis, GEOMETRY), fits[2]
    r = references(30) if basis.basis is None else references(30) @ basis.basis @ basis.basis.T
    stored = codec.stored(fit.weights)
    own = codec.coefficients(codec.decoded(stored[0][None]), None, r)
    left = ((own @ codec.tile_form) * own).sum(1)
    whole = np.stack([GEOMETRY.tiles((fit.weights @ one)[None])[0] for one in r]).var(1)
    noise = MapNoise.of(fit, basis.basis, FEATURES, codec.changed_form(fit.weights, stored)).record()
    inside = basis.inside(basis.varying(r))
    mended = left + lost_signal(np.stack([noise] * 30), inside)
    assert np.quantile(np.abs(left / whole - 1), 0.9) > 0.03
    assert np.quantile(np.abs(mended / whole - 1), 0.9) < 0.015


def test_a_codec_knows_its_own_fidelity(fits: list[Regression]) -> None:
    kept, r = OperatorFormat(30, 0, 4), references(COMPARED)
    codec = OperatorCodec.of(kept, ReferenceBasis(FEATURES, False, None), GEOMETRY)
    stored = codec.stored(fits[1].weights)
    drawn = codec.some.maps(codec.coefficients(codec.decoded(stored[0][None]), None, r))
    direct = [e.saliency for e in fits[1].estimates(r)]
    expected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(drawn, direct, strict=True)]
    np.testing.assert_allclose(codec.fidelity(fits[1].weights, stored, r), expected, atol=1e-4)
    assert np.isnan(codec.fidelity(fits[1].weights, stored, r[:2])[2:]).all()


def test_distances_have_a_part_that_is_the_same_for_every_reference() -> None:
    """Features of a query are e, 1, |e|^2, of a reference 2 e, -|e|^2, -1."""
    random = np.random.default_rng(3)
    weights = random.standard_normal((TILES**2, FEATURES + 2))
    weights[:, FEATURES] = 0  # the column of ones has no effect
    codec = OperatorCodec.of(OperatorFormat(30, 0, 8), ReferenceBasis(FEATURES, True, None), GEOMETRY)
    e = references(2)
    r = np.concatenate([2 * e, -np.square(e).sum(1, keepdims=True), -np.ones((2, 1))], axis=1)
    operator, offset = codec.stored(weights)
    assert offset is not None
    own = codec.coefficients(codec.decoded(operator[None]), offset[None], r)
    direct = r @ codec.some.of_weights(weights).T
    np.testing.assert_allclose(own, direct, atol=0.05 * np.abs(direct).max())
    difference = codec.coefficients(codec.decoded(operator[None]), offset[None], r[:1] - r[1:])
    np.testing.assert_allclose(difference, own[:1] - own[1:], atol=1e-3 * np.abs(direct).max())


def test_a_picture_is_not_its_own_reference() -> None:
    others = references(9)
    found = nearest(others[3] * 1.0000001, others, FEATURES)
    assert len(found) == COMPARED
    assert not (found == others[3]).all(1).any()
    cosines = others @ others[3] / np.linalg.norm(others, axis=1)
    assert (found[0] == others[np.argsort(-cosines)[1]]).all()


def sample(fits: list[Regression]) -> ChoiceSample:
    return ChoiceSample(fits, references(len(fits), 3), references(20, 4), references(70, 5), FEATURES)


def test_the_fewest_bytes_that_reach_the_target_are_chosen(fits: list[Regression]) -> None:
    codec, fidelity = choose_format(sample(fits), (0.9, 0.8))
    assert fidelity.reaches((0.9, 0.8))
    size = codec.kept.dtype(FEATURES).itemsize
    for kept in candidates(70, FEATURES, TILES**2):
        if kept.dtype(FEATURES).itemsize < size:
            basis = ReferenceBasis.fitted(sample(fits).fitted, FEATURES, kept)
            assert not sample(fits).fidelity(OperatorCodec.of(kept, basis, GEOMETRY)).reaches((0.9, 0.8))
    _, better = choose_format(sample(fits), (0.999, 0.999))
    assert better.median > fidelity.median


def test_what_no_format_reaches_gets_the_best(fits: list[Regression]) -> None:
    codec, fidelity = choose_format(sample(fits), (1.1, 1.1))
    assert (codec.kept.bits, codec.kept.basis) == (8, 0)
    assert 0.99 < fidelity.tenth_percentile <= 1


def test_a_basis_has_no_more_columns_than_embeddings() -> None:
    assert {kept.basis for kept in candidates(15, 200, TILES**2)} == {0}
    assert {kept.basis for kept in candidates(63, 200, TILES**2)} == {0, 16, 32}
    assert {kept.basis for kept in candidates(63, 32, TILES**2)} == {0, 16}


TABLE = AttributeTable(tuple("abcdef"), "sigmoid", np.zeros(6, np.float32), threshold=0.5)


def test_activation_maps_come_back_but_for_rounding() -> None:
    maps = np.random.default_rng(0).random((6, 3, 4)).astype(np.float32) ** 3
    maps /= maps.sum((1, 2), keepdims=True)
    seen = Activations(np.array([0.9, 0.1, 0.6, 0.49, 0.5, 0.0]), maps)
    which = nameable(TABLE, seen.confidences)
    assert which.tolist() == [0, 2, 4]
    found = unpacked_maps(packed_maps(seen, which), 6, (3, 4))
    np.testing.assert_allclose(found[which], maps[which], atol=0.01 * maps.max())
    np.testing.assert_allclose(found.sum((1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(found[[1, 3, 5]], 1 / 12)


def test_attributes_that_a_sure_reference_makes_true_of_both_are_kept() -> None:
    joint = dataclasses.replace(TABLE, joint=(0.5, 0.5, 0.0))
    assert nameable(joint, np.array([0.9, 0.1, 0.0001, 0.4, 0.5, 0.0])).tolist() == [0, 1, 2, 3, 4, 5]
    harder = dataclasses.replace(TABLE, joint=(1.0, 0.1, 0.0))
    assert nameable(harder, np.array([0.9, 0.1, 0.0001, 0.4, 0.5, 0.0])).tolist() == [0, 3, 4]


def test_without_the_extra_there_is_one_line_before_any_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lance", "pyarrow"):
        monkeypatch.setitem(sys.modules, name, None)
    explainer = Explainer(precision="fp32")
    rows = count_rows(monkeypatch)
    with pytest.raises(OptionError, match=r"an index needs Lance: pip install 'sane-engine\[index\]'"):
        Index.build(tmp_path / "index", explainer, PICTURES)
    assert rows == []
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(OptionError, match="which pyarrow reads"):
        listed_pictures(tmp_path / "a.parquet")
