"""The engine end to end: golden values, a slow loop written from docs/method.md, and what is run how often."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from helpers import count_rows
from PIL import Image
from torch import nn

from engine import BundleError, Explainer, ImageError, OptionError, ProviderError, Rise, RisePlan
from engine.pictures.preprocessing import Preprocessing
from engine.runtime.batch_size import largest_batch
from engine.runtime.session import open_session
from export import TorchSource, export_similarity


@pytest.fixture(scope="module")
def plan(golden: dict[str, np.ndarray]) -> RisePlan:
    return RisePlan(golden["rise_grids"][5:], golden["rise_shifts"][5:])


def test_golden_rise_fixed(explainer: Explainer, plan: RisePlan, golden: dict[str, np.ndarray]) -> None:
    prepared = explainer.prepare(golden["query"], plan=plan)
    explanation = prepared.explain(golden["reference"])
    np.testing.assert_allclose(explanation.saliency, golden["rise_fixed"], atol=1e-3, rtol=0)
    assert explanation.saliency.dtype == np.float32
    assert explanation.similarity == pytest.approx(float(golden["similarity"]), abs=1e-5)
    assert explanation.passes == 202
    assert explanation.seed is None
    embedded = prepared.explain(explainer.embed([golden["reference"]])[0])
    np.testing.assert_allclose(embedded.saliency, golden["rise_fixed"], atol=1e-3, rtol=0)
    assert embedded.passes == 201
    assert embedded.reference_image is None


def test_golden_conditions(explainer: Explainer, plan: RisePlan, golden: dict[str, np.ndarray]) -> None:
    prepared = explainer.prepare(golden["query"], plan=plan)
    conditioned = prepared.explain(golden["reference"], condition=1)
    np.testing.assert_allclose(conditioned.saliency, golden["rise_fixed_condition1"], atol=1e-3, rtol=0)
    assert conditioned.condition == "shoe"
    every = prepared.explain_many([golden["reference"]] * 3, condition=["top", "1", 2])
    np.testing.assert_allclose([e.similarity for e in every], golden["similarity_by_condition"], atol=1e-5)
    np.testing.assert_array_equal(every[1].saliency, conditioned.saliency)


def test_golden_embeddings(explainer: Explainer, golden: dict[str, np.ndarray]) -> None:
    got = explainer.embed([golden["query"], golden["reference"]])
    largest = np.abs(golden["embedding_query"]).max()
    np.testing.assert_allclose(got[0], golden["embedding_query"], atol=1e-5 * largest)
    np.testing.assert_allclose(got[1], golden["embedding_reference"], atol=1e-5 * largest)
    assert explainer.embed([]).shape == (0, 16)


def test_many_references_run_the_masked_rows_once(
    explainer: Explainer, golden: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = count_rows(monkeypatch)
    references = [golden["reference"], golden["query"], golden["reference"][::-1].copy()]
    explanations = explainer.explain_many(golden["query"], references, Rise(masks=64))
    assert sum(rows) == 64 + 1 + 3
    assert [e.passes for e in explanations] == [66] * 3
    alone = [explainer.explain(golden["query"], r, Rise(masks=64)) for r in references]
    for one, many in zip(alone, explanations, strict=True):
        np.testing.assert_allclose(one.saliency, many.saliency, atol=1e-4)
    assert explanations[1].similarity == pytest.approx(1)


def test_a_bad_reference_is_found_before_the_passes(
    explainer: Explainer, golden: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.passed.MaskedPasses", None)  # calling it would be a TypeError
    for mode in ("fixed", "both"):
        with pytest.raises(ImageError, match="nowhere"):
            explainer.explain_many(golden["query"], [golden["reference"], "nowhere.png"], mode=mode)


def test_threads_and_provider_reach_the_session(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, list[str]]] = []
    make = ort.InferenceSession

    def remember(path: str, options: ort.SessionOptions, providers: list[str]) -> ort.InferenceSession:
        made.append((options.intra_op_num_threads, providers))
        return make(path, options, providers=providers)

    monkeypatch.setattr("engine.runtime.session.ort.InferenceSession", remember)
    Explainer(tiny_bundle, threads=3)
    assert made == [(3, ["CPUExecutionProvider"])]
    # a provider that is listed but does not come up must not pass: ONNX Runtime falls back in silence
    monkeypatch.setattr("engine.runtime.session.ort.get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(
        "engine.runtime.session.ort.InferenceSession", lambda p, *_, **__: make(p, providers=["CPUExecutionProvider"])
    )
    with pytest.raises(ProviderError, match=r"cuda.*has CPUExecutionProvider"):
        open_session(next(tiny_bundle.glob("*.onnx")), "cuda", None)


def test_notes_say_what_is_missing(
    explainer: Explainer, golden: dict[str, np.ndarray], demo_with: Callable[..., Path]
) -> None:
    without_words = explainer.explain(golden["query"], golden["reference"], Rise(masks=4))
    assert without_words.notes == ("this bundle has no attributes: `python -m export attributes` adds them",)
    assert without_words.timings["prepare"] > 0
    assert without_words.timings["explain"] > 0
    few, unsure = Rise(masks=4), Explainer(demo_with(prior=None, threshold=1.0))
    blank = unsure.explain(golden["query"], golden["reference"], few)
    assert blank.attributes == ()
    assert blank.notes == ("no attribute is named: none reaches a probability of 1",)
    assert unsure.explain(golden["query"], golden["reference"], few, ranking="sane").notes == (
        "no attribute is named: none reaches confidence 1",
        "this bundle has no attribute prior: phi_3 counts as 0",
    )
    assert unsure.explain(golden["query"], golden["reference"], few, top=0).notes == ()


def test_equal_settings_give_identical_maps(explainer: Explainer, golden: dict[str, np.ndarray]) -> None:
    pair = (golden["query"], golden["reference"])
    first, second, other = (explainer.explain(*pair, Rise(masks=50, seed=s)) for s in (3, 3, 4))
    np.testing.assert_array_equal(first.saliency, second.saliency)
    assert not np.array_equal(first.saliency, other.saliency)
    assert (first.seed, other.seed) == (3, 4)


def test_progress_counts_every_pass(explainer: Explainer, golden: dict[str, np.ndarray]) -> None:
    calls: list[tuple[int, int]] = []
    explainer.prepare(golden["query"], Rise(masks=70), progress=lambda *c: calls.append(c))
    batch = explainer.prepare(golden["query"], Rise(masks=2)).run_settings.batch
    assert calls == [*((done, 70) for done in range(batch, 70, batch)), (70, 70)]


class Nhwc(nn.Module):
    """A small network that takes (N, H, W, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 5, 3)
        self.linear = nn.Linear(6, 4)

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.linear(self.conv(x.permute(0, 3, 1, 2) / 50).relu().mean((2, 3)))


def test_an_unusual_model_equals_a_slow_loop(tmp_path: Path) -> None:
    """Euclidean, NHWC, BGR, 0-255, not square, padded, white baseline."""
    preprocessing = Preprocessing(
        40, 32, fit="pad", mean=(103.9, 116.8, 123.7), scale=1.0, channel_order="bgr", layout="nhwc"
    )
    bundle = export_similarity(TorchSource(Nhwc().eval()), preprocessing, tmp_path / "b", metric="euclidean")
    random = np.random.default_rng(1)
    query, reference = (random.integers(0, 256, (50, 30, 3), np.uint8) for _ in range(2))
    got = (
        Explainer(bundle)
        .prepare(query, Rise(masks=40, grid=5, estimator="sane", seed=2), baseline="white")
        .explain(reference)
    )

    session = ort.InferenceSession(str(bundle / "similarity.fp32.onnx"), providers=["CPUExecutionProvider"])

    def embed(x: np.ndarray) -> np.ndarray:
        return session.run(None, {session.get_inputs()[0].name: x[None].astype(np.float32)})[0][0].astype(np.float64)

    def network_view(image: np.ndarray) -> np.ndarray:
        canvas = np.full((40, 32, 3), np.round([123.7, 116.8, 103.9]).astype(np.uint8))
        canvas[:, 4:28] = np.asarray(Image.fromarray(image).resize((24, 40), Image.Resampling.BILINEAR))
        return canvas[..., ::-1] - np.array([103.9, 116.8, 123.7])

    white = 255 - np.array([103.9, 116.8, 123.7])
    masks = np.empty((40, 40, 32), np.float32)
    Rise(masks=40, grid=5, estimator="sane", seed=2).plan(np.empty((40, 32, 3))).renderer(40, 32).masks(0, 40, masks)
    target, total = embed(network_view(reference)), np.zeros((40, 32))
    for mask in masks[..., None]:
        score = -np.sum((embed(network_view(query) * mask + white * (1 - mask)) - target) ** 2)
        total += score * mask[..., 0]
    np.testing.assert_allclose(got.saliency, total / masks.mean(0), atol=1e-4 * np.abs(total / masks.mean(0)).max())
    assert got.baseline == "white"


class Reciprocal(nn.Module):
    """Finite for every picture but a black one."""

    def forward(self, x):  # type: ignore[no-untyped-def]
        return 1 / x.amax((2, 3))


def test_a_network_that_gives_no_finite_number_is_said_to(tmp_path: Path) -> None:
    explainer = Explainer(export_similarity(TorchSource(Reciprocal()), Preprocessing(8, 8), tmp_path / "b"))
    assert np.isfinite(explainer.embed([Image.new("RGB", (8, 8), "white")])).all()
    with pytest.raises(BundleError, match="not finite"):
        explainer.embed([Image.new("RGB", (8, 8), "black")])


def test_a_pixel_that_no_mask_shows_has_saliency_zero(explainer: Explainer, golden: dict[str, np.ndarray]) -> None:
    dark = RisePlan(np.zeros((2, 8, 8), bool), np.zeros((2, 2), int))
    assert not explainer.prepare(golden["query"], plan=dark).explain(golden["reference"]).saliency.any()


def test_a_one_pixel_picture_is_explained(explainer: Explainer) -> None:
    dot = Image.new("RGB", (1, 1), "red")
    assert explainer.explain(dot, dot, Rise(masks=8)).similarity == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"method": "guess"}, OptionError),
        ({"mode": "sideways"}, OptionError),
        ({"condition": "hat"}, OptionError),
        ({"condition": 3}, OptionError),
        ({"condition": -1}, OptionError),
        ({"condition": ["top", "shoe"]}, OptionError),
        ({"baseline": "pink"}, OptionError),
        ({"references": [np.zeros(15, np.float32)]}, ImageError),
        ({"references": [np.full(16, np.nan, np.float32)]}, ImageError),
        ({"references": [np.zeros(16, np.int64)]}, ImageError),
        ({"references": [np.full(16, 1e300)]}, ImageError),
        ({"method": ["rise"]}, OptionError),
    ],
)
def test_bad_options_are_refused(
    explainer: Explainer, golden: dict[str, np.ndarray], changes: dict[str, object], error: type[Exception]
) -> None:
    asked = {"query": golden["query"], "references": [golden["reference"]], "method": Rise(masks=4), **changes}
    with pytest.raises(error):
        explainer.explain_many(**asked)  # type: ignore[arg-type]


def test_what_is_not_there_is_refused_by_name(tiny_bundle: Path) -> None:
    with pytest.raises(OptionError, match=r"int8.*fp32"):
        Explainer(tiny_bundle, precision="int8")
    with pytest.raises(OptionError, match="the precisions are"):
        Explainer(tiny_bundle, precision="fp8")
    with pytest.raises(OptionError, match="auto, cpu"):
        Explainer(tiny_bundle, provider="npu")
    with pytest.raises(OptionError, match="threads"):
        Explainer(tiny_bundle, threads=0)
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        with pytest.raises(ProviderError, match=r"cuda.*sane-engine\[cuda\]"):
            Explainer(tiny_bundle, provider="cuda")


@pytest.mark.parametrize("fields", [{"masks": 0}, {"masks": 1.5}, {"grid": 65}, {"p": 0}, {"seed": -1}, {"estimator": "x"}])
def test_impossible_rise_options_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        Rise(**fields)  # type: ignore[arg-type]


def test_batches_shrink_with_the_picture() -> None:
    assert [largest_batch(Preprocessing(s, s)) for s in (16, 64, 112, 224, 2000)] == [64, 64, 32, 8, 2]
