"""The command line says how pictures are prepared: by itself, or changing what --preprocessor says."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import error_line, exit_status
from preprocessor_cases import CLIP, TIMM, VIT

from engine.pictures.preprocessing import Preprocessing
from export.commands import main

STATS = {"mean": tuple(CLIP["image_mean"]), "std": tuple(CLIP["image_std"])}
FROM_CLIP = Preprocessing(224, 224, **STATS, resize=(224,), interpolation="bicubic", crop_rounding="down")


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[Preprocessing]:
    """The preprocessing of every bundle that a test would have exported."""
    found: list[Preprocessing] = []

    def export_similarity(source: object, preprocessing: Preprocessing, out: Path, **options: Any) -> Path:
        found.append(preprocessing)
        return out

    monkeypatch.setattr("export.handlers.export_similarity", export_similarity)
    return found


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, config in (("clip", CLIP), ("vit", VIT), ("border", TIMM["border"]), ("pad", {**CLIP, "do_pad": True})):
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
    return tmp_path


def command(words: str, files: Path) -> list[str]:
    return ["similarity", "--module", "export_models:build", "--out", str(files / "out"), *words.format(files=files).split()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--size 32", Preprocessing(32, 32)),
        (
            "--size 224 --resize 256 --interpolation bicubic --crop-rounding down",
            Preprocessing(224, 224, resize=(256,), interpolation="bicubic", crop_rounding="down"),
        ),
        ("--size 32 --resize 40 50 --no-antialias", Preprocessing(32, 32, resize=(40, 50), antialias=False)),
        ("--size 224 --crop-pct 0.9", Preprocessing(224, 224, resize=(248,))),
        (
            "--size 32 40 --fit pad --pad-colour 0 128 255 --pad-position top-left",
            Preprocessing(32, 40, fit="pad", pad_colour=(0, 128, 255), pad_position="top-left"),
        ),
        ("--size 28 --channels 1", Preprocessing(28, 28, channels=1, mean=(0.0,), std=(1.0,))),
        ("--size 28 --channels 1 --mean .1 --std .3", Preprocessing(28, 28, channels=1, mean=(0.1,), std=(0.3,))),
        ("--size 32 --rescale-factor 0.00784313725490196", Preprocessing(32, 32, scale=127.5)),
        ("--preprocessor {files}/clip.json", FROM_CLIP),
        (
            "--preprocessor {files}/clip.json --resize 230 --interpolation bilinear --layout nhwc --scale 1",
            Preprocessing(224, 224, **STATS, resize=(230,), crop_rounding="down", layout="nhwc", scale=1),
        ),
        (
            "--preprocessor {files}/clip.json --size 336 --crop-pct 1",
            Preprocessing(336, 336, **STATS, resize=(336,), interpolation="bicubic", crop_rounding="down"),
        ),
        (
            "--preprocessor {files}/clip.json --size 336 --fit stretch",
            Preprocessing(336, 336, "stretch", **STATS, interpolation="bicubic", crop_rounding="down"),
        ),
        (
            "--preprocessor {files}/vit.json --size 384",
            Preprocessing(384, 384, fit="stretch", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        ),
    ],
)
def test_options_become_a_preprocessing(
    words: str, expected: Preprocessing, files: Path, exported: list[Preprocessing]
) -> None:
    assert main(command(words, files)) == 0
    (found,) = exported
    assert found == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--size 32 --scale 1 --rescale-factor 1", "--scale and --rescale-factor"),
        ("--size 32 --rescale-factor 0", "--rescale-factor must be a positive number, got 0"),
        ("--size 32 --resize 40 --crop-pct 0.9", "--resize and --crop-pct"),
        ("--size 32 --resize 1 2 3", "--resize takes"),
        ("--size 32 --crop-pct 0", "--crop-pct must be"),
        ("--size 32 40 --crop-pct 0.9", "--crop-pct is for a square --size"),
        ("--size 32 --mean 1 2", "mean must be a tuple of three finite numbers"),
        ("--size 32 --fit stretch --resize 40", "leave resize out, or choose fit crop"),
        ("--size 32 --pad-position top-left", "leave them out, or choose fit pad"),
        ("--size 32 --interpolation lanczos --no-antialias", "interpolation lanczos needs antialias"),
        ("--preprocessor {files}/clip.json --size 336", "needs --resize or --crop-pct too"),
        ("--preprocessor {files}/clip.json --channels 1", "mean must be a tuple of one finite number"),
        ("--preprocessor {files}/vit.json --resize 256", "leave resize out, or choose fit crop"),
        ("--preprocessor {files}/pad.json", "pad.json: do_pad is true"),
        ("--preprocessor {files}/none.json", "cannot read"),
    ],
)
def test_faults_are_one_line(
    words: str, message: str, files: Path, exported: list[Preprocessing], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(main, command(words, files)) == 2
    assert message in error_line(capsys)
    assert not exported
