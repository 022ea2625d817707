"""An index whose rows were prepared by leaving a transformer's tokens out: its explanations beside direct ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import copy_bundle, exit_status, seal
from index_pictures import write_catalogue
from token_networks import exported_vit

from engine import BundleError, Explainer, OptionError, Tokens
from engine.failing import picture_failure
from engine.index import Index
from engine.index.command import main
from engine.index.operators import MapModes
from engine.saliency.geometry import Geometry

pytest.importorskip("lance", reason="needs pylance, of the extra `index`")

SIDE = 32
QUERY, REFERENCES = "noto/cat.png", ["noto/bandage.png", "twemoji/cat.png", "twemoji/couple.png"]


@pytest.fixture(scope="module")
def explainer(tmp_path_factory: pytest.TempPathFactory) -> Explainer:
    return Explainer(exported_vit(tmp_path_factory), "cpu", "fp32")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalogue(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module", params=[0.5, 0.25])
def index(
    request: pytest.FixtureRequest, explainer: Explainer, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Index:
    method = Tokens(masks=64, kept=request.param)
    return Index.build(tmp_path_factory.mktemp("index") / "vit", explainer, pictures, method=method)


def test_explanations_are_those_of_the_passes(index: Index, explainer: Explainer, pictures: Path) -> None:
    assert index.verify() == []
    prepared = [explainer.prepare(pictures / id_, index.settings.passes) for id_ in (QUERY, *REFERENCES)]
    explained = Index.open(index._store.path, explainer).explain(QUERY, REFERENCES, correspondence=True)
    for own, other in zip(explained, prepared[1:], strict=True):
        direct = prepared[0].explain(other, mode="pair")
        assert (own.method, own.baseline, own.passes, own.seed) == ("tokens", "none", direct.passes, 0)
        assert own.similarity == pytest.approx(direct.similarity, abs=1e-6)
        for ours, theirs in (
            (own.saliency, direct.saliency),
            (own.reference_saliency, direct.reference_saliency),
            (own.correspondence, direct.correspondence),
        ):
            assert ours is not None
            assert theirs is not None
            assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.95
            assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.15)
        assert own.saliency.mean() == pytest.approx(0, abs=1e-6)  # one token rather than another
        assert own.saliency_reliability == pytest.approx(direct.saliency_reliability, abs=0.02)
        assert own.reference_saliency_reliability == pytest.approx(direct.reference_saliency_reliability, abs=0.02)
        assert own.saliency_error is not None
        assert direct.saliency_error is not None
        assert own.saliency_error[0, 0] == pytest.approx(np.sqrt(np.square(direct.saliency_error).mean()), rel=0.2)


def test_a_picture_from_outside_is_prepared_as_rows_are(index: Index, pictures: Path) -> None:
    (match,) = index.search_and_explain(str(pictures / QUERY), 1)
    assert match.id == QUERY
    assert match.explanation is not None
    assert (match.explanation.method, match.explanation.passes) == ("tokens", 2 * 65)


@pytest.mark.parametrize("tokens", [(7, 7), (5, 9)])
def test_all_modes_are_the_map_of_any_number_of_tokens(tokens: tuple[int, int]) -> None:
    geometry = Geometry.of_tokens(28, 45, 8, tokens)
    modes = MapModes.largest(geometry, geometry.parts)
    coefficients = np.random.default_rng(0).standard_normal((3, geometry.parts))
    np.testing.assert_allclose(modes.maps(modes.of_weights(coefficients.T).T), geometry.maps(coefficients), atol=1e-5)
    with pytest.raises(OptionError, match=f"have {geometry.parts} modes, got {geometry.parts + 1}"):
        MapModes.largest(geometry, geometry.parts + 1)


def test_a_bundle_without_tokens_is_refused(index: Index, explainer: Explainer, tmp_path: Path) -> None:
    bundle = copy_bundle(explainer.model.bundle.folder, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["graphs"] = [graph for graph in manifest["graphs"] if graph["role"] not in ("stem", "tokens")]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with np.load(bundle / "canonical.npz") as held:
        kept = {name: held[name] for name in held if not name.startswith(("stem", "tokens"))}
    np.savez(bundle / "canonical.npz", **kept)
    seal(bundle)
    with pytest.raises(OptionError, match=r"is of method tokens, and .* has no graphs of tokens: open it with the bundle"):
        Index.open(index._store.path, Explainer(bundle, "cpu", "fp32"))


def test_a_graph_of_tokens_that_runs_for_no_picture_ends_the_work(
    index: Index, explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise BundleError("it does not run")

    monkeypatch.setattr(explainer.model.tokens(), "stage", failing)
    with pytest.raises(BundleError, match="one picture's"):
        raise BundleError(picture_failure(BundleError("one picture's"), explainer.model) + " was taken for a picture's own")


def test_the_command(explainer: Explainer, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built = [str(tmp_path / "index"), "--images", str(pictures), "--quiet"]
    assert exit_status(main, ["build", *built, "--method", "tokens"]) == 2
    assert "this bundle has none: use method rise" in capsys.readouterr().err
    model = ["--bundle", str(explainer.model.bundle.folder), "--masks", "64"]
    assert exit_status(main, ["build", *built, *model, "--method", "tokens"]) == 0
    passes = json.loads((tmp_path / "index" / "index.json").read_text())["passes"]
    assert passes == {"method": "tokens", "masks": 64, "kept": 0.5, "seed": 0}
    capsys.readouterr()
    assert exit_status(main, ["build", *built, *model]) == 2
    assert "other options" in capsys.readouterr().err
