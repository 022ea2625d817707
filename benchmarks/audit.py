"""Does an audit find a bias that was planted, and none where there is none?

    python -m benchmarks.audit [--pictures N] [--out FILE]

Emoji in folders of their groups, with a coloured corner on those of one group. The demo network hardly sees that corner; the
biased one is the same network with one more number that measures it. Three catalogues are indexed and audited: the corner
under the biased network, the same pictures under the demo network, and pictures without a corner under the biased network.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image

from benchmarks.pictures import EMOJI
from benchmarks.record import PACKAGES, circumstances
from engine import Explainer, Rise
from engine.bundle import demo_bundle, load_bundle
from engine.files import write_whole
from engine.index import Index
from engine.index.audit import ALL
from engine.pictures.loading import load_picture
from engine.terminal import Bar, CommandParser, notice, run_command, say
from export import OnnxSource, export_similarity
from training.datasets import emoji as emoji_data

OUT = Path(__file__).parent / "results" / "index" / "audit.json"
CACHE = Path(".cache/benchmarks/audit")
GROUPS = ("Symbols", "People & Body", "Objects", "Animals & Nature", "Travel & Places", "Food & Drink", "Flags")
PLANTED, WHERE = "Objects", "top left corner"
COLOUR, CORNER = (230, 20, 160), 12
"""Of the corner: its colour and its side, of 64 pixels."""
WEIGHT = 3.0
"""Of the corner's number beside an embedding of length 1, where the corner is shown whole: matches are mostly by it."""
MASKS, SAMPLE, SEED = 256, 400, 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.audit", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--pictures", type=int, default=400, metavar="N", help="emoji, in a fixed random order (default: %(default)s)")
    add("--out", type=Path, default=OUT, metavar="FILE", help="the rows")
    return parser


def _run(options: argparse.Namespace) -> None:
    folder = CACHE / str(options.pictures)
    biased = CACHE / "biased"
    if not biased.is_dir():
        biased.parent.mkdir(parents=True, exist_ok=True)
        planted_bundle(biased)
    rows = []
    for name, bundle, corner in (("planted", biased, True), ("unseen", None, True), ("none", biased, False)):
        pictures = folder / ("corner" if corner else "plain")
        if not pictures.is_dir():
            _write(pictures, options.pictures, corner)
        explainer = Explainer(bundle, provider="cpu", precision="fp32", threads=1)
        with Bar(False, name, "picture") as bar:
            index = Index.build(
                folder / name, explainer, pictures, method=Rise(masks=MASKS), progress=bar.show, notice=notice
            )
        rows.append({"name": name, **_row(index), "masks": MASKS, "seed": SEED, **circumstances((*PACKAGES, "pylance"))})
        say(json.dumps(rows[-1]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.out, (json.dumps(rows, indent=1) + "\n").encode())


def _row(index: Index) -> dict[str, Any]:
    began = time.process_time()
    audit = index.audit(SAMPLE, seed=SEED)
    spent = time.process_time() - began
    found = {group.name: {r.region: vars(r.times) for r in group.found} for group in audit.biased}
    corners = {g.name: vars(r.times) for g in audit.groups for r in g.regions if r.region == WHERE}
    others = {name: times for name, times in corners.items() if name not in (ALL, f"folder {PLANTED}")}
    strongest = max(others, key=lambda name: others[name]["mean"])
    about = {name: getattr(audit, name) for name in ("rows", "queries", "k", "duplicates", "unreadable")}
    return {
        **about,
        "found": found,
        WHERE: corners[ALL],
        "planted": corners[f"folder {PLANTED}"],
        "other": others[strongest],
        "cpu_s_per_query": spent / audit.queries,
    }


def planted_bundle(out: Path) -> None:
    """Write the demo network with one more number in its embedding: how magenta the top left corner is."""
    bundle = load_bundle(demo_bundle())
    graph = bundle.manifest.graph("similarity", "fp32", "cpu")
    assert graph is not None
    model, seen = onnx.load(bundle.folder / graph.file), bundle.manifest.preprocessing
    # red + blue - 2 green - 1/2 of the pixels as they were before they were normalised
    signs = np.array([1, -2, 1], np.float32)
    tensors = {
        "corner_from": np.zeros(2, np.int64),
        "corner_to": np.full(2, CORNER, np.int64),
        "corner_axes": np.array([2, 3], np.int64),
        "corner_w": (signs * np.array(seen.std, np.float32)).reshape(1, 3, 1, 1),
        "corner_b": np.array([float(signs @ np.array(seen.mean)) - 0.5], np.float32),
        "corner_scale": np.array([WEIGHT], np.float32),
        "corner_shape": np.array([-1, 1], np.int64),
    }
    given, embedding = model.graph.input[0].name, model.graph.output[0].name
    node = helper.make_node
    model.graph.node.extend(
        [
            node("Slice", [given, "corner_from", "corner_to", "corner_axes"], ["corner"]),
            node("Conv", ["corner", "corner_w", "corner_b"], ["corner_linear"], kernel_shape=[1, 1]),
            node("Relu", ["corner_linear"], ["corner_seen"]),
            node("GlobalAveragePool", ["corner_seen"], ["corner_mean"]),
            node("Mul", ["corner_mean", "corner_scale"], ["corner_scaled"]),
            node("Reshape", ["corner_scaled", "corner_shape"], ["corner_number"]),
            node("LpNormalization", [embedding], ["unit"], axis=1, p=2),
            node("Concat", ["unit", "corner_number"], ["planted"], axis=1),
        ]
    )
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in tensors.items())
    size = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("planted", onnx.TensorProto.FLOAT, ["batch", size + 1]))
    path = out.with_name(f"{out.name}.onnx")
    onnx.save(model, path)
    export_similarity(OnnxSource(path, sure=True), seen, out)


def with_corner(picture: Image.Image) -> Image.Image:
    """Return a copy of a picture with the coloured corner, in proportion to its size."""
    marked, side = picture.convert("RGB"), max(picture.size) * CORNER // 64
    marked.paste(COLOUR, (0, 0, side, side))
    return marked


def _write(folder: Path, count: int, corner: bool) -> None:
    """Write emoji into folders of their groups; the whole appears at once."""
    beside = folder.with_name(f"{folder.name}.unfinished")
    for group, name, picture in _drawn(count):
        (beside / group).mkdir(parents=True, exist_ok=True)
        (with_corner(picture) if corner and group == PLANTED else picture).save(beside / group / name)
    beside.rename(folder)


def _drawn(count: int) -> Iterator[tuple[str, str, Image.Image]]:
    data = emoji_data.load_pair(EMOJI)
    for k in np.random.default_rng(SEED).permutation(len(data.base))[:count].tolist():
        true = {data.attributes[a] for a in np.flatnonzero(data.truth[k])}
        group = next((one for one in GROUPS if one in true), "other")
        yield group, f"{k:04}.png", load_picture(Image.fromarray(data.pictures["google"][data.base[k]]))


if __name__ == "__main__":
    raise SystemExit(main())
