"""`python -m export` and the small files it takes: what it prints, and how it fails."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from export_models import ConvNet, MapNet
from helpers import PICTURES, copy_bundle, error_line, exit_status, python

import export
from engine.bundle import load_bundle
from engine.errors import EngineError
from engine.pictures.preprocessing import Preprocessing
from export.commands import main


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that the command prints when it exits 2."""
    assert exit_status(main, arguments) == 2
    return error_line(capsys)


def test_check_exits_2_for_a_changed_bundle(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copied = copy_bundle(tiny_bundle, tmp_path / "copy")
    (copied / "similarity.fp32.onnx").write_bytes((copied / "similarity.fp32.onnx").read_bytes()[:-1] + b"?")
    assert "similarity.fp32.onnx" in fails(["check", str(copied)], capsys)


def test_the_commands(tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    torch.save({"epoch": 1, "state_dict": ConvNet().state_dict()}, tmp_path / "weights.pt")
    np.savez(tmp_path / "conditions.npz", weights=np.ones((2, 5)), other=np.arange(4))
    (tmp_path / "names.txt").write_text("    1\tred\n    2\tvery round\n    3\tsmall\n    4\tshiny\n")
    out = str(tmp_path / "out")
    arguments = ["similarity", "--module", "export_models:build", "--weights", str(tmp_path / "weights.pt"), "--size", "32"]
    arguments += ["40", "--mean", "0.5", "0.4", "0.3", "--std", "0.2", "0.3", "0.4", "--metric", "dot", "--fit", "pad"]
    assert main([*arguments, "--conditions", str(tmp_path / "conditions.npz"), "--out", out]) == 0
    names = ["--names", str(tmp_path / "names.txt"), "--threshold", "0.1", "--confidence", "sigmoid", "--phi", "1", "2", "0"]
    assert main(["attributes", out, "--module", "export_models:maps", *names]) == 0
    assert main(["check", out]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""  # exporters are silent
    assert not recwarn.list
    assert printed.out.startswith(f"wrote {out}\nwrote {out}\nname ")
    loaded = load_bundle(Path(out))
    assert loaded.manifest.preprocessing == Preprocessing(32, 40, "pad", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert loaded.manifest.conditions is not None
    assert loaded.manifest.conditions.names == ("0", "1")
    assert loaded.attributes is not None
    assert loaded.attributes.names == ("red", "very round", "small", "shiny")
    assert (loaded.attributes.confidence, loaded.attributes.threshold, loaded.attributes.phi) == ("sigmoid", 0.1, (1, 2, 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("similarity --module export_models:broken --size 32", "RuntimeError: no such network"),
        ("similarity --module export_models:not_a_module --size 32", "must return an nn.Module"),
        ("similarity --module export_models:absent --size 32", "absent"),
        ("similarity --module no_such_package:build --size 32", "no_such_package"),
        ("similarity --module export_models --size 32", "package:factory"),
        ("similarity --module export_models:undecided --size 32", "torch.onnx.export cannot export the module"),
        ("similarity --module export_models:build", "--size is needed"),
        ("similarity --module export_models:build --size 32 32 32", "--size takes"),
        ("similarity --module export_models:build --size 0", "from 1 to 8192"),
        ("similarity --module export_models:build --size 32 --std 1 0 1", "std"),
        ("similarity --module export_models:build --size 32 --weights {tmp}/none", "there is no weights file"),
        ("similarity --module export_models:build --size 32 --weights {tmp}/text", "not a file of torch.save"),
        ("similarity --module export_models:build --size 32 --weights {tmp}/object.pt", "since it could run code"),
        ("similarity --module export_models:build --size 32 --weights {tmp}/maps.pt", "lacks"),
        ("similarity --module export_models:build --size 32 --conditions {tmp}/none", "cannot read"),
        ("similarity --module export_models:build --size 32 --conditions {tmp}/text", "not an .npz archive"),
        ("similarity --module export_models:build --size 32 --conditions {tmp}/two.npz", "condition_weights"),
        ("similarity --module export_models:build --size 32 --input image", "--input is used with --onnx only"),
        ("similarity --size 32", "required"),
        ("similarity --onnx {tmp}/none --module export_models:build", "not allowed with"),
        ("attributes --module export_models:maps --names {tmp}/none", "cannot read"),
        ("attributes --module export_models:maps --names {tmp}/text", "there is no bundle"),
        ("attributes --module export_models:maps --names {tmp}/twice", "distinct names"),
        ("check {tmp}", "manifest.json is missing"),
    ],
)
def test_faults_are_one_line(arguments: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("not what it should be\n")
    (tmp_path / "twice").write_text("red\nred\n")
    torch.save(ConvNet(), tmp_path / "object.pt")
    torch.save(MapNet().state_dict(), tmp_path / "maps.pt")
    np.savez(tmp_path / "two.npz", a=np.ones((2, 5)), b=np.ones((2, 5)))
    words = arguments.format(tmp=tmp_path).split()
    named = {"check": [], "attributes": [str(tmp_path / "out")]}
    out = named.get(words[0], ["--out", str(tmp_path / "out")])
    assert message in fails([*words, *out], capfd)
    assert not (tmp_path / "out").exists()


def test_named_conditions(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(2, 5))
    np.savez(tmp_path / "c.npz", other=np.ones((3, 3)), condition_weights=weights, condition_names=np.array(["top", "shoe"]))
    conditions = export.load_conditions(tmp_path / "c.npz")
    assert conditions.names == ("top", "shoe")
    np.testing.assert_array_equal(conditions.weights, weights.astype(np.float32))
    np.savez(tmp_path / "o.npz", condition_weights=np.array([[object()]]))
    with pytest.raises(EngineError, match="Python objects"):
        export.load_conditions(tmp_path / "o.npz")


def test_plain_names_may_begin_with_digits(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("3d print\n1\tone\n\n")
    assert export.load_names(tmp_path / "names") == ("3d print", "1\tone")


def test_a_fresh_process_says_what_it_wrote_and_nothing_else(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parent / "export_models.py", tmp_path / "mine.py")  # the current folder is importable
    done = python("-m", "export", "similarity", "--module", "mine:build", "--size", "32", "--out", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "wrote out\n", "")


def test_without_pytorch_check_works_and_the_rest_says_what_to_install(tiny_bundle: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from export.commands import main; sys.exit(main(sys.argv[1:]))"
    done = python("-c", code, "check", tiny_bundle, cwd=tiny_bundle.parent)
    assert (done.returncode, done.stderr) == (0, "")
    done = python("-c", code, "similarity", "--onnx", "m.onnx", "--out", "out", cwd=tiny_bundle.parent)
    assert done.returncode == 2
    assert done.stderr == "error: torch is not installed: pip install 'sane-engine[cpu,export]'\n"


def test_an_engine_that_is_not_ours_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "engine.py").write_text("x = 1\n")
    for command in (["export", "check", "x"], ["training.similarity", "--help"]):
        done = python("-m", *command, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert done.stderr.startswith("error: export needs sane-engine's own package `engine`")
        assert str(tmp_path / "engine.py") in done.stderr and "another folder" in done.stderr
    done = python("-c", "import export", cwd=tmp_path)
    assert (done.returncode, "ImportError: export needs sane-engine's own" in done.stderr) == (1, True)


def test_the_gradient_is_verified_on_pictures_of_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["similarity", "--module", "export_models:build", "--size", "32", "--images"]
    assert main([*common, str(PICTURES), "--gradient", "--out", str(tmp_path / "out")]) == 0
    assert any(graph.role == "gradient" for graph in load_bundle(tmp_path / "out").manifest.graphs)
    assert main([*common, str(PICTURES), "--out", str(tmp_path / "x")]) == 2
    assert "--gradient only" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([*common, str(tmp_path / "empty"), "--gradient", "--out", str(tmp_path / "x")]) == 2
    assert "at least 2" in capsys.readouterr().err
