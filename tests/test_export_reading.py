"""Every export that reads pictures can be told how: --max-pixels and --apply-profiles reach the files."""

from pathlib import Path

import numpy as np
import pytest
from helpers import NAMES, PICTURES, VENDORS, copy_bundle, error_line, exit_status, noise, write_demo_labels
from PIL import Image
from test_colour_profiles import profile

from engine import Explainer
from engine.bundle import demo_bundle
from engine.pictures.loading import load_picture
from export.commands import main

REFUSED = "at most 10 in all are read"


def many_labels(folder: Path) -> Path:
    """Write as many labelled pictures as probes need."""
    folder.mkdir()
    lines = [f"{i}.png,{i},{'odd' if i % 2 else ''}" for i in range(24)]
    for i in range(24):
        Image.fromarray(noise(16, 16, i)).save(folder / f"{i}.png")
    (folder / "labels.csv").write_text("\n".join(["image,group,attributes", *lines]) + "\n")
    return folder / "labels.csv"


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, list[str]]:
    """What reads the demo's pictures, by its name."""
    many = tmp_path / "many"
    bundle, labels = str(copy_bundle(demo_bundle(), tmp_path / "bundle")), str(write_demo_labels(tmp_path))
    index = tmp_path / "index.npz"
    files = [f"{name}-{vendor}.png" for name in NAMES for vendor in VENDORS]
    np.savez(index, embeddings=Explainer(precision="fp32").embed([PICTURES / file for file in files]), files=np.array(files))
    images = ["--images", str(PICTURES)]
    return {
        "similarity": [
            *("similarity", "--onnx", str(next(Path(bundle).glob("similarity.fp32.onnx"))), "--size", "28", "--gradient"),
            *(*images, "--out", str(tmp_path / "new")),
        ],
        "attributes": ["attributes", bundle, "--labels", str(many_labels(many)), "--images", str(many)],
        "calibrate": ["calibrate", bundle, "--labels", labels, *images],
        "quantize": ["quantize", bundle, *images, "--quiet"],
        "check": ["check", bundle, "--against", str(index), *images],
    }


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("similarity", REFUSED),
        ("attributes", REFUSED),
        ("calibrate", REFUSED),
        ("quantize", "has 0 different pictures that can be read"),
        ("check", "0 of 8 pictures can be read"),
    ],
)
def test_the_limit_on_pixels_is_the_one_that_was_asked_for(
    commands: dict[str, list[str]], command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(main, [*commands[command], "--max-pixels", "10"]) == 2
    assert said in error_line(capsys)


def test_an_index_of_converted_colours_is_compared_with_them(
    commands: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, explainer = tmp_path / "profiled", Explainer(precision="fp32", apply_profiles=True)
    folder.mkdir()
    for name in NAMES:
        for vendor in VENDORS:
            file = f"{name}-{vendor}.png"
            load_picture(PICTURES / file).save(folder / file, icc_profile=profile(gamma=1.0))
    files = sorted(folder.iterdir())
    index = tmp_path / "converted.npz"
    np.savez(index, embeddings=explainer.embed(files), files=np.array([file.name for file in files]))
    arguments = ["check", commands["check"][1], "--against", str(index), "--images", str(folder)]
    assert main([*arguments, "--apply-profiles"]) == 0
    assert "equal" in capsys.readouterr().out
    assert exit_status(main, arguments) == 2
