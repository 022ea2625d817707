"""`check --against`: a bundle is compared with somebody's own index, and what makes the difference is named."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from export_models import constant, write_onnx
from helpers import error_line
from index_bench import CLIP_NORM, FILTERS, SIDE, Bench, Pipeline, make_bench, prepare
from onnx import helper
from PIL import Image

from engine.pictures.preprocessing import Preprocessing
from export import OnnxSource, export_similarity
from export.commands import main


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("against"))


ONE = {
    "nearest": (prepare("nearest"), ["interpolation nearest"]),
    "bicubic": (prepare("bicubic"), ["interpolation bicubic"]),
    "lanczos": (prepare("lanczos"), ["interpolation lanczos"]),
    "box": (prepare("box"), ["interpolation box"]),
    "antialias off": (prepare("tensor bilinear"), ["interpolation bilinear without antialias"]),
    "bicubic, antialias off": (prepare("tensor bicubic"), ["interpolation bicubic without antialias"]),
    "nearest of tensors": (prepare("tensor nearest"), ["interpolation nearest without antialias"]),
    "256 then 224": (prepare(crop=[73]), ["shorter side 73 then cropped"]),
    "crop_pct .9": (prepare(crop=[71]), ["shorter side 71 then cropped"]),
    "crop_pct .95": (prepare(crop=[67]), ["shorter side 67 then cropped"]),
    "squashed then cropped": (prepare(crop=[73, 73]), ["resized to 73 x 73 then cropped"]),
    "stretch": (prepare(fit="stretch"), ["stretched to 64 x 64"]),
    "pad with black": (prepare(fit="pad"), ["padded with colour 0 0 0 (picture in the centre)"]),
    "pad with white": (prepare(fit="pad", colour="white"), ["padded with colour 255 255 255 (picture in the centre)"]),
    "pad at a corner": (prepare(fit="pad", corner=True), ["padded with colour 0 0 0 (picture at the top left)"]),
    "crop rounding": (prepare(down=True), ["odd borders of a crop rounded down"]),
    "BGR": (prepare(bgr=True), ["channels in BGR"]),
    "0 and 1": (prepare(norm=((0, 0, 0), (1, 1, 1))), ["mean and std 0 and 1 (pixels / 255)"]),
    "0.5 and 0.5": (prepare(norm=((0.5,) * 3, (0.5,) * 3)), ["mean and std 0.5 and 0.5 (pixels / 255)"]),
    "CLIP": (prepare(norm=CLIP_NORM), ["mean and std CLIP's (pixels / 255)"]),
    "raw pixels": (prepare(norm=((0, 0, 0), (1, 1, 1)), divide=()), ["mean and std 0 and 1 (pixels 0..255, not divided)"]),
    "not divided": (prepare(divide=()), ["mean and std ImageNet's (pixels 0..255, not divided)"]),
    "divided twice": (prepare(divide=(255, 255)), ["mean and std ImageNet's (pixels divided by 255 twice)"]),
}
"""What is planted alone, and the words that must name it."""
BLACK_PAD = "padded with colour 0 0 0 (picture in the centre)"
TWO = {
    "bicubic, BGR": (prepare("bicubic", bgr=True), ["interpolation bicubic", "channels in BGR"]),
    "bicubic, 256 then 224": (prepare("bicubic", crop=[73]), ["interpolation bicubic", "shorter side 73 then cropped"]),
    "bicubic, CLIP": (prepare("bicubic", norm=CLIP_NORM), ["interpolation bicubic", "mean and std CLIP's (pixels / 255)"]),
    "Caffe": (
        prepare(bgr=True, norm=((103.939, 116.779, 123.68), (1, 1, 1)), divide=()),
        ["channels in BGR", "mean and std Caffe's (pixels 0..255, not divided)"],
    ),
    "lanczos, stretch": (prepare("lanczos", "stretch"), ["interpolation lanczos", "stretched to 64 x 64"]),
    "antialias off, pad": (prepare("tensor bilinear", "pad"), ["interpolation bilinear without antialias", BLACK_PAD]),
    "256 then 224, 0.5": (
        prepare(crop=[73], norm=((0.5,) * 3, (0.5,) * 3)),
        ["shorter side 73 then cropped", "mean and std 0.5 and 0.5 (pixels / 255)"],
    ),
    "crop rounding, nearest": (
        prepare("nearest", down=True),
        ["interpolation nearest", "odd borders of a crop rounded down"],
    ),
    "stretch, BGR": (prepare(fit="stretch", bgr=True), ["stretched to 64 x 64", "channels in BGR"]),
    "SigLIP": (
        prepare("bicubic", "stretch", norm=((0.5,) * 3, (0.5,) * 3)),
        ["interpolation bicubic", "stretched to 64 x 64", "mean and std 0.5 and 0.5 (pixels / 255)"],
    ),
}


def named_right(bench: Bench, planted: dict[str, tuple[Pipeline, list[str]]]) -> list[str]:
    """Return what was planted and not named, with what was said; nothing more than what was planted may be named."""
    wrong = []
    for name, (pipeline, expected) in planted.items():
        found = bench.compare(bench.embeddings(pipeline))
        listed = " and ".join(filter(None, [", ".join(expected[:-1]), expected[-1]]))
        made = f"your index was made with {listed}, this bundle has "
        if made not in found.verdict or len(found.kinds) != len(expected):
            wrong.append(f"{name}: {found.line()}")
    return wrong


@pytest.mark.parametrize("planted", [ONE, TWO], ids=["one difference", "two and three"])
def test_nine_of_ten_planted_differences_are_named(bench: Bench, planted: dict[str, tuple[Pipeline, list[str]]]) -> None:
    wrong = named_right(bench, planted)
    print(f"{len(planted) - len(wrong)} of {len(planted)} planted differences named", *wrong, sep="\n")
    assert len(wrong) <= len(planted) / 10


def test_an_equal_index_is_told_so_and_ends_in_0(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    index = bench.save(bench.embeddings(prepare()).astype(np.float16))
    assert main(["check", str(bench.bundles["dot"]), "--against", str(index), "--images", str(bench.images)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.startswith("name        dot\n")
    assert printed.out.splitlines()[-1] == (
        "index       20 pictures compared: cosine median 1.0000, least 1.0000; nearest neighbours 20 of 20; equal"
    )


def test_a_different_index_is_one_line_and_ends_in_2(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    index = bench.save(bench.embeddings(prepare(bgr=True)))
    assert main(["check", str(bench.bundles["dot"]), "--against", str(index), "--images", str(bench.images)]) == 2
    line = error_line(capsys)
    assert line.startswith(f"error: {index}: 20 pictures compared: cosine median 0.")
    assert "; differs: your index was made with channels in BGR, this bundle has channels in RGB (least cosine 0." in line
    assert line.endswith("-> 1.0000); export the bundle again with --channel-order bgr")


def test_normalised_embeddings_matter_if_the_metric_sees_lengths(bench: Bench) -> None:
    own = bench.embeddings(prepare())
    unit = own / np.linalg.norm(own, axis=1, keepdims=True)
    found = bench.compare(unit)
    assert found.kinds == ()
    assert found.verdict.startswith("equal (your embeddings are L2-normalised, this bundle's have lengths from ")
    found = bench.compare(unit, "dot")
    assert found.kinds == ("L2 normalisation",)
    assert found.verdict.endswith("and metric dot sees that: export it again with --metric cosine")
    other = bench.embeddings(prepare("nearest"))
    found = bench.compare(other / np.linalg.norm(other, axis=1, keepdims=True), "dot")
    assert found.kinds == ("interpolation", "L2 normalisation")
    assert found.verdict.endswith("; export the bundle again with --interpolation nearest --metric cosine")
    assert "your embeddings are L2-normalised" in found.verdict


def test_a_change_of_length_alone_is_named(bench: Bench) -> None:
    own = bench.embeddings(prepare())
    assert bench.compare(own * 2.5).kinds == ()
    found = bench.compare(own * 2.5, "dot")
    assert found.kinds == ("length",)
    assert "your embeddings are 2.5 times as long" in found.verdict


def test_lengths_tell_what_directions_do_not(bench: Bench, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    node = helper.make_node("Conv", ["picture", "w"], ["c"], strides=[16, 16])
    nodes = [node, helper.make_node("Relu", ["c"], ["r"]), helper.make_node("Flatten", ["r"], ["features"])]
    weights = [constant("w", random.normal(size=(2, 3, 16, 16)))]
    network = write_onnx(tmp_path / "n.onnx", nodes, {"features": ("n", 32)}, weights, ("n", 3, SIDE, SIDE))
    plain = Preprocessing(SIDE, SIDE, resize=(SIDE,))
    bundle = export_similarity(OnnxSource(network), plain, tmp_path / "bundle", metric="euclidean")
    other = dataclasses.replace(bench, network=network, bundles={"euclidean": bundle}, folder=tmp_path)
    raw = other.embeddings(prepare(norm=((0, 0, 0), (1, 1, 1)), divide=()))  # 255 times as long, in the same direction
    found = other.compare(raw, "euclidean")
    assert (found.least > 0.9999, found.kinds) == (True, ("normalisation",))
    assert "mean and std 0 and 1 (pixels 0..255, not divided)" in found.verdict


def test_rows_in_another_order_are_named(bench: Bench) -> None:
    found = bench.compare(np.roll(bench.embeddings(prepare()), 1, axis=0))
    assert found.kinds == ("order of the rows",)


def test_another_network_is_not_explained(bench: Bench) -> None:
    found = bench.compare(np.random.default_rng(0).normal(size=(20, 24)))
    assert found.kinds == ("unknown",)
    assert "compare the weights, the layer" in found.verdict


def test_a_few_changed_files_are_named(bench: Bench) -> None:
    embeddings = bench.embeddings(prepare())
    embeddings[[3, 11]] = [-embeddings[3], embeddings[12]]
    found = bench.compare(embeddings)
    assert found.kinds == ("some files",)
    assert (
        f"only in 2 of 20 pictures, most of all in {sorted(bench.images.iterdir())[3]}: were they changed" in found.verdict
    )


def test_a_few_wrong_rows_hide_no_difference(bench: Bench) -> None:
    embeddings = bench.embeddings(prepare("nearest"))
    embeddings[[3, 11]] = embeddings[[11, 3]]
    found = bench.compare(embeddings)
    assert found.kinds == ("interpolation",)
    assert "interpolation nearest" in found.verdict and "what is left may be" in found.verdict


def oriented_and_transparent(folder: Path) -> None:
    """Write pictures of which each third is turned by EXIF, and each third has transparent parts."""
    folder.mkdir()
    random = np.random.default_rng(5)
    for i in range(12):
        coarse = random.integers(0, 256, (7, 9, 4), np.uint8)
        picture = Image.fromarray(coarse).resize((90 + i, 120), FILTERS.NEAREST)
        if i % 3 == 0:
            exif = Image.Exif()
            exif[0x0112] = 6
            picture.convert("RGB").save(folder / f"{i:02}.jpg", exif=exif, quality=95)
        else:
            (picture if i % 3 == 1 else picture.convert("RGB")).save(folder / f"{i:02}.png")


def over(colour: str) -> Callable[[Path], Image.Image]:
    def load(file: Path) -> Image.Image:
        picture = Image.open(file)
        upright = picture.rotate(-90, expand=True) if picture.getexif().get(0x0112) == 6 else picture
        whole = Image.new("RGBA", upright.size, colour)
        return Image.alpha_composite(whole, upright.convert("RGBA")).convert("RGB")

    return load


def turned(file: Path) -> Image.Image:
    return over("white")(file).rotate(90, expand=True) if file.suffix == ".jpg" else over("white")(file)


def dropped(file: Path) -> Image.Image:
    return over("white")(file) if file.suffix == ".jpg" else Image.open(file).convert("RGB")


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (over("white"), "equal"),
        (over("black"), "made with transparency over black, this bundle has EXIF orientation applied and transparency over"),
        (turned, "made with EXIF orientation ignored"),
        (dropped, "made with transparency dropped"),
    ],
    ids=["equal", "black", "turned", "dropped"],
)
def test_ways_to_read_files_are_named(bench: Bench, tmp_path: Path, load: Callable[[Path], Image.Image], said: str) -> None:
    oriented_and_transparent(tmp_path / "images")
    other = dataclasses.replace(bench, images=tmp_path / "images", folder=tmp_path)
    found = other.compare(other.embeddings(prepare(), load))
    assert said in found.verdict
    assert found.kinds == (() if said == "equal" else ("loading",))
    assert said == "equal" or found.verdict.endswith("from pictures that are loaded as this bundle loads them")
