"""Learned masks end to end: the published procedure's values, what hides what, and what is run how often."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CAT, DATA, IMAGENET, count_rows, views_of
from torch import nn

from engine import Explainer, ImageError, LearnedMask, OptionError
from engine.bundle.manifest import Conditions
from engine.explain import main
from engine.methods.learned_mask import SIDE, MaskPair, learn
from engine.methods.window import corners_aligned
from engine.pictures.preprocessing import Preprocessing
from engine.protocol import silent
from engine.runtime.gradient_session import GradientSession
from engine.runtime.session import Session
from export import OnnxSource, TorchSource, export_similarity


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, golden: dict[str, np.ndarray]) -> Path:
    """The golden network with its gradient and its three conditions."""
    conditions = Conditions(("top", "shoe", "bag"), golden["condition_weights"])
    out = tmp_path_factory.mktemp("learned") / "tiny"
    return export_similarity(OnnxSource(DATA / "tiny_general.onnx"), IMAGENET, out, conditions=conditions, gradient=True)


@pytest.fixture(scope="module")
def explainer(bundle: Path) -> Explainer:
    """The golden network with its gradient; other files have the one of `conftest.py`, without."""
    return Explainer(bundle)


@pytest.mark.parametrize(("iterations", "tolerance"), [(1, 1e-4), (10, 1e-3), (100, 5e-3)])
def test_golden_learned_masks(
    explainer: Explainer, golden: dict[str, np.ndarray], iterations: int, tolerance: float
) -> None:
    method = LearnedMask(iterations=iterations, noise=0)
    up = corners_aligned(112, SIDE)
    fixed = explainer.explain(golden["query"], golden["reference"], method)
    expected = up @ golden[f"learned_mask_fixed_{iterations}"] @ up.T
    np.testing.assert_allclose(fixed.saliency, expected, atol=tolerance, rtol=0)
    both = explainer.explain(golden["query"], golden["reference"], method, mode="both")
    whole = golden[f"learned_mask_both_{iterations}"]
    for got, half in ((both.saliency, whole[:, :SIDE]), (both.reference_saliency, whole[:, SIDE:])):
        np.testing.assert_allclose(got, up @ half @ up.T, atol=tolerance, rtol=0)
    assert (fixed.mode, both.mode, fixed.method, fixed.baseline) == ("fixed", "both", "mask", "blur")
    assert (fixed.precision, fixed.passes, both.passes) == ("fp32", iterations + 2, 4 * iterations + 2)
    assert fixed.similarity == pytest.approx(golden["similarity"], abs=1e-5)


def test_pairs_side_by_side_are_as_alone(explainer: Explainer, golden: dict[str, np.ndarray]) -> None:
    query, references = golden["query"], [golden["reference"], golden["query_blur_uint8"], golden["query"][::-1].copy()]
    for mode in ("fixed", "both"):
        method = LearnedMask(iterations=4, seed=5)
        conditions = [0, None, 2]
        together = explainer.explain_many(query, references, method, mode, conditions)
        for found, reference, condition in zip(together, references, conditions, strict=True):
            alone = explainer.explain(query, reference, method, mode, condition)
            np.testing.assert_allclose(found.saliency, alone.saliency, atol=2e-3)
            assert found.similarity == pytest.approx(alone.similarity, abs=1e-6)
            assert found.passes == alone.passes
        assert np.abs(together[0].saliency - together[1].saliency).max() > 0.01
    assert explainer.explain_many(query, [], method) == []


def test_an_embedding_stands_for_its_picture(explainer: Explainer, golden: dict[str, np.ndarray]) -> None:
    vector = explainer.embed([golden["reference"]])[0]
    method = LearnedMask(iterations=3)
    one, other = (explainer.explain(golden["query"], r, method) for r in (golden["reference"], vector))
    np.testing.assert_allclose(one.saliency, other.saliency, atol=1e-3)
    assert (one.passes, other.passes, other.reference_image) == (5, 4, None)
    with pytest.raises(ImageError):
        explainer.explain(golden["query"], vector, method, mode="both")


def test_seeds_side_by_side_are_as_alone(explainer: Explainer, golden: dict[str, np.ndarray]) -> None:
    model, method = explainer.model, LearnedMask(iterations=3)
    image = model.preprocessing.normalised(golden["query"][None])
    hidden = model.preprocessing.baseline("blur", golden["query"])[None]
    target = explainer.embed([golden["reference"]])[0]
    pairs = [MaskPair(image, hidden, target, model.weights(None), 1.0, seed) for seed in (1, 2, 1)]
    session, network = model.gradient().session, model.gradient().network
    found = learn(session, network, pairs, method, False, None, silent).masks
    for i, pair in enumerate(pairs):
        alone = learn(session, network, [pair], method, False, None, silent).masks[0]
        np.testing.assert_allclose(found[i], alone, atol=2e-3)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    np.testing.assert_allclose(found[0], found[2], atol=2e-3)
    for seed in (1, 2):
        explained = explainer.explain(golden["query"], golden["reference"], LearnedMask(iterations=3, seed=seed))
        up = corners_aligned(112, SIDE)
        np.testing.assert_allclose(explained.saliency, up @ (1 - found[seed - 1]) @ up.T, atol=2e-3)
        assert explained.seed == seed


def test_equal_settings_give_equal_maps(explainer: Explainer, golden: dict[str, np.ndarray]) -> None:
    one, other = (explainer.explain(golden["query"], golden["reference"], LearnedMask(iterations=5)) for _ in range(2))
    np.testing.assert_array_equal(one.saliency, other.saliency)


class Quarter(nn.Module):
    """Sees the upper left quarter alone: (N, 3, 32, 32) or (N, 32, 32, 3) -> (N, 3)."""

    def __init__(self, factor: float = 1.0, last: bool = False) -> None:
        super().__init__()
        self.factor, self.last = factor, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 3, 1, 2) if self.last else x
        return self.factor * x[:, :, :16, :16].mean((2, 3))


def quartered(folder: Path, metric: str, factor: float = 1.0, last: bool = False) -> Explainer:
    layout = "nhwc" if last else "nchw"
    preprocessing = Preprocessing(32, 32, mean=(0.5,) * 3, std=(0.5,) * 3, layout=layout)
    source = TorchSource(Quarter(factor, last))
    return Explainer(export_similarity(source, preprocessing, folder, metric=metric, gradient=True))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_a_mask_hides_what_the_similarity_sees(metric: str, last: bool, tmp_path: Path) -> None:
    explainer = quartered(tmp_path / "one", metric, last=last)
    picture = np.full((32, 32, 3), (255, 128, 20), np.uint8)
    other = np.full((32, 32, 3), (255, 10, 10), np.uint8)
    method = LearnedMask(iterations=60)
    for mode in ("fixed", "both"):
        found = explainer.explain(picture, other, method, mode, baseline="white")
        # Adam takes full steps on small gradients too: the variation drags the rest along, but less
        inside, outside = found.saliency[:12, :12].mean(), found.saliency[20:, 20:].mean()
        assert inside > outside + 0.3, (mode, inside, outside)
    if metric != "cosine":  # no unit: only its own scale counts
        scaled = quartered(tmp_path / "other", metric, factor=1000.0, last=last)
        again = scaled.explain(picture, other, method, baseline="white")
        np.testing.assert_allclose(
            again.saliency, explainer.explain(picture, other, method, baseline="white").saliency, atol=0.02
        )


def test_rows_are_counted_as_they_run(
    explainer: Explainer, golden: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = count_rows(monkeypatch, Session, GradientSession)
    told: list[tuple[int, int]] = []
    images = [golden["reference"], golden["query_blur_uint8"]]
    for mode, expected in (("fixed", 3), ("both", 12)):
        rows.clear()
        told.clear()
        found = explainer.explain_many(
            golden["query"], images, LearnedMask(iterations=3), mode, progress=lambda done, total: told.append((done, total))
        )
        assert [e.passes for e in found] == [expected + 2] * 2
        assert sum(rows) == 2 * expected + 3  # the whole pictures, each once
        assert told[-1] == (2 * expected, 2 * expected)
        assert told == sorted(told)


def test_more_references_than_memory_holds_go_in_turns(
    explainer: Explainer, golden: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, method = [golden["reference"], golden["query_blur_uint8"], golden["query"]], LearnedMask(iterations=3)
    at_once = explainer.explain_many(golden["query"], images, method)
    monkeypatch.setattr("engine.explain_learned.ROOM", 16)
    told: list[int] = []
    in_turns = explainer.explain_many(golden["query"], images, method, progress=lambda done, _: told.append(done))
    for a, b in zip(at_once, in_turns, strict=True):
        np.testing.assert_allclose(a.saliency, b.saliency, atol=2e-3)
    assert max(e.batch for e in at_once) == 3
    assert max(e.batch for e in in_turns) == 2
    assert told == [2, 4, 6, 7, 8, 9]


def test_a_deadline_gives_the_mask_so_far(
    explainer: Explainer, golden: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("engine.methods.learned_mask.time.perf_counter", lambda: clock[0])
    run = GradientSession.run

    def slow(self: GradientSession, *arguments: Any) -> Any:
        clock[0] += 0.1
        return run(self, *arguments)

    monkeypatch.setattr(GradientSession, "run", slow)
    for deadline, steps in ((0.35, 3), (1e-9, 1)):
        clock[0] = 0.0
        late = explainer.explain(golden["query"], golden["reference"], LearnedMask(noise=0), deadline=deadline)
        assert late.passes == steps + 2
        assert "deadline" in late.notes[0]
    whole = explainer.explain(golden["query"], golden["reference"], LearnedMask(iterations=1, noise=0))
    np.testing.assert_array_equal(late.saliency, whole.saliency)
    assert not any("deadline" in note for note in whole.notes)


@pytest.mark.parametrize(
    "fields",
    [{"iterations": 0}, {"iterations": 1.5}, {"noise": -0.1}, {"noise": float("nan")}, {"noise": "some"}, {"seed": -1}],
)
def test_impossible_options_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        LearnedMask(**fields)


def test_what_learned_masks_cannot_do_is_said(
    explainer: Explainer, tiny_bundle: Path, golden: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptionError, match=r"export similarity .* --gradient"):
        Explainer(tiny_bundle).explain(golden["query"], golden["reference"], "mask")
    with pytest.raises(OptionError, match="use `explain`"):
        explainer.prepare(golden["query"], "mask")
    with pytest.raises(OptionError, match="refining"):
        explainer.refining(golden["query"], golden["reference"], "mask")
    with pytest.raises(OptionError, match="tolerance"):
        explainer.explain(golden["query"], golden["reference"], "mask", tolerance=0.9)
    rows = count_rows(monkeypatch)
    with pytest.raises(OptionError, match="baseline"):
        explainer.explain(golden["query"], golden["reference"], "mask", baseline="pink")
    assert not rows


def test_the_demo_at_its_usual_precision_learns_in_fp32(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "why.html"
    arguments = ["--method", "mask", "--masks", "5", "--seed", "3", "--json", "--mode", "both", "--out", str(out)]
    assert main(arguments) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["method"], found["precision"], found["passes"], found["seed"]) == ("mask", "fp32", 22, 3)
    assert found["attributes"]
    (view,) = views_of(out.read_text())
    assert [side["map"] is not None for side in view["sides"]] == [True, True]
    with_openvino = Explainer(provider="openvino").explain(*CAT, LearnedMask(iterations=2))
    assert (with_openvino.provider, with_openvino.precision) == ("cpu", "fp32")
