"""Every command that writes, over a small set of pictures and bundles; and how to tell that what it wrote is whole."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from helpers import DATA, copy_bundle, write_blurred, write_demo_labels, write_demo_pairs
from PIL import Image

from engine import Explainer, Explanation, Rise, explain
from engine.bundle import demo_bundle, load_bundle
from engine.evaluate import attributes, command
from engine.runtime.opening import verify_graph
from engine.terminal import run_command
from export import calibration, commands, quantize  # noqa: F401 - loaded once, for every fork
from export.commands import main as export_main


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that writes. run: in the work folder, gives its status; outputs: with the check of each, which raises"""

    name: str
    run: Callable[[], int]
    outputs: dict[str, Callable[[Path], object]]


def whole_bundle(folder: Path) -> None:
    """Load a bundle, which verifies every sum, and run its graphs."""
    bundle = load_bundle(folder)
    for graph in bundle.manifest.graphs:
        if graph.target != "gpu":
            verify_graph(bundle, graph)


def whole_picture(file: Path) -> None:
    """Decode a picture."""
    with Image.open(file) as picture:
        picture.load()


def whole_page(file: Path) -> None:
    """A page ends as pages do."""
    assert file.read_text().rstrip().endswith("</html>"), file


def whole_lines(file: Path) -> None:
    """All lines are JSON but for what follows the last line end."""
    for line in file.read_text().split("\n")[:-1]:
        json.loads(line)


def save_prepared() -> int:
    """As a service does it, which ends as a command does."""
    return run_command(lambda: Explainer(precision="fp32").prepare("cat-noto.png", Rise(masks=64)).save("prepared.npz"))


WHOLE: dict[str, Callable[[Path], object]] = {
    ".png": whole_picture,
    ".html": whole_page,
    ".json": lambda file: json.loads(file.read_text()),
    ".npz": Explanation.load,
    ".jsonl": whole_lines,
}


def commands_in(folder: Path) -> list[Command]:
    """Everything that writes; makes what they read."""
    write_demo_pairs(folder), write_demo_labels(folder)
    (folder / "blurred").mkdir()
    write_blurred(folder / "blurred", 12, 80)
    for name in ("vectors", "calibrated", "quantized"):
        copy_bundle(demo_bundle(), folder / name)
    values = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    np.savez(folder / "vectors.npz", names=np.array(["one", "two"]), vectors=values)
    pair = ["cat-noto.png", "cat-twemoji.png", "--masks", "64", "--quiet", "--out"]
    found = [_command(f"explain --out {s}", explain.main, [*pair, f"why{s}"], f"why{s}") for s in list(WHOLE)[:4]]
    found.append(
        Command(
            "Prepared.save", save_prepared, {"prepared.npz": lambda file: Explainer(precision="fp32").load_prepared(file)}
        )
    )
    few = ["--methods", "rise,random", "--masks", "32", "--limit", "2", "--quiet", "--out", "report.json"]
    reports = [f"report.{end}" for end in ("json", "png", "html", "rows.jsonl")]
    found.append(_command("evaluate", command.main, ["pairs.csv", *few], *reports))
    few = ["--images", ".", "--masks", "32", "--pairs-limit", "2", "--quiet", "--out", "judged.json"]
    found.append(_command("evaluate.attributes", attributes.main, ["labels.csv", *few], "judged.json"))
    size = ["--size", "112", "--mean", "0.485", "0.456", "0.406", "--std", "0.229", "0.224", "0.225"]
    for given, arguments, out in (
        ("similarity", ["--onnx", str(DATA / "tiny_general.onnx"), *size, "--out", "exported"], "exported"),
        ("attributes", ["vectors", "--vectors", "vectors.npz"], "vectors"),
        ("calibrate", ["calibrated", "--images", ".", "--labels", "labels.csv"], "calibrated"),
        ("quantize", ["quantized", "--images", "blurred", "--targets", "cpu", "--time-limit", "15", "--quiet"], "quantized"),
    ):
        found.append(_command(f"export {given}", export_main, [given, *arguments], out))
    return found


def _command(name: str, main: Callable[[list[str]], int], arguments: list[str], *outputs: str) -> Command:
    def run() -> int:
        try:
            return main(arguments)
        except SystemExit as error:
            return int(error.code or 0)

    return Command(name, run, {out: WHOLE.get(Path(out).suffix, whole_bundle) for out in outputs})
