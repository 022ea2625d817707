"""`python -m engine.explain` as a user meets it: what it prints, what it writes, how it fails."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import BANDAGE, CAT, COUPLE, copy_bundle, error_line, exit_status, python, views_of, write_broken
from PIL import Image

from engine import Explainer, Explanation
from engine.bundle import ATTRIBUTES, demo_bundle
from engine.bundle.manifest import attributes_from_json
from engine.explain import DEFAULT_OUT, main

QUERY, OTHER = str(CAT[0]), str(BANDAGE[1])
PAIR = [str(path) for path in COUPLE]
FEW = ["--masks", "16"]
SANE = ["--ranking", "sane", *FEW]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def test_without_pictures_the_demo_pair_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(FEW) == 0
    printed = capsys.readouterr()
    assert "similarity 0.92" in printed.out
    assert "in both" in printed.out
    assert f"wrote {DEFAULT_OUT}" in printed.out
    assert DEFAULT_OUT.exists()


def test_json_prints_one_array_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([QUERY, OTHER, QUERY, "--json", *FEW]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert [f["similarity"] for f in fields][1] == pytest.approx(1)
    assert fields[0]["passes"] == 18
    assert list(Path().iterdir()) == []


@pytest.fixture(scope="module")
def bundle_with_prior(demo_with: Callable[..., Path]) -> Path:
    """The demo with a prior that counts."""
    table = attributes_from_json((demo_bundle() / ATTRIBUTES).read_text())
    return demo_with(prior=np.linspace(0.25, 0.75, len(table.names), dtype=np.float32), phi=(1.0, 1.0, 0.5))


def test_json_has_every_term_of_each_word(bundle_with_prior: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PAIR, "--bundle", str(bundle_with_prior), "--ranking", "sane", "--json", *FEW]) == 0
    (fields,) = json.loads(capsys.readouterr().out)
    names = attributes_from_json((bundle_with_prior / ATTRIBUTES).read_text()).names
    assert fields["phi"] == [1, 1, 0.5]
    for kind in ("attributes", "opposing_attributes"):
        assert fields[kind]
        for word in fields[kind]:
            assert set(word) == {"name", "score", "confidence", "match", "prior", "reference_confidence"}
            assert word["prior"] == pytest.approx(0.25 + 0.5 * names.index(word["name"]) / (len(names) - 1))
            assert word["score"] == pytest.approx(word["confidence"] + word["match"] + 0.5 * word["prior"])


def test_the_summary_says_the_prior_where_there_is_one(
    bundle_with_prior: Path, demo_with: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PAIR, "--bundle", str(demo_with(prior=None)), *SANE]) == 0
    assert not any(line.startswith("  ") and "prior" in line for line in capsys.readouterr().out.splitlines())
    assert main([*PAIR, "--bundle", str(bundle_with_prior), "--out", "e.npz", *SANE]) == 0
    printed = capsys.readouterr().out
    for attribute in Explanation.load("e.npz").attributes[:5]:
        (line,) = (line for line in printed.splitlines() if line.startswith(f"  {attribute.name} "))
        assert line.endswith(f"match {attribute.match:+.2f}   prior {attribute.prior:.2f}")


def test_the_summary_says_what_tells_the_pictures_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(COUPLE[0]), str(CAT[0]), "--top", "2", "--out", "e.npz", *FEW]) == 0
    apart = Explanation.load("e.npz")
    printed = capsys.readouterr().out
    for name, attributes in (("query", apart.only_query), ("reference", apart.only_reference)):
        assert len(attributes) >= 2
        assert f"  only in the {name}: {attributes[0].name}, {attributes[1].name}\n" in printed
    assert apart.opposing_attributes  # a fact in the file, not a line
    assert "lowered" not in printed


def test_rather_than_takes_a_picture_or_an_embedding(capsys: pytest.CaptureFixture[str]) -> None:
    pair = [*map(str, COUPLE), "--out", "e.npz", *FEW]
    assert main([*pair, "--rather-than", str(CAT[0])]) == 0
    told = Explanation.load("e.npz")
    assert f"similarity {told.similarity:.3f} rather than {told.rather_than_similarity:.3f}" in capsys.readouterr().out
    embedding = Explainer().embed([CAT[0]])
    np.savez("index.npz", cat=embedding, two=np.concatenate([embedding, embedding]))
    assert main([*pair, "--rather-than", "index.npz:cat"]) == 0
    np.testing.assert_array_equal(Explanation.load("e.npz").saliency, told.saliency)
    assert main([*pair, "--rather-than", "index.npz:two"]) == 2
    assert "holds 2 rows" in capsys.readouterr().err
    assert main([*pair, "--rather-than", str(COUPLE[1])]) == 2
    assert "give another picture" in capsys.readouterr().err
    assert main([*pair, "--mode", "both", "--rather-than", str(CAT[0])]) == 2
    assert "use mode fixed" in capsys.readouterr().err


def test_files_by_suffix(capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("png", "npz", "html", "json"):
        assert main([QUERY, OTHER, QUERY, "--out", f"out.{suffix}", *FEW]) == 0
    names = {p.name for p in Path().iterdir()}
    assert names == {"out-1.png", "out-2.png", "out-1.npz", "out-2.npz", "out.html", "out.json"}
    assert len(views_of(Path("out.html").read_text())) == 2
    assert len(json.loads(Path("out.json").read_text())) == 2
    assert Explanation.load("out-2.npz").similarity == pytest.approx(1)
    assert "wrote out-2.png" in capsys.readouterr().out


def test_seed_masks_and_top_are_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([QUERY, OTHER, "--seed", "7", "--masks", "20", "--top", "1", "--out", "a.npz"]) == 0
    assert capsys.readouterr().out.count("in both") == 1
    explanation = Explanation.load("a.npz")
    assert (explanation.seed, explanation.passes) == (7, 22)


def test_conditions_by_name_and_index(
    tiny_bundle: Path, golden: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("query", "reference"):
        Image.fromarray(golden[name]).save(f"{name}.png")
    for asked in ("shoe", "1"):
        assert main(["query.png", "reference.png", "--bundle", str(tiny_bundle), "--condition", asked, "--json", *FEW]) == 0
        (fields,) = json.loads(capsys.readouterr().out)
        assert fields["condition"] == "shoe"
        assert fields["similarity"] == pytest.approx(float(golden["similarity_by_condition"][1]), abs=1e-5)


def test_pictures_that_are_none_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, path in write_broken(tmp_path).items():
        for pair in ([str(path), QUERY], [QUERY, str(path)]):
            assert exit_status(main, [*pair, *FEW]) == 2, name
            assert str(path) in error_line(capsys)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([QUERY], "reference"),
        ([QUERY, OTHER, "--masks", "-3"], "-3"),
        ([QUERY, OTHER, "--masks", "0"], "masks"),
        ([QUERY, OTHER, "--masks", "many"], "many"),
        ([QUERY, OTHER, "--method", "guess"], "rise"),
        ([QUERY, OTHER, "--mode", "sideways"], "fixed"),
        ([QUERY, OTHER, "--condition", "shoe"], "no conditions"),
        ([QUERY, OTHER, "--precision", "int4"], "fp32"),
        ([QUERY, OTHER, "--provider", "npu"], "cpu"),
        ([QUERY, OTHER, "--bundle", "nowhere"], "nowhere"),
        ([QUERY, OTHER, "--out", "why.gif"], ".png"),
        ([QUERY, OTHER, "--out", "no/such/folder/why.png"], "folder"),
        ([QUERY, OTHER, "--out", "/proc/why.png"], "/proc"),
        ([QUERY, OTHER, "--sead", "1"], "--sead"),
        ([QUERY, "two\nlines.png"], r"two\nlines.png"),
        ([QUERY, "x" * 400], "File name too long"),
        ([QUERY, OTHER, "--out", "x" * 400 + ".png"], "File name too long"),
        ([QUERY, OTHER, "--bundle", "x" * 400], "File name too long"),
    ],
)
def test_bad_usage_exits_2_with_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(main, arguments) == 2
    assert said in error_line(capsys)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("out", ["no/such/folder/why.png", "folder.png", "why.gif"])
def test_an_output_that_cannot_be_written_is_found_before_the_work(
    out: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder.png").mkdir()
    monkeypatch.setattr("engine.explain.Explainer", None)  # calling it would be a TypeError
    assert exit_status(main, [QUERY, OTHER, "--out", out]) == 2
    assert out in error_line(capsys)


def test_an_unknown_condition_names_those_there_are(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(main, [QUERY, OTHER, "--bundle", str(tiny_bundle), "--condition", "hat", *FEW]) == 2
    assert "top, shoe, bag" in error_line(capsys)


def test_a_bundle_with_one_byte_changed_exits_2(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt = copy_bundle(tiny_bundle, tmp_path / "spoilt")
    graph = bytearray((spoilt / "similarity.fp32.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (spoilt / "similarity.fp32.onnx").write_bytes(graph)
    assert exit_status(main, [QUERY, OTHER, "--bundle", str(spoilt), *FEW]) == 2
    assert "similarity.fp32.onnx was changed" in error_line(capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    assert exit_status(main, [QUERY, OTHER, "--out", str(tmp_path / "closed" / "why.png"), *FEW]) == 2
    assert "permission" in error_line(capsys)


def test_options_may_stand_between_the_pictures() -> None:
    assert main([QUERY, "--masks", "8", OTHER, "--json"]) == 0


def test_standard_output_that_is_full_exits_2() -> None:
    with open("/dev/full", "w") as full:
        failed = python("-m", "engine.explain", *FEW, "--json", stdout=full)
    assert failed.returncode == 2
    assert failed.stderr == "error: cannot write to standard output: No space left on device\n"


def test_as_a_process_it_has_that_exit_status_and_help() -> None:
    failed = python("-m", "engine.explain", "a.png", "b.png")
    assert failed.returncode == 2
    assert failed.stderr == "error: a.png does not exist\n"
    helped = python("-m", "engine.explain", "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "examples:" in helped.stdout
