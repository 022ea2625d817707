"""Add int8 and fp16 graphs to a bundle, and a report of how close each is to the fp32 graph."""

import dataclasses
import importlib.metadata
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from engine.bundle import PRECISION, Bundle, load_bundle
from engine.bundle.report import REPORT_ESTIMATORS, TARGETS, GraphFidelity, MapFidelity, Report
from engine.errors import EngineError, OptionError
from engine.pictures.reading import AS_USUAL, Reading
from export.fidelity import ESTIMATOR, Fp32Comparison, GraphRuns
from export.graph_trials import (
    COMPARED_MASKS,
    LEAST_COMPARED,
    MOST_COMPARED_MASKS,
    REPORT_SEED,
    GraphTrials,
    QuantizedGraph,
)
from export.int8_search import Found, Int8Search
from export.masked import Pictures, read_masked
from export.timekeeper import TIME_LIMIT, Timekeeper
from export.token_int8 import TOKENS_INT8, Int8Tokens, canonical_tokens, int8_tokens
from export.write import canonical_of, check_free, copy_without, finish, replacing

INT8_CPU, INT8_GPU, FP16 = "similarity.int8-cpu.onnx", "similarity.int8-gpu.onnx", "similarity.fp16.onnx"
RESERVED_QUERIES = 4
"""Pictures of the report that the searches leave time for."""


@dataclasses.dataclass(frozen=True)
class Quantized:
    """The result. report: None if nothing was written, because no graph gains anything

    remarks: by file, why a graph was left out, or which nodes keep it from passing; unreadable: files of the folder that
    are not pictures
    """

    report: Report | None
    remarks: dict[str, str]
    unreadable: list[Path]


def export_quantized(
    bundle: Path,
    images: Path,
    targets: Sequence[str] = TARGETS,
    *,
    time_limit: float = TIME_LIMIT,
    quiet: bool = True,
    reading: Reading = AS_USUAL,
) -> Quantized:
    """Add int8 for CPUs, and fp16 and symmetric int8 for GPUs, to a bundle, with a report; its identity stays the same.

    images: folder of at least 4 pictures, in it or in its subfolders, like those that will be explained; a quarter is kept
        for the report only
    targets: cpu, gpu or both
    time_limit: seconds after which the best graphs so far are taken; fewer pictures are compared if a network is slow
    quiet: tell nothing on standard error; reading: how the pictures are read

    Earlier quantized graphs are replaced. Int8 for CPUs is left out if it is not faster than fp32 here; if nothing else is
    asked for, the bundle stays as it was. Raises an EngineError, and leaves the bundle as it was, if that fails.
    """
    bundle, images = Path(bundle), Path(images)
    if not targets or not set(targets) <= set(TARGETS):
        raise OptionError(f"targets must be some of {', '.join(TARGETS)}, got {', '.join(targets) or 'none'}")
    keeper = Timekeeper(time_limit, quiet)
    before = load_bundle(bundle)
    if before.manifest.base.second_input is not None:
        raise OptionError(f"{bundle} takes two pictures at once: only networks of one picture are quantized; use it in fp32")
    check_free(bundle)
    pictures = read_masked(images, before.manifest.preprocessing, keeper, reading)
    keeper.say(f"read {len(pictures.calibration)} pictures to calibrate on, {len(pictures.held_out)} for the report")
    with tempfile.TemporaryDirectory() as folder:
        trials = GraphTrials(before, pictures, Path(folder), keeper)
        searches, found = _search(trials, targets)
        made, measured = _reported(before, pictures, trials, found)
        graphs = {} if measured is None else measured.report.graphs
        failed = [file for file in searches if file in graphs and not graphs[file].passes]
        if failed and keeper.left > 2 * _reserved(trials, len(made)):
            found |= {file: searches[file].again(keeper.limit - _reserved(trials, len(made))) for file in failed}
            made, measured = _reported(before, pictures, trials, found)
        report, tokens = None, Int8Tokens()
        if measured is not None:
            tokens = _tokens(before, pictures, trials, [one for one in made if one.graph.file == INT8_CPU])
            report = _with_tokens(_with_other_maps(measured, trials), tokens)
            made += [] if tokens.made is None else [tokens.made]
    if report is not None:
        _write(before, made, report)
        keeper.say("done")
    passed = [file for file, one in report.graphs.items() if one.passes] if report is not None else []
    remarks = {file: one.remark for file, one in found.items() if one.remark and file not in passed}
    remarks |= {TOKENS_INT8: tokens.remark} if tokens.remark else {}
    return Quantized(report, remarks, pictures.unreadable)


def _reserved(trials: GraphTrials, graphs: int) -> float:
    """Return the seconds that a short report takes. graphs: how many, beside fp32"""
    return RESERVED_QUERIES * COMPARED_MASKS * trials.pass_seconds * (1 + graphs)


@dataclasses.dataclass(frozen=True, eq=False)
class _Measured:
    """A report, and what its graphs gave.

    masked: so many pictures were; graphs: all of them, fp32 first; runs: by file; bf16: None if there is none
    """

    report: Report
    comparison: Fp32Comparison
    masked: int
    graphs: list[GraphRuns]
    runs: dict[str, GraphRuns]
    bf16: GraphRuns | None


def _reported(
    before: Bundle, pictures: Pictures, trials: GraphTrials, found: dict[str, Found]
) -> tuple[list[QuantizedGraph], _Measured | None]:
    """Return the graphs that were found, and their report if there are any."""
    made = [one.made for one in found.values() if one.made is not None]
    return made, _report(before, pictures, trials, made) if made else None


def _search(trials: GraphTrials, targets: Sequence[str]) -> tuple[dict[str, Int8Search], dict[str, Found]]:
    """Return the searches for int8, and all graphs to write, by the names of their files."""
    keeper = trials.keeper
    files = {"cpu": INT8_CPU, "gpu": INT8_GPU}
    targets = [target for target in TARGETS if target in targets]
    # runs of fp32, of an int8 graph for each target and, for GPUs, of fp16
    reserved = _reserved(trials, len(targets) + ("gpu" in targets)) + _of_tokens(trials)
    searches, found = {}, {}
    for i, target in enumerate(targets):
        share = max(keeper.left - reserved, keeper.left / 2) / (len(targets) - i)
        search = searches[files[target]] = Int8Search(trials, files[target], target, keeper.spent + share)
        found[files[target]] = search.run()
    if "gpu" in targets:
        found[FP16] = Found(trials.fp16(FP16))
    return searches, found


def _report(bundle: Bundle, pictures: Pictures, trials: GraphTrials, made: list[QuantizedGraph]) -> _Measured:
    """Compare the graphs on the held-out pictures: with each of them masked, or with as many as there is time for."""
    keeper, count = trials.keeper, len(pictures.held_out)
    comparison = trials.comparison(pictures.held_out, COMPARED_MASKS, REPORT_SEED, MOST_COMPARED_MASKS)
    runs = {one.graph.file: comparison.runs(trials.session(one)) for one in made}
    session = trials.bf16_session() if any(one.graph.target == "cpu" for one in made) else None
    bf16 = None if session is None else comparison.runs(session)
    graphs = [comparison.base, *runs.values(), *([] if bf16 is None else [bf16])]
    each = COMPARED_MASKS * trials.pass_seconds * len(graphs)
    masked = _run_in_time(keeper, graphs, count, COMPARED_MASKS, each, LEAST_COMPARED)
    agreements = {file: comparison.agreement(one, range(masked)) for file, one in runs.items()}
    in_bf16 = None if bf16 is None else comparison.agreement(bf16, range(masked))
    report = Report(
        identity=bundle.identity,
        calibration_pictures=len(pictures.calibration),
        held_out_pictures=count,
        pairs=masked * (count - 1),
        masks=COMPARED_MASKS,
        seed=REPORT_SEED,
        measured_on="cpu",
        machine=platform.machine(),
        versions={name: importlib.metadata.version(name) for name in ("numpy", "onnx")} | {"onnxruntime": ort.__version__},
        graphs={
            one.graph.file: agreements[one.graph.file].reported(one.speed, one.calibration, one.kept_fp32) for one in made
        },
        estimator=ESTIMATOR,
        bf16=None if in_bf16 is None else in_bf16.reported(trials.bf16_speed(), "none needed"),
    )
    return _Measured(report, comparison, masked, graphs, runs, bf16)


def _with_other_maps(measured: _Measured, trials: GraphTrials) -> Report:
    """Return the report with maps that decide nothing, as far as time allows."""
    keeper, report, graphs = trials.keeper, measured.report, measured.graphs
    each = (MOST_COMPARED_MASKS - COMPARED_MASKS) * trials.pass_seconds * len(graphs)
    more = _run_in_time(keeper, graphs, measured.masked, MOST_COMPARED_MASKS, each)

    def extended(fidelity: GraphFidelity, runs: GraphRuns) -> GraphFidelity:
        return dataclasses.replace(fidelity, other_maps=_other_maps(keeper, measured, runs, more))

    return dataclasses.replace(
        report,
        graphs={file: extended(one, measured.runs[file]) for file, one in report.graphs.items()},
        bf16=None if report.bf16 is None or measured.bf16 is None else extended(report.bf16, measured.bf16),
    )


def _run_in_time(keeper: Timekeeper, graphs: list[GraphRuns], count: int, masks: int, each: float, least: int = 0) -> int:
    """Run each graph over the first `count` pictures behind `masks` masks; return over how many there was time for.

    each: seconds that a picture is thought to take; least: so many in any case
    """
    what = f"measuring the report behind {masks} masks"
    keeper.say(f"{what} on {count} held-out pictures")
    done, began = 0, keeper.spent
    with keeper.bar(range(count), what) as queries:
        for query in queries:
            if done >= least and keeper.left < each:
                keeper.say(f"the time limit ended the report behind {masks} masks after {done} of {count} pictures")
                break
            for one in graphs:
                one.masked(query, masks)
            done += 1
            each = (keeper.spent - began) / done
    return done


def _tokens(before: Bundle, pictures: Pictures, trials: GraphTrials, similarity: list[QuantizedGraph]) -> Int8Tokens:
    """Quantize the tokens of a bundle that has such, beside its similarity graph for CPUs, if that was and time is left."""
    if not similarity or not trials.has_tokens:
        return Int8Tokens()
    keeper = trials.keeper
    if keeper.left < _of_tokens(trials):
        return Int8Tokens(remark=f"left out: no time was left; give a --time-limit above {keeper.limit:g}")
    try:
        return int8_tokens(before, pictures, trials, similarity[0])
    except EngineError as error:  # what was found so far is worth having
        return Int8Tokens(remark=f"left out: {error}")


def _of_tokens(trials: GraphTrials) -> float:
    """Return the seconds that a short report on tokens takes, in fp32 and int8: less than as many whole passes; else 0."""
    return LEAST_COMPARED * COMPARED_MASKS * trials.pass_seconds if trials.has_tokens else 0.0


def _with_tokens(report: Report, tokens: Int8Tokens) -> Report:
    if tokens.fidelity is None:
        return report
    return dataclasses.replace(report, graphs={**report.graphs, TOKENS_INT8: tokens.fidelity})


def _other_maps(keeper: Timekeeper, measured: _Measured, runs: GraphRuns, more: int) -> tuple[MapFidelity, ...]:
    """Return how well a graph's maps without a condition agree. more: pictures that were masked by MOST_COMPARED_MASKS"""
    found = []
    for estimator in REPORT_ESTIMATORS:
        for masks, queries in ((COMPARED_MASKS, measured.masked), (MOST_COMPARED_MASKS, more)):
            if (estimator, masks) == (ESTIMATOR, COMPARED_MASKS):
                continue  # which decide
            in_time = (query for query in range(queries) if keeper.left > 0)
            each = [measured.comparison.correlations(runs, query, None, estimator, masks) for query in in_time]
            maps = np.concatenate([np.empty(0), *each])
            if len(maps):  # all may be flat
                found.append(MapFidelity(estimator, masks, len(maps), float(maps.mean()), float(np.percentile(maps, 10))))
    return tuple(found)


def _write(before: Bundle, made: list[QuantizedGraph], report: Report) -> None:
    stale = [g for g in before.manifest.graphs if g.precision != "fp32"]
    kept = tuple(g for g in before.manifest.graphs if g not in stale)
    manifest = dataclasses.replace(before.manifest, graphs=(*kept, *(m.graph for m in made)))
    with replacing(before.folder) as folder:
        copy_without(before, stale, folder)
        for one in made:
            (folder / one.graph.file).write_bytes(one.content)
        (folder / PRECISION).write_text(report.to_json(), encoding="utf-8")
        picture = before.canonical["picture"]
        canonical = {name: before.canonical[name] for name in ("picture", *(g.file for g in kept))}
        shape = (manifest.embedding,)
        for one in made:
            of_tokens = one.graph.role == "tokens"
            canonical[one.graph.file] = (
                canonical_tokens(folder, one.graph, manifest, picture)
                if of_tokens
                else canonical_of(folder, one.graph, shape, manifest, picture)
            )
        finish(folder, manifest, None, canonical)
