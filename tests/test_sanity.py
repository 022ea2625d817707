"""`python -m engine.evaluate --sanity`: each measure where the answer is known, and the command."""

import dataclasses
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import CAT, IMAGENET, NAMES, PICTURES, error_line, exit_status, noise, write_demo_pairs

import tools.sanity
from benchmarks import record
from engine import Explainer, OptionError, Rise
from engine.evaluate.bootstrap import Interval
from engine.evaluate.imputed import imputed, painted
from engine.evaluate.map_maker import MapMaker, average_ranks, rank_correlation
from engine.evaluate.planting import PIECE, localisation, plant
from engine.evaluate.samples import Sample, load_samples, other_references
from engine.evaluate.sanity import main
from engine.evaluate.sanity_figures import MethodFigures, measure_methods, planted_figures, removal_figures
from engine.evaluate.sanity_page import sanity_page
from engine.evaluate.sanity_verdicts import FAILS, PASSES, SANITY_CHECKS, UNTOLD, Criterion, sanity_report
from engine.evaluate.shuffled_weights import Cascade
from engine.model import LoadedModel
from engine.picture import Picture
from engine.protocol import Renderer
from engine.runtime.host_stage import HostStage
from export import OnnxSource, export_similarity

SIZE, PATCH = 32, 8
SMALL = dataclasses.replace(IMAGENET, height=SIZE, width=SIZE)
FEW = Rise(masks=128)
ENTRIES = 3 * (SIZE // PATCH) ** 2


def patch_bundle(folder: Path, matter: bool) -> Path:
    """A network of the mean colours of 4 x 4 patches. matter: its weights choose two of them; else they are times 0."""
    weights = np.zeros((ENTRIES, ENTRIES), np.float32)
    seen = [patch + 16 * channel for channel in range(3) for patch in (5, 6)]
    weights[seen, seen] = 1
    node = onnx.helper.make_node
    nodes = [
        node("AveragePool", ["x"], ["pooled"], kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH]),
        node("Flatten", ["pooled"], ["flat"]),
        node("MatMul", ["flat", "w"], ["chosen"]),
        *([] if matter else [node("Mul", ["chosen", "zero"], ["nothing"]), node("Add", ["flat", "nothing"], ["y"])]),
    ]
    kinds = [("x", ["n", 3, SIZE, SIZE]), ("chosen" if matter else "y", ["n", ENTRIES])]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in kinds]
    constants = [onnx.numpy_helper.from_array(weights, "w"), onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero")]
    graph = onnx.helper.make_graph(nodes, "patches", ends[:1], ends[1:], constants[: 2 - matter])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "patches.onnx")
    return export_similarity(OnnxSource(folder / "patches.onnx"), SMALL, folder / "bundle")


@pytest.fixture(scope="module")
def chooses(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A network whose weights choose two patches."""
    return Explainer(patch_bundle(tmp_path_factory.mktemp("chooses"), matter=True), "cpu", "fp32").model


@pytest.fixture(scope="module")
def unweighted(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A network whose weights do not matter."""
    return Explainer(patch_bundle(tmp_path_factory.mktemp("unweighted"), matter=False), "cpu", "fp32").model


class OneRegion:
    """A network that sees the mean colour of one region (H, W) bool and nothing else; its last entry is constant."""

    path = Path("one region")

    def __init__(self, region: np.ndarray, width: int) -> None:
        self._region, self._width = region, width

    def run(self, batch: np.ndarray) -> np.ndarray:
        found = np.zeros((len(batch), self._width), np.float32)
        found[:, :3] = batch[:, :, self._region].mean(2)
        found[:, -1] = 0.1
        return found

    def stage(
        self, renderer: Renderer, image: np.ndarray, baseline: np.ndarray, channels_last: bool, batch: int
    ) -> HostStage:
        return HostStage(self, renderer, image, baseline, channels_last, batch)


def square(top: int, left: int, side: int) -> np.ndarray:
    region = np.zeros((SIZE, SIZE), bool)
    region[top : top + side, left : left + side] = True
    return region


def seeing(model: LoadedModel, region: np.ndarray) -> LoadedModel:
    return model.running(OneRegion(region, ENTRIES))


def of(pixels: np.ndarray) -> Picture:
    return Picture(pixels, (0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0])))


def plain(*colour: int) -> Picture:
    return of(np.broadcast_to(np.array(colour, np.uint8), (SIZE, SIZE, 3)).copy())


def pair(query: Picture, reference: Picture, number: int = 0) -> Sample:
    return Sample(query, reference, None, (f"query {number}", f"reference {number}"), number)


def report_of(model: LoadedModel, samples: list[Sample], cascade: Cascade) -> dict[str, dict[str, Any]]:
    """The checks of method rise, by name."""
    (found,) = measure_methods(model, samples, {"rise": FEW}, cascade, 0, lambda: None)
    clusters = np.array([s.cluster for s in samples])
    checks: dict[str, dict[str, Any]] = sanity_report({}, [found], clusters)["results"][0]["checks"]
    return checks


def test_rank_correlation_is_that_of_the_definition() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(0, 5, (6, 7)).astype(float), random.integers(0, 5, (6, 7)).astype(float)
    ranks = [[(m < v).sum() + ((m == v).sum() + 1) / 2 for v in m.ravel()] for m in (a, b)]
    assert average_ranks(a).tolist() == ranks[0]
    assert rank_correlation(a, b) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)
    assert rank_correlation(a, np.exp(a)) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation(a, np.full_like(a, 3)) == 0
    assert math.isnan(rank_correlation(np.full_like(a, 3), a))


def test_imputed_pixels_solve_their_equations() -> None:
    random = np.random.default_rng(1)
    pixels, removed = noise(7, 9, 1), random.random((7, 9)) < 0.6
    removed[0, 0] = removed[3, 3] = True
    removed[6, 8] = False
    rows = {tuple(at): i for i, at in enumerate(np.argwhere(removed).tolist())}
    matrix, right = np.zeros((len(rows), len(rows))), np.zeros((len(rows), 3))
    for (y, x), i in rows.items():
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                at = (y + dy, x + dx)
                if (dy or dx) and 0 <= at[0] < 7 and 0 <= at[1] < 9:
                    weight = 1 / 6 if 0 in (dy, dx) else 1 / 12
                    matrix[i, i] += weight
                    if at in rows:
                        matrix[i, rows[at]] -= weight
                    else:
                        right[i] += weight * pixels[at]
    got = imputed(pixels, removed, np.zeros(pixels.shape))
    assert np.abs(got[removed] - np.linalg.solve(matrix, right)).max() < 0.6  # a level, rounded
    assert (got[~removed] == pixels[~removed]).all()
    louder = imputed(pixels, removed, np.full(pixels.shape, 3.0)).astype(int)
    assert (louder[~removed] == pixels[~removed]).all()
    assert set((louder - got)[removed].ravel().tolist()) <= {2, 3, 4}


def test_painted_pixels_have_one_colour() -> None:
    pixels, removed = noise(4, 5), np.arange(20).reshape(4, 5) % 3 == 0
    got = painted(pixels, removed, np.array([1, 2, 3], np.uint8))
    assert (got[removed] == (1, 2, 3)).all()
    assert (got[~removed] == pixels[~removed]).all()


def test_localisation_of_maps_whose_answer_is_known() -> None:
    region = np.zeros((8, 10), bool)
    region[2:5, 3:7] = True
    right = localisation(region * 2.0, region, signed=True)
    assert (right.mass, right.pointing, right.auroc) == (pytest.approx(80 / 12), 1, 1)
    wrong = localisation(-1.0 * region, region, signed=True)
    assert (wrong.mass, wrong.pointing, wrong.auroc) == (0, 0, 0)
    level = localisation(np.full(region.shape, 0.3), region, signed=True)
    assert (level.mass, level.pointing, level.auroc) == (pytest.approx(1), pytest.approx(0.15), pytest.approx(0.5))
    assert localisation(region + 5.0, region, signed=False).mass == pytest.approx(80 / 12)
    assert localisation(region + 5.0, region, signed=True).mass < 1.2
    random = np.random.default_rng(0).integers(0, 4, region.shape).astype(float)
    above = [(a > b) + (a == b) / 2 for a in random[region] for b in random[~region]]
    assert localisation(random, region, signed=True).auroc == pytest.approx(np.mean(above))


def test_what_is_planted_is_the_middle_of_the_reference() -> None:
    ground, reference = noise(40, 60, 1), noise(40, 60, 2)
    made = plant(ground, reference, np.random.default_rng(0))
    ys, xs = np.nonzero(made.region)
    assert (np.ptp(ys) + 1, np.ptp(xs) + 1, made.region.sum()) == (18, 27, 18 * 27)
    assert round(PIECE * 40) == 18
    assert (made.pixels[made.region].reshape(18, 27, 3) == reference[11:29, 16:43]).all()
    assert (made.pixels[~made.region] == ground[~made.region]).all()
    assert not (plant(ground, reference, np.random.default_rng(1)).region == made.region).all()


def test_a_network_that_sees_one_region_has_it_found(chooses: LoadedModel) -> None:
    ground, reference = plain(0, 0, 255), plain(255, 120, 0)
    region = plant(ground.pixels, reference.pixels, np.random.default_rng(5)).region
    figures, shown = planted_figures(
        MapMaker(seeing(chooses, region), FEW), pair(ground, reference), ground, np.random.default_rng(5)
    )
    assert (figures["pointing"], figures["AUROC"] > 0.98) == (1, True)
    assert figures["mass over area"] > 3  # of 5; the rest bleeds over the border, where masks are smooth
    assert figures["rise of the similarity"] > 1
    assert shown.map is not None
    blind = MapMaker(seeing(chooses, square(0, 0, 4) & ~region | square(SIZE - 4, SIZE - 4, 4) & ~region), FEW)
    figures, _ = planted_figures(blind, pair(ground, reference), ground, np.random.default_rng(5))
    assert figures["rise of the similarity"] == pytest.approx(0, abs=1e-6)
    assert math.isnan(figures["AUROC"])  # nothing rose, so that nothing is to be found


def test_removal_tells_a_right_map_from_its_opposite(chooses: LoadedModel) -> None:
    region = square(8, 8, 8)
    model, random = seeing(chooses, region), np.random.default_rng(0)
    sample = pair(of(np.where(region[..., None], noise(SIZE, SIZE), noise(SIZE, SIZE, 1) // 8)), plain(128, 128, 128))
    sample = dataclasses.replace(sample, reference=sample.query)
    right, chance = region + 0.0, {"painted": 0.5, "imputed": 0.4}
    one, other = (removal_figures(model, sample, sign * right, chance, random) for sign in (1, -1))
    for removal in ("painted", "imputed"):
        gap = f"{removal}: lowering first minus raising first"
        assert one[gap] > 0.02
        assert one[f"{removal}: lowering first"] > one[f"{removal}: raising first"]
        assert other[gap] < -0.02
        assert one[f"{removal}: random order"] == chance[removal]


def coloured_pairs() -> list[Sample]:
    """Three pairs of pictures with patches of random colours; query and reference share half of them."""
    found = []
    for number in range(3):
        first, second = (np.kron(noise(4, 4, 2 * number + i), np.ones((PATCH, PATCH, 1), np.uint8)) for i in range(2))
        second[: SIZE // 2] = first[: SIZE // 2]
        found.append(pair(of(first), of(second), number))
    return found


def test_a_network_whose_weights_do_not_matter_is_flagged(unweighted: LoadedModel, chooses: LoadedModel) -> None:
    verdicts = []
    for model in (unweighted, chooses):
        cascade = Cascade(model, 0, gradient=False)
        assert cascade.layers == [("w",)]
        checks = report_of(model, coloured_pairs(), cascade)
        verdicts.append((checks["weights"]["verdict"], checks["weights"]["figures"]["1 of 1 layers"]["mean"]))
    assert verdicts[0] == (FAILS, pytest.approx(1, abs=1e-6))
    assert verdicts[1][0] == PASSES


def test_a_method_that_ignores_the_reference_is_flagged(unweighted: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, cascade, whole = coloured_pairs(), Cascade(unweighted, 0, gradient=False), MapMaker.maps

    def ignoring(self: MapMaker, query: Picture, references: list[Picture], condition: int | None) -> np.ndarray:
        return whole(self, query, [query] * len(references), condition)

    followed = report_of(unweighted, samples, cascade)["reference"]
    monkeypatch.setattr(MapMaker, "maps", ignoring)
    ignored = report_of(unweighted, samples, cascade)["reference"]
    assert (followed["verdict"], ignored["verdict"]) == (PASSES, FAILS)
    assert ignored["figures"]["rank correlation with maps for other references"]["mean"] == pytest.approx(1)
    assert ignored["figures"]["relative change"]["mean"] == pytest.approx(0, abs=1e-9)
    assert followed["figures"]["relative change"]["mean"] > 0.5


def test_a_method_of_noise_is_not_stable(unweighted: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    cascade = Cascade(unweighted, 0, gradient=False)
    steady = report_of(unweighted, coloured_pairs(), cascade)

    def drawn(self: MapMaker, query: Picture, references: list[Picture], condition: int | None) -> np.ndarray:
        random = np.random.default_rng((self.method.seed or 0, int(query.pixels.sum())))  # type: ignore[union-attr]
        return random.standard_normal((len(references), SIZE, SIZE))

    monkeypatch.setattr(MapMaker, "maps", drawn)
    noisy = report_of(unweighted, coloured_pairs(), cascade)
    assert [steady[name]["verdict"] for name in ("noise", "seeds")] == [PASSES, PASSES]
    assert [noisy[name]["verdict"] for name in ("noise", "seeds")] == [FAILS, FAILS]


def test_layers_are_shuffled_from_the_output_backwards(demo: Explainer) -> None:
    model = demo.model
    cascade = Cascade(model, 0, gradient=True)
    assert cascade.layers[0] == ("fc_embed.weight", "fc_embed.bias")
    assert cascade.layers[-1][0] == "conv1.weight"
    assert cascade.depths == (1, 6, 11, 16)
    picture = model.picture(CAT[0])
    embeddings, weights = [model.embed([picture])[0]], [tensors(model.similarity.path)]
    for depth in cascade.depths[:2]:
        with cascade.shuffled(depth) as network:
            embeddings.append(network.embed([picture])[0])
            weights.append(tensors(network.similarity.path))
            networks = network.gradient()
            ours = tensors(networks.session._path)  # type: ignore[attr-defined]
            assert all((ours[name] == weights[-1][name]).all() for layer in cascade.layers for name in layer)
    before, one, six = weights
    changed = [{name for name in before if not np.array_equal(before[name], after[name])} for after in (one, six)]
    assert changed == [set(cascade.layers[0]), {name for layer in cascade.layers[:6] for name in layer}]
    assert all((six[name] == one[name]).all() for name in cascade.layers[0])
    assert all(np.array_equal(np.sort(before[n], None), np.sort(six[n], None)) for n in changed[1])
    assert not any(np.allclose(embeddings[a], embeddings[b], atol=1e-3) for a, b in ((0, 1), (0, 2), (1, 2)))
    with Cascade(model, 1, gradient=False).shuffled(1) as network:
        assert not np.array_equal(tensors(network.similarity.path)["fc_embed.weight"], one["fc_embed.weight"])


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}


def test_a_graph_without_weights_and_a_gradient_of_other_weights_are_refused(
    demo: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = demo.model
    wrong = dataclasses.replace(model.gradient_graph, file="attributes.fp32.onnx")  # type: ignore[type-var]
    monkeypatch.setattr(LoadedModel, "gradient_graph", wrong)
    with pytest.raises(OptionError, match="leave method mask out"):
        Cascade(model, 0, gradient=True)
    monkeypatch.setattr("engine.evaluate.shuffled_weights.LEAST_WEIGHTS", 10**9)
    with pytest.raises(OptionError, match="nothing can be shuffled"):
        Cascade(model, 0, gradient=False)


def test_a_verdict_needs_the_whole_interval() -> None:
    below, above = Criterion(None, 0.5, False, "{}"), Criterion(None, 0.5, True, "{}")
    low, wide, high = Interval(0.3, 0.2, 0.4), Interval(0.6, 0.4, 0.8), Interval(0.8, 0.6, 0.9)
    assert [below.verdict(i) for i in (low, wide, high)] == [PASSES, FAILS, FAILS]
    assert [above.verdict(i) for i in (low, wide, high)] == [FAILS, FAILS, PASSES]
    assert below.verdict(Interval(math.nan, math.nan, math.nan)) == UNTOLD


def test_pairs_come_from_the_demo_a_file_or_a_folder(demo: Explainer, tmp_path: Path) -> None:
    model = demo.model
    samples = load_samples(model, None, None, 20)
    assert [[Path(name).stem for name in s.names] for s in samples] == [[f"{n}-noto", f"{n}-twemoji"] for n in sorted(NAMES)]
    assert len({s.cluster for s in samples}) == 4
    others = other_references(samples, 1, 2)
    assert [(o.pixels == samples[i].reference.pixels).all() for o, i in zip(others, (2, 3), strict=True)] == [True, True]
    assert len(load_samples(model, write_demo_pairs(tmp_path), None, 2)) == 2
    found = load_samples(model, PICTURES, None, 20)
    assert len(found) == 8
    assert len({s.cluster for s in found}) < 8  # a picture and the one most similar to it, both ways
    for sample in found:
        assert sample.names[0] != sample.names[1]
    twins = [dataclasses.replace(s, names=("q", "r")) for s in samples]
    assert other_references(twins, 0, 4) == []


def test_the_command_reports_on_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = []
    for name, methods in (("one", "rise"), ("two", "rise,mask")):
        arguments = [
            "--methods",
            methods,
            "--masks",
            "16",
            "--limit",
            "2",
            "--quiet",
            "--out",
            str(tmp_path / f"{name}.json"),
        ]
        assert main(["--sanity", *arguments]) == 0
        reports.append(json.loads((tmp_path / f"{name}.json").read_text()))
    found = reports[1]
    assert reports[0]["results"] == found["results"][:1]  # the same again, whatever else is measured
    told = capsys.readouterr().out
    assert f"wrote {tmp_path / 'two.html'}" in told
    assert len([line for line in told.splitlines() if line.startswith("rise ")]) == 12
    assert (found["settings"]["pairs"], found["settings"]["precision"]) == (2, "fp32")
    assert [row["method"] for row in found["results"]] == ["rise", "mask"]
    names = [check["name"] for check in found["checks"]]
    for row in found["results"]:
        assert list(row["checks"]) == names
        for judged in row["checks"].values():
            assert judged["verdict"] in (PASSES, FAILS, UNTOLD)
            assert judged["says"]
            assert all(f["mean"] is None or f["low"] <= f["mean"] <= f["high"] for f in judged["figures"].values())
    page = (tmp_path / "two.html").read_text()
    assert page.count("<img ") == 2 * 11
    assert "Does the reference matter?" in page
    assert "<script" not in page


def test_what_no_pair_tells_is_none() -> None:
    labels = [c.label or "all layers" for check in SANITY_CHECKS for c in check.criteria]
    row = {check.name: dict.fromkeys(labels, math.nan) for check in SANITY_CHECKS}
    row["weights"] = {"all layers": math.nan}
    found = sanity_report({"model": "m", "pairs": 1}, [MethodFigures("rise", FEW, [row], [])], np.zeros(1, int))
    judged = found["results"][0]["checks"]["planted"]
    assert (judged["verdict"], judged["pairs"], judged["figures"]["AUROC"]["mean"]) == (UNTOLD, 0, None)
    assert "<td class=number>none</td>" in sanity_page(found, [])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "report.txt"], "must end in .json"),
        (["--limit", "1"], "2 or more are needed"),
        (["--limit", "0"], "limit must be a whole number"),
        (["--methods", "rise,edges"], "'edges' is not one of"),
        (["EMPTY"], "has 1 pictures"),
        (["--provider", "cuda"], "unrecognized arguments"),
    ],
)
def test_bad_usage_is_told_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(CAT[0], tmp_path)
    arguments = [str(tmp_path) if a == "EMPTY" else a for a in arguments]
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "report.json")]
    assert exit_status(main, ["--sanity", *arguments, *out]) == 2
    assert said in error_line(capsys)


def test_method_mask_and_onnx_are_asked_for_before_the_work(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "report.json")]
    assert main(["--sanity", "--methods", "mask", "--bundle", str(tiny_bundle), *out]) == 2
    assert "exported with --gradient" in error_line(capsys)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["--sanity", *out]) == 2
    assert "pip install onnx" in error_line(capsys)
    assert not (tmp_path / "report.json").exists()


def test_the_page_has_the_tables_of_the_committed_rows() -> None:
    page, rows = tools.sanity.PAGE.read_text(), record.read(tools.sanity.ROWS)
    assert rows
    assert tools.sanity.tables(rows) in page
