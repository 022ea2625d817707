"""What runs a model: what was asked for, or for "auto" the first GPU provider that really runs it, else the CPU's cheapest.

On a CPU every runtime that is installed is measured, in every precision whose maps are as good as fp32's.
"""

from collections.abc import Sequence
from pathlib import Path

from engine.bundle import Bundle, load_bundle
from engine.errors import EngineError
from engine.model import LoadedModel, timing_setting
from engine.protocol import Notice
from engine.runtime.batch_size import kept_timing
from engine.runtime.precision import choose_precision, faithful_precisions, graph_of
from engine.runtime.providers import GPU_PROVIDERS, RUNTIME_PROVIDERS, cpu_runtimes, driver_found, providers_named

WORTH_A_CHANGE = 0.9
"""Another runtime or precision than the default one is taken if a pass costs at most this share: timings are not exact."""


def load_model(folder: Path, provider: str, precision: str, threads: int | None, notice: Notice) -> tuple[LoadedModel, str]:
    """Load a model on the provider asked for, or for auto as above. Returns why, in one line.

    Raises BundleError, ProviderError, OptionError.
    """
    names, missing = providers_named(provider)
    bundle = load_bundle(folder)
    if provider != "auto":
        return LoadedModel(bundle, provider, precision, threads, notice), "asked for"
    reasons = [missing] if missing else []
    gpus = [name for name in names if name in GPU_PROVIDERS]
    if not gpus and driver_found():
        notice(f"auto skips the GPU: {missing}; {RUNTIME_PROVIDERS['cuda'][1]}")
    for name in gpus:
        try:
            return LoadedModel(bundle, name, precision, threads, notice), "; ".join(["the first that runs", *reasons])
        except EngineError as error:  # if the bundle is to blame, the CPU raises the same below
            reasons.append(f"{name} does not run: {error}")
        notice(reasons[-1])
    model, why = _cheapest(bundle, precision, threads, notice)
    return model, "; ".join([*reasons, *why])


def _cheapest(bundle: Bundle, precision: str, threads: int | None, notice: Notice) -> tuple[LoadedModel, list[str]]:
    """Return the model as it runs at the least cost on this CPU, and why: what a pass costs in each way."""
    default, why_default = choose_precision(bundle.manifest, bundle.precision, "cpu")
    first, *others = _ways(bundle, precision, default)

    def opened_as(way: tuple[str, str]) -> LoadedModel:
        if precision != "auto":
            return LoadedModel(bundle, *way, threads, notice)
        cheapest = "its maps are as good as fp32's by the bundle's report, and it costs least here"
        return LoadedModel(bundle, *way, threads, notice, why_default if way == first else cheapest)

    if not others:
        return opened_as(first), []
    opened: dict[tuple[str, str], LoadedModel] = {}
    seconds: dict[tuple[str, str], float] = {}
    failed = []
    for way in (first, *others):
        kept = kept_timing(bundle.manifest.preprocessing, timing_setting(bundle, *way, threads))
        if kept is not None:
            seconds[way] = kept.row_seconds
            continue
        try:
            opened[way] = opened_as(way)
            seconds[way] = opened[way].pass_seconds
        except EngineError as error:
            if way == first:
                raise
            failed.append(f"{way[0]} does not run {way[1]}: {error}")
            notice(failed[-1])
            continue
        opened = {best: model for best, model in opened.items() if best == _best(seconds, first)}  # frees the others
    model = None
    while model is None:
        best = _best(seconds, first)
        try:
            model = opened.get(best) or opened_as(best)
        except EngineError as error:  # what was measured before may be gone, or broken
            if best == first:
                raise
            del seconds[best]
            failed.append(f"{best[0]} does not run {best[1]}: {error}")
            notice(failed[-1])
    costs = ", ".join(f"{way[0]} {way[1]} {1000 * cost:.3g}" for way, cost in seconds.items())
    return model, [f"milliseconds of a pass here: {costs}", *failed]


def _best(seconds: dict[tuple[str, str], float], first: tuple[str, str]) -> tuple[str, str]:
    least = min(seconds, key=lambda way: seconds[way])
    return least if seconds[least] <= WORTH_A_CHANGE * seconds[first] else first


def _ways(bundle: Bundle, precision: str, default: str) -> Sequence[tuple[str, str]]:
    """Return what may run the bundle on a CPU, as (provider, precision), the default one first. default: for auto"""
    manifest, report = bundle.manifest, bundle.precision
    if manifest.base.second_input is not None:
        return [("cpu", default if precision == "auto" else precision)]
    if precision != "auto":
        able = [runtime for runtime in cpu_runtimes() if graph_of(manifest, "similarity", runtime, precision) is not None]
        return [(runtime, precision) for runtime in able or ["cpu"]]
    ways = [(runtime, one) for runtime in cpu_runtimes() for one in faithful_precisions(manifest, report, runtime)]
    return list(dict.fromkeys([("cpu", default), *ways]))
