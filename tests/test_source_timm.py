"""Networks of timm: without the classifier, with the preprocessing of their configuration, or one line."""

import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import error_line, exit_status, python

from engine.bundle import load_bundle
from engine.errors import OptionError
from export import ExportError, torchvision_absence
from export.commands import main
from export.timm_source import load_timm

if importlib.util.find_spec("timm") is None:
    pytest.skip("timm is not installed", allow_module_level=True)
safetensors = pytest.importorskip("safetensors.torch")
RANDOM = Path("random")
pytestmark = pytest.mark.filterwarnings("ignore")


def whole(name: str = "test_vit") -> torch.nn.Module:
    """The network with its classifier and seeded weights. timm is imported as the package does it."""
    load_timm("test_vit", RANDOM)
    torch.manual_seed(0)
    return sys.modules["timm"].create_model(name, pretrained=False).eval()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_with_a_classifier(suffix: str, tmp_path: Path) -> None:
    network, path = whole(), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"epoch": 1, "model": network.state_dict()}, path)
    else:
        safetensors.save_file(network.state_dict(), path)
    found = load_timm("test_vit", path)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 160, 160)).astype(np.float32))
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(x), pre_logits=True)
        torch.testing.assert_close(found.module(x), expected)
    assert found.origin == ""


def test_the_configuration_decides_the_preprocessing() -> None:
    found = load_timm("vit_tiny_patch16_224", RANDOM)
    preprocessing = found.preprocessing()
    assert (preprocessing.height, preprocessing.width, preprocessing.interpolation) == (224, 224, "bicubic")
    assert (preprocessing.resize, preprocessing.mean) == ((248,), (0.5, 0.5, 0.5))  # crop_pct 0.9


def test_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = whole("test_resnet")
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    words = [
        "similarity",
        "--timm",
        "test_resnet",
        "--weights",
        str(tmp_path / "weights.pt"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("took ResNet without its classifier as the embedding\nwrote ")
    assert load_bundle(tmp_path / "out").manifest.embedding == network.num_features


def test_weights_of_another_network(tmp_path: Path) -> None:
    torch.save(whole("test_resnet").state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ExportError, match=r"weights.pt lacks cls_token, .* more"):
        load_timm("test_vit", tmp_path / "weights.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(ExportError, match=r"broken.safetensors is not a whole .safetensors file"):
        load_timm("test_vit", tmp_path / "broken.safetensors")


def test_a_name_that_timm_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(main, ["similarity", "--timm", "resnet5000", "--out", str(tmp_path / "out")]) == 2
    line = error_line(capsys)
    assert "timm cannot make 'resnet5000'" in line
    assert "such as" in line


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    whole()
    monkeypatch.setattr(sys.modules["timm"], "create_model", _offline)
    with pytest.raises(ExportError, match="cannot fetch the weights of test_vit: OSError: no network; give a file of them"):
        load_timm("test_vit")


def _offline(*_: object, **__: object) -> None:
    raise OSError("no network")


def test_without_timm_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(OptionError, match=r"pip install 'sane-engine\[cpu,export,timm\]'"):
        load_timm("test_vit", RANDOM)


def test_torchvision_is_not_needed(tmp_path: Path) -> None:
    """timm imports it; PyPI's does not import beside PyTorch's build for CPUs."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    code = (
        "import sys; from pathlib import Path; from export.timm_source import load_timm\n"
        "found = load_timm('test_vit', Path('random')); print(found.preprocessing().height)\n"
        "assert 'torchvision' not in sys.modules\n"
    )
    done = python("-c", code, env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parent.parent}"})
    assert (done.returncode, done.stdout) == (0, "160\n"), done.stderr


def test_a_broken_torchvision_is_replaced_or_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision_absence._forget()
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("import torchvision.part\nraise RuntimeError('no operator')\n")
    (tmp_path / "torchvision" / "part.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert not torchvision_absence.works()
    with torchvision_absence.replaced(True):
        from torchvision.transforms.functional import InterpolationMode  # noqa: PLC0415

        assert InterpolationMode.BICUBIC is not InterpolationMode.NEAREST
        with pytest.raises(AttributeError):
            _ = InterpolationMode.__nothing__
    with torchvision_absence.hidden(True):
        assert importlib.util.find_spec("torchvision") is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("torchvision")
    assert not [name for name in sys.modules if name.partition(".")[0] == "torchvision"]
    (tmp_path / "torchvision" / "__init__.py").write_text("fine = True\n")
    importlib.invalidate_caches()
    assert torchvision_absence.works()
    with torchvision_absence.replaced(False), torchvision_absence.hidden(False):
        assert importlib.import_module("torchvision").fine
    torchvision_absence._forget()
