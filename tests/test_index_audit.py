"""What an audit says of a catalogue: a planted bias is found where the network sees it, and none where there is none."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import PICTURES, error_line, exit_status
from PIL import Image

from engine import Explainer, OptionError, Rise
from engine.index.regions import FINE, REGION_SIDE, background, density, reduced, regions

pytest.importorskip("lance", reason="needs pylance, of the extra `index`")

from benchmarks.audit import planted_bundle, with_corner
from engine.index import Audit, Index, audit_queries
from engine.index.audit_page import audit_page, verdict_lines
from engine.index.audited import MeanInterval
from engine.index.command import main

GROUPS = ("a", "b", "c", "marked")
EACH = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's pictures, turned and coloured anew, in folders; those of one folder exist with a corner too."""
    made, random = tmp_path_factory.mktemp("audit"), np.random.default_rng(0)
    drawings = [Image.open(path).convert("RGBA") for path in sorted(PICTURES.glob("*.png"))]
    for i, group in enumerate(g for g in GROUPS for _ in range(EACH)):
        turned = drawings[i % len(drawings)].rotate(float(random.uniform(0, 360)))
        channels = Image.merge(
            "RGBA", [turned.getchannel("RGB"[c]) for c in random.permutation(3)] + [turned.getchannel("A")]
        )
        picture = Image.alpha_composite(Image.new("RGBA", channels.size, "white"), channels).convert("RGB")
        for kind in ("plain", "planted"):
            (made / kind / group).mkdir(parents=True, exist_ok=True)
            drawn = with_corner(picture) if (kind, group) == ("planted", "marked") else picture
            drawn.save(made / kind / group / f"{i:02}.png")
    return made


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> Explainer:
    planted_bundle(tmp_path_factory.mktemp("biased") / "bundle")
    return Explainer(next(tmp_path_factory.getbasetemp().glob("biased*/bundle")), precision="fp32")


@pytest.fixture(scope="module")
def planted(biased: Explainer, folder: Path) -> Index:
    return Index.build(folder / "planted-index", biased, folder / "planted", method=Rise(masks=96))


@pytest.fixture(scope="module")
def audit(planted: Index) -> Audit:
    return planted.audit(k=5)


def test_a_planted_corner_is_found_and_named(audit: Audit) -> None:
    (group,) = [group for group in audit.biased if group.name == "folder marked"]
    assert group.queries == EACH
    assert group.found[0].region == "top left corner"
    assert group.found[0].times.low > 6
    assert {weight.region for weight in group.found} <= {"top left corner", "top edge", "left edge", "border"}
    assert np.unravel_index(group.mean_map.argmax(), group.mean_map.shape) < (8, 8)
    assert {group.name for group in audit.biased} <= {"all pictures", "folder marked"}
    assert any("folder marked (11): the top left corner counts" in line for line in verdict_lines(audit))


def test_no_corner_is_found_where_none_was_planted(biased: Explainer, folder: Path) -> None:
    index = Index.build(folder / "plain-index", biased, folder / "plain", method=Rise(masks=96))
    assert {group.name for group in index.audit(k=5).biased} == set()


def test_a_corner_that_the_network_does_not_see_is_no_bias(demo: Explainer, folder: Path) -> None:
    index = Index.build(folder / "unseen-index", demo, folder / "planted", method=Rise(masks=96))
    found = index.audit(k=5)
    assert not [weight for group in found.biased for weight in group.found if "corner" in weight.region]
    assert len(found.attributes) == index.settings.names
    for one in found.attributes:
        assert one.more.mean == pytest.approx(one.shared - one.chance)
    shared = found.attributes[0]
    assert shared.more.low > 0
    assert any(shared.name in line for line in verdict_lines(found))


def test_shares_and_maps_are_those_of_the_explanations(planted: Index) -> None:
    """One query's numbers, made from explanations one by one."""
    asked = planted.audit(sample=44, k=3)
    per_query = []
    for id_ in planted.ids:
        found = planted.search_and_explain(id_, 3, mode="fixed", side=REGION_SIDE)
        maps = np.stack([np.maximum(match.explanation.saliency, 0) for match in found if match.explanation])
        mask = regions()["top left corner"]
        per_query.append(float(np.mean([(m[mask].mean() / m.mean()) for m in maps])))
    overall = {w.region: w for w in asked.groups[0].regions}
    assert asked.duplicates == 0
    assert overall["top left corner"].times.mean == pytest.approx(np.mean(per_query), rel=1e-4)
    assert overall["top left corner"].area == pytest.approx(1 / 16)
    assert overall["centre"].stands_out is False


def test_near_duplicates_are_left_out(planted: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(iter((planted._store.path.parent / "planted" / "a").iterdir()))
    every = planted.audit(k=5)
    monkeypatch.setattr(audit_queries, "ALIKE_LEVELS", 255)
    monkeypatch.setattr(audit_queries, "ALIKE", 0.9)  # the pictures with a corner
    fewer = planted.audit(k=5)
    assert path.is_file()
    assert fewer.duplicates > every.duplicates
    assert fewer.queries <= every.queries


def test_numbers_page_and_command(
    planted: Index, biased: Explainer, audit: Audit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = audit_page(audit)
    assert "Folder marked: where what raises the similarity lies" in page
    assert page.count("data:image/png") >= 1 + 2 * 3
    assert "://" not in page  # it fetches nothing
    path, bundle = str(planted._store.path), str(biased.model.bundle.folder)
    capsys.readouterr()
    options = ["audit", path, "--bundle", bundle, "-k", "5", "--out", str(tmp_path / "a.html"), "--quiet"]
    assert exit_status(main, [*options, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers == json.loads(json.dumps(audit.to_dict()))
    assert (tmp_path / "a.html").read_text() == page
    assert exit_status(main, options) == 0
    assert "the top left corner counts" in capsys.readouterr().out
    assert exit_status(main, [*options, "--sample", "3"]) == 2
    assert "sample must be a whole number from 10" in error_line(capsys)


def test_too_few_rows_say_nothing(planted: Index, demo: Explainer, tmp_path: Path) -> None:
    few = {f"{i}.png": path for i, path in enumerate(sorted(PICTURES.glob("*.png")))}
    with pytest.raises(OptionError, match="needs 10 rows or more, the index has 8"):
        Index.build(tmp_path / "few", demo, few, method=Rise(masks=32)).audit()


def test_a_background_is_plain_and_reaches_the_edge() -> None:
    pixels = np.full((50, 80, 3), 240, np.uint8)
    pixels[10:40, 20:60] = (200, 30, 30)
    pixels[20:30, 30:50] = 240  # white inside the object is not behind it
    found = background(reduced(pixels))
    assert found is not None
    assert found.mean() == pytest.approx(1 - 0.6 * 0.5, abs=0.03)
    assert found[REGION_SIDE // 2, REGION_SIDE // 2] == 0
    noise = np.random.default_rng(0).integers(0, 256, (FINE, FINE, 3)).astype(np.uint8)
    assert background(reduced(noise)) is None


def test_density_is_of_what_raises_alone() -> None:
    map_ = np.full((1, REGION_SIDE, REGION_SIDE), -1.0)
    assert density(map_) is None
    map_[0, :8, :8] = 3
    found = density(map_)
    assert found is not None
    assert found[:8, :8].mean() == pytest.approx(16)
    assert found[8:].max() == 0
    assert sum(mask.mean() for name, mask in regions().items() if "corner" in name) == pytest.approx(0.25)


def test_intervals_are_wider_where_several_hold_together() -> None:
    values = np.random.default_rng(0).normal(2, 1, 400)
    one, many = MeanInterval.of(values), MeanInterval.of(values, 100)
    assert one.low == pytest.approx(values.mean() - 1.96 * values.std(ddof=1) / 20, abs=1e-3)
    assert many.low < one.low < one.mean < one.high < many.high
    assert MeanInterval.of(np.append(values, np.nan)) == one
