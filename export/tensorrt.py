"""Build TensorRT engines for a bundle before it is deployed, on a machine with the GPU that will run it.

Otherwise `engine.runtime.gpu_session` builds them when it first loads the bundle, which takes minutes. These are the same,
built with the same options under the same names. Beside each engine lie `build.json` and `context.onnx`, ONNX Runtime's EP
context: the graph as one node that holds the engine, for other programs. No GPU has run this module yet: what is built, the
names, the options, and that nothing is left half-written are tested with a stand-in for TensorRT.
"""

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.bundle import Bundle, graph_digest, load_bundle
from engine.bundle.manifest import Graph
from engine.errors import BundleError, OptionError
from engine.protocol import Notice
from engine.runtime.gpu_device import as_provider_error, shared_device
from engine.runtime.gpu_opening import tensorrt_folder, tensorrt_session, versions_of
from engine.runtime.gpu_options import (
    LADDER,
    WHOLE_PROFILE,
    Profile,
    Setting,
    Versions,
    cache_key,
    largest_that_fits,
    masked_profile,
    tensorrt_options,
)
from engine.runtime.opening import CANONICAL_TOLERANCE
from engine.runtime.precision import choose_precision
from engine.runtime.providers import require_gpu
from engine.runtime.session import run_finite
from engine.runtime.tensorrt_cache import publish, staging
from engine.terminal import notice
from export.write import as_output_error

CONTEXT, BUILD_RECORD = "context.onnx", "build.json"


@dataclasses.dataclass(frozen=True)
class EngineBuild:
    """One engine to build. profiles: batches to try in this order, until one fits the memory of the device"""

    graph: Graph
    profiles: tuple[Profile, ...]

    def __str__(self) -> str:
        first, *others = self.profiles
        ladder = f", else {', '.join(str(p.most) for p in others)}" if others else ""
        batches = f"batches of {first.most}" if first.fixed else f"batches of {first.least} to {first.most}"
        return f"{self.graph.file} ({self.graph.precision}), {batches}{ladder}"


@dataclasses.dataclass(frozen=True)
class Built:
    """A TensorRT engine that is there now. folder: named by the engine's key; seconds: 0 if it was there before"""

    graph: str
    profile: Profile
    folder: Path
    seconds: float


def build_engines(options: argparse.Namespace) -> str:
    """Build the engines, or with --list only plan them, and say for people which they are."""
    bundle = load_bundle(options.bundle)
    jobs = planned(bundle, options.precision, options.batches)
    if options.list:
        return "\n".join(map(str, jobs))
    done = prebuild(bundle, jobs, options.out, notice)
    lines = [
        f"{b.graph}, batches of {b.profile}: {b.folder.name}, {f'{b.seconds:.0f} s' if b.seconds else 'already there'}"
        for b in done
    ]
    return "\n".join([*lines, f"wrote {options.out or tensorrt_folder()}"])


def planned(bundle: Bundle, precision: str = "auto", batches: Sequence[int] = LADDER) -> list[EngineBuild]:
    """Return the engines that this bundle needs on a GPU, without the gradient of method mask.

    precision: of the similarity graph; auto: as it is chosen when a bundle is loaded; batches: of masked pictures, to try in
    this order
    Raises OptionError.
    """
    if not batches or any(not 1 <= batch <= max(LADDER) for batch in batches):
        raise OptionError(f"batches must be numbers from 1 to {max(LADDER)}, got {', '.join(map(str, batches)) or 'none'}")
    manifest = bundle.manifest
    chosen = choose_precision(manifest, bundle.precision, "tensorrt")[0] if precision == "auto" else precision
    similarity, attributes = manifest.graph("similarity", chosen, "gpu"), manifest.graph("attributes", "fp32", "gpu")
    if similarity is None:
        raise OptionError(f"{bundle.folder} has no {chosen} graph for GPUs; `python -m export quantize` makes fp16 and int8")
    jobs = [EngineBuild(similarity, (WHOLE_PROFILE,)), EngineBuild(similarity, tuple(masked_profile(b) for b in batches))]
    return jobs if attributes is None else [*jobs, EngineBuild(attributes, (WHOLE_PROFILE,))]


def prebuild(bundle: Bundle, jobs: Sequence[EngineBuild], out: Path | None, notice: Notice) -> list[Built]:
    """Build engines in the folder `out`, None for the usual cache folder; each appears complete or not at all.

    notice: gets a line for each step that takes a long time
    Raises ProviderError, before anything is written, if a GPU, its driver or a package is missing; BundleError; OutputError.
    """
    require_gpu("tensorrt")
    device = shared_device()
    versions = versions_of(device.ordinal, device.capability)
    done = []
    folder = out or tensorrt_folder()
    with as_output_error(folder), staging(folder) as place:
        builder = _EngineBuilder(bundle, device, versions, folder, place, notice)
        for job in jobs:
            by_batch = {profile.most: profile for profile in job.profiles}
            attempt = functools.partial(builder.build, job.graph, by_batch)
            done.append(largest_that_fits(attempt, list(by_batch)))
    return done


def context_options(folder: Path) -> dict[str, str]:
    """Return options that replace some of the usual TensorRT options: the EP context goes to `folder`, the engine beside it.

    With an EP context, ONNX Runtime reads the engine's path relative to the context's folder, and refuses one outside it.
    """
    return {
        "trt_engine_cache_path": ".",
        "trt_dump_ep_context_model": "True",
        "trt_ep_context_file_path": str(folder / CONTEXT),
        "trt_ep_context_embed_mode": "0",  # the TensorRT engine stays a file, which engine.runtime finds too
        "trt_cuda_graph_enable": "False",  # a CUDA graph needs bound memory, and the TensorRT engine is the same without
    }


@dataclasses.dataclass(frozen=True)
class _EngineBuilder:
    """Builds one TensorRT engine after another. device: a kernels.device.Device; staging: the folder, inside `folder`, to
    build them in
    """

    bundle: Bundle
    device: Any
    versions: Versions
    folder: Path
    staging: Path
    notice: Notice

    def build(self, graph: Graph, profiles: Mapping[int, Profile], batch: int) -> Built:
        """Build the engine for the profile of this batch, unless it is there; lets an out-of-memory error pass unchanged."""
        profile, digest = profiles[batch], graph_digest(self.bundle, graph)
        setting = self._setting(graph, profile)
        key = cache_key(setting, digest, self.versions)
        if (self.folder / key / BUILD_RECORD).is_file():
            return Built(graph.file, profile, self.folder / key, 0.0)
        self.notice(f"tensorrt on {self.device.name}: building {graph.file} for batches of {profile}")
        began, made = time.perf_counter(), self.staging / key
        made.mkdir(exist_ok=True)
        self._build(graph, setting, digest, made)
        built = Built(graph.file, profile, self.folder / key, time.perf_counter() - began)
        record: dict[str, object] = {"graph": graph.file, "sha256": digest, "precision": graph.precision}
        record |= {"profile": dataclasses.asdict(profile), **dataclasses.asdict(self.versions), "seconds": built.seconds}
        (made / BUILD_RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        publish(self.staging, self.folder, key)  # may replace one that loading the bundle made, without context and record
        return built

    def _setting(self, graph: Graph, profile: Profile) -> Setting:
        """Return the same setting as `engine.runtime.gpu_session` makes."""
        shape, place = self.bundle.manifest.preprocessing.input_shape, (self.device.ordinal, self.device.stream)
        return Setting("tensorrt", graph.precision, graph.input, shape, profile, *place, graphs=profile.fixed)

    def _build(self, graph: Graph, setting: Setting, digest: str, made: Path) -> None:
        """Build the engine in the folder `made` and run it once; raises BundleError if its result is not canonical."""
        bundle, path = self.bundle, self.bundle.folder / graph.file
        picture = bundle.manifest.preprocessing.normalised(bundle.canonical["picture"][None])
        rows = np.repeat(picture, setting.profile.most, axis=0)

        def do() -> np.ndarray:
            options = tensorrt_options(setting, self.staging, digest, self.versions)
            session = tensorrt_session(path, {**options, **context_options(made)})
            return run_finite(session, path, [graph.output], {graph.input: rows})[0][-1]

        with as_provider_error(f"cannot run {path}"):
            output = self.device.call(do)
        got = output if output.ndim == 1 else output.mean((1, 2))
        expected = bundle.canonical[graph.file]
        if not np.abs(got - expected).max() <= CANONICAL_TOLERANCE[graph.precision] * np.abs(expected).max():
            raise BundleError(
                f"the TensorRT engine of {path} does not give its canonical result and is not kept; try another --precision"
            )
        if not any(file.name != CONTEXT for file in made.iterdir()):
            raise BundleError(f"ONNX Runtime wrote no TensorRT engine of {path}; install a version that writes one")
