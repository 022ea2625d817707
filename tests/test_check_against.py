"""`check --against`: a bundle is compared with somebody's own index, and what makes the difference is named."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from export_models import constant, write_onnx
from helpers import CAT, PICTURES, error_line, exit_status
from onnx import helper
from PIL import Image

from engine.bundle import load_bundle
from engine.errors import EngineError
from engine.pictures.preprocessing import Preprocessing
from export import OnnxSource, check, export_similarity
from export.commands import main
from export.compare import Comparison, compare_index
from export.preprocessing_options import add_preprocessing_options, given_fields, put_together
from export.variants import KINDS, Variant, changed_kinds, export_options, variants_of, words

SIDE = 64
IMAGENET_NORM = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_NORM = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OWN = Preprocessing(SIDE, SIDE, mean=IMAGENET_NORM[0], std=IMAGENET_NORM[1])
FILTERS = Image.Resampling
Pipeline = Callable[[Image.Image], np.ndarray]
"""An upright RGB picture -> (3, SIDE, SIDE) float32, as somebody's own code makes it."""


def write_network(path: Path) -> Path:
    """Write a small random network, (n, 3, 64, 64) -> (n, 24): layers with biases, so that no change of scale is lost."""
    random = np.random.default_rng(3)
    sizes = [("a", 3, 8, 5), ("b", 8, 12, 3), ("c", 12, 12, 3)]
    weights, nodes, last = [], [], "picture"
    for name, inputs, outputs, side in sizes:
        values = random.normal(size=(outputs, inputs, side, side)) / np.sqrt(inputs * side * side)
        weights += [constant(f"{name}_w", values), constant(f"{name}_b", random.normal(size=outputs) / 2)]
        nodes.append(
            helper.make_node(
                "Conv", [last, f"{name}_w", f"{name}_b"], [name], strides=[2, 2], pads=[side // 2] * 4, name=name
            )
        )
        nodes.append(helper.make_node("LeakyRelu", [name], [f"{name}_r"], alpha=0.2))
        last = f"{name}_r"
    nodes.append(helper.make_node("AveragePool", [last], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    weights.append(constant("w", random.normal(size=(48, 24)) / 7))
    nodes.append(helper.make_node("MatMul", ["flat", "w"], ["features"]))
    return write_onnx(path, nodes, {"features": ("n", 24)}, weights, input_shape=("n", 3, SIDE, SIDE))


def draw_pictures(folder: Path) -> None:
    """Write 20 varied pictures of odd sizes: the demo's, photos of scikit-image if it is installed, and textures."""
    folder.mkdir()
    found = [Image.open(path).convert("RGBA") for path in sorted(PICTURES.glob("*.png"))[:4]]
    found = [Image.alpha_composite(Image.new("RGBA", p.size, "white"), p).convert("RGB") for p in found]
    try:
        from skimage import data  # noqa: PLC0415 - an optional package

        photos = (data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), data.immunohistochemistry())
        found += [Image.fromarray(photo) for photo in photos]
    except ImportError:
        pass
    random = np.random.default_rng(0)
    while len(found) < 20:
        coarse = random.integers(0, 256, (random.integers(3, 40), random.integers(3, 40), 3), np.uint8)
        grain = random.normal(0, random.choice([3, 25]), (199, 301, 3))
        smooth = Image.fromarray(coarse).resize((301, 199), FILTERS.BICUBIC)
        found.append(Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)))
    for i, picture in enumerate(found):
        size = int(random.integers(80, 200)), int(random.integers(80, 200))
        picture.resize(size, FILTERS.LANCZOS).save(folder / f"{'ab'[i % 2]} {i:02}.png")


def prepare(
    interpolation: str = "bilinear",
    fit: str = "cover",
    crop: Sequence[int] = (),
    down: bool = False,
    colour: str = "black",
    corner: bool = False,
    bgr: bool = False,
    norm: tuple[Sequence[float], Sequence[float]] = IMAGENET_NORM,
    divide: Sequence[float] = (255.0,),
) -> Pipeline:
    """Return a pipeline as people write it with Pillow and numpy, or PyTorch for "tensor ..." interpolations."""

    def resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        if not interpolation.startswith("tensor"):
            return picture.resize(size, FILTERS[interpolation.upper()])
        torch = pytest.importorskip("torch")
        mode = interpolation.split()[1]
        x = torch.from_numpy(np.asarray(picture).astype(np.float32)).permute(2, 0, 1)[None]
        corners = {} if mode == "nearest" else {"align_corners": False}
        y = torch.nn.functional.interpolate(x, (size[1], size[0]), mode=mode, **corners)[0].permute(1, 2, 0)
        return Image.fromarray(y.round().clamp(0, 255).byte().numpy())

    def shown(picture: Image.Image) -> Image.Image:
        width, height = picture.size
        if fit == "stretch":
            return resized(picture, (SIDE, SIDE))
        if fit == "pad":
            ratio = SIDE / max(width, height)
            inner = resized(picture, (round(width * ratio), round(height * ratio)))
            whole = Image.new("RGB", (SIDE, SIDE), colour)
            whole.paste(inner, (0, 0) if corner else ((SIDE - inner.width) // 2, (SIDE - inner.height) // 2))
            return whole
        short = crop[0] if len(crop) == 1 else SIDE
        if len(crop) == 2:
            size = crop[1], crop[0]
        else:
            size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
        bigger = resized(picture, (size[0], size[1]))
        left, top = ((side - SIDE) // 2 if down else round((side - SIDE) / 2) for side in bigger.size)
        return bigger.crop((left, top, left + SIDE, top + SIDE))

    def pipeline(picture: Image.Image) -> np.ndarray:
        x = np.asarray(shown(picture)).astype(np.float64)[..., :: -1 if bgr else 1] / np.prod(divide)
        return ((x - norm[0]) / norm[1]).astype(np.float32).transpose(2, 0, 1)

    return pipeline


@dataclasses.dataclass(frozen=True)
class Bench:
    """The network as bundles by metric, its pictures, and a way to make somebody's index of them."""

    bundles: dict[str, Path]
    network: Path
    images: Path
    folder: Path

    def embeddings(self, pipeline: Pipeline, load: Callable[[Path], Image.Image] | None = None) -> np.ndarray:
        session = ort.InferenceSession(self.network, providers=["CPUExecutionProvider"])
        files = sorted(self.images.iterdir())
        x = np.stack([pipeline(load(file) if load else Image.open(file).convert("RGB")) for file in files])
        return np.asarray(session.run(None, {"picture": x})[0])

    def save(self, embeddings: np.ndarray, name: str = "index.npz", **more: object) -> Path:
        files = np.array([file.name for file in sorted(self.images.iterdir())])
        np.savez(self.folder / name, **{"embeddings": embeddings, "files": files, **more})  # type: ignore[arg-type]
        return self.folder / name

    def compare(self, embeddings: np.ndarray, metric: str = "cosine", **more: object) -> Comparison:
        return compare_index(load_bundle(self.bundles[metric]), self.save(embeddings, **more), self.images)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("against")
    network = write_network(folder / "network.onnx")
    draw_pictures(folder / "my pictures")
    bundles = {
        metric: export_similarity(OnnxSource(network), OWN, folder / metric, metric=metric) for metric in ("cosine", "dot")
    }
    return Bench(bundles, network, folder / "my pictures", folder)


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


def test_names_of_an_index_are_found_wherever_it_was_made(bench: Bench, tmp_path: Path) -> None:
    images = tmp_path / "shoes \u00e4"
    files = sorted(bench.images.iterdir())[:6]
    for i, file in enumerate(files):
        folder = images / ("train" if i % 2 else "test")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file.name).write_bytes(file.read_bytes())
    (images / "train" / "broken.png").write_bytes(b"no picture")
    names = [f"{'train' if i % 2 else 'test'}/{file.name}" for i, file in enumerate(files)]
    names[1] = names[1].replace("/", "\\")
    names[2] = f"/home/somebody/data/{images.name}/{names[2]}"
    names[3] = f"C:\\data\\{names[3]}".replace("/", "\\")
    names[4] = f"{images.name}/{names[4]}"
    names[5] = str(images / names[5])
    own = bench.embeddings(prepare())[:6]
    own = np.concatenate([own, own[:2]])
    np.savez(tmp_path / "i.npz", embeddings=own, files=np.array([*names, "train/broken.png", "none.png"]).astype("U"))
    found = compare_index(load_bundle(bench.bundles["cosine"]), tmp_path / "i.npz", images)
    assert found.line().startswith("6 pictures compared, 1 not found, 1 unreadable: cosine median 1.0000, least 1.0000; ")
    assert (found.kinds, found.neighbours) == ((), 6)


def test_an_array_without_names_is_of_all_pictures_in_order(bench: Bench, tmp_path: Path) -> None:
    np.save(tmp_path / "i.npy", bench.embeddings(prepare()))
    assert "index       20 pictures" in check(bench.bundles["cosine"], tmp_path / "i.npy", bench.images)
    np.save(tmp_path / "i.npy", bench.embeddings(prepare())[1:])
    with pytest.raises(EngineError, match=r"has 19 rows, and .* has 20 pictures: save the files' names too; numpy.savez"):
        check(bench.bundles["cosine"], tmp_path / "i.npy", bench.images)


NAMES = [f"{i}.png" for i in range(4)]
ROWS = np.ones((4, 24), np.float32)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"embeddings": ROWS}, "has no array 'files', it has embeddings: numpy.savez"),
        ({"files": NAMES}, "has no array 'embeddings', it has files: numpy.savez"),
        ({"embeddings": ROWS, "files": NAMES[:3]}, r"must be 4 names, one per embedding, got <U5 \(3,\)"),
        ({"embeddings": ROWS, "files": np.arange(4)}, "must be 4 names"),
        ({"embeddings": ROWS, "files": np.array(NAMES, object)}, "cannot read the array 'files' .*: numpy.savez"),
        ({"embeddings": ROWS[0], "files": NAMES}, r"must be floating-point \(n, D\), got float32 \(24,\)"),
        ({"embeddings": ROWS.astype(int), "files": NAMES}, "must be floating-point"),
        ({"embeddings": ROWS[:, :9], "files": NAMES}, "have 9 numbers each, this bundle's have 24: .* export that one"),
        ({"embeddings": ROWS * [[1], [1], [np.nan], [1]], "files": NAMES}, "row 2 of the embeddings .* is not finite"),
        ({"embeddings": ROWS, "files": NAMES}, "none of the 4 files .*; the first is 0.png, but there is deep/0.PNG"),
        ({"embeddings": ROWS, "files": ["broken.png"] * 4}, "0 of 4 pictures can be read: at least 2 are needed"),
    ],
)
def test_faults_of_an_index_are_one_line(arrays: dict[str, np.ndarray], said: str, bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for name in ("broken.png", "deep/0.PNG"):
        (tmp_path / "images" / name).write_bytes(b"no picture")
    np.savez(tmp_path / "i.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=said) as raised:
        check(bench.bundles["cosine"], tmp_path / "i.npz", tmp_path / "images")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--against", "index.npz"], "--against FILE and --images DIR, the folder of its pictures, go together"),
        (["--images", "."], "--against FILE and --images DIR"),
        (["--against", "none.npz", "--images", "."], "cannot read none.npz: No such file"),
        (["--against", "text.npz", "--images", "."], "cannot read the array 'embeddings' of text.npz"),
        (["--against", "embeddings.txt", "--images", "."], "the name must end in .npy or .npz"),
        (["--against", "index.npz", "--images", "none"], "there is no folder none"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str],
    said: str,
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("index.npz", embeddings=ROWS, files=NAMES)
    Path("text.npz").write_text("text")
    Path("embeddings.txt").write_text("1 2")
    assert exit_status(main, ["check", str(bench.bundles["cosine"]), *arguments]) == 2
    assert said in error_line(capsys)


BASES = [
    OWN,
    Preprocessing(32, 48, "stretch", interpolation="bicubic", antialias=False, scale=1.0, channel_order="bgr"),
    Preprocessing(32, 48, "pad", pad_colour=(1, 2, 3), pad_position="top-left", layout="nhwc"),
    Preprocessing(28, 28, mean=(0.1307,), std=(0.3081,), channels=1, resize=(32,), crop_rounding="down"),
]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "loading"])
def test_variants_differ_in_one_kind_and_their_options_make_such_a_bundle(kind: str, base: Preprocessing) -> None:
    variants = variants_of(kind, Variant(base))
    assert len(variants) == len(set(variants))
    for variant in variants:
        assert changed_kinds(Variant(base), variant) == [kind]
        assert words(kind, variant) != words(kind, Variant(base))
        options = export_options(kind, Variant(base), variant)
        variant.preprocessing.fitted(Image.open(CAT[0]).convert("RGB"))
        if "(without" in options or "--preprocessor" in options:
            continue
        parser = argparse.ArgumentParser()
        add_preprocessing_options(parser)
        made = put_together(given_fields(parser.parse_args(options.split())), None, base)
        assert changed_kinds(Variant(made), variant) == []
