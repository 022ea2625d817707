"""Builds TensorRT's engines for a bundle ahead of its deployment, on a machine with the GPU that will run it.

The engine (`engine.runtime.gpu_session`) would build them when it first loads a bundle, which takes minutes; these are the same,
by the same options and under the same names. Beside each one lie `context.onnx`, ONNX Runtime's EP context: the graph as one node
that holds the engine, for other programs, and `build.json`. No GPU has run this yet: the plan, the names, the options, and
that nothing is left half-written are tested, with a stand-in for TensorRT.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.bundle import Bundle, graph_digest, load_bundle
from engine.bundle.manifest import Graph
from engine.errors import BundleError, OptionError, OutputError
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

CONTEXT, BUILD_RECORD = "context.onnx", "build.json"


@dataclasses.dataclass(frozen=True)
class EngineBuild:
    """One engine to build. profiles: the batches it may be for, the first of them that the device's memory holds"""

    graph: Graph
    profiles: tuple[Profile, ...]

    def __str__(self) -> str:
        first, *others = self.profiles
        ladder = f", else {', '.join(str(p.most) for p in others)}" if others else ""
        batches = f"batches of {first.most}" if first.fixed else f"batches of {first.least} to {first.most}"
        return f"{self.graph.file} ({self.graph.precision}), {batches}{ladder}"


@dataclasses.dataclass(frozen=True)
class Built:
    """folder: in which the engine lies, named by its key; seconds: 0 where it was there already"""

    graph: str
    profile: Profile
    folder: Path
    seconds: float


def build_engines(options: argparse.Namespace) -> str:
    """What was built, or with --list would be, for people."""
    bundle = load_bundle(options.bundle)
    jobs = planned(bundle, options.precision, options.batches)
    if options.list:
        return "\n".join(map(str, jobs))
    done = prebuild(bundle, jobs, options.out, lambda line: print(line, file=sys.stderr))
    lines = [
        f"{b.graph}, {b.profile}: {b.folder.name}, {f'{b.seconds:.0f} s' if b.seconds else 'there already'}" for b in done
    ]
    return "\n".join([*lines, f"wrote {options.out or tensorrt_folder()}"])


def planned(bundle: Bundle, precision: str = "auto", batches: Sequence[int] = LADDER) -> list[EngineBuild]:
    """What the engine would ask TensorRT for, with this bundle on a GPU; the gradient of method mask is not among it.

    precision: of the similarity graph, auto: as the engine chooses; batches: of masked pictures, to be tried in turn
    Raises OptionError.
    """
    if not batches or any(not 1 <= batch <= max(LADDER) for batch in batches):
        raise OptionError(f"batches must be numbers from 1 to {max(LADDER)}, got {', '.join(map(str, batches)) or 'none'}")
    manifest = bundle.manifest
    chosen = choose_precision(manifest, bundle.precision, "tensorrt")[0] if precision == "auto" else precision
    similarity, attributes = (manifest.graph(r, p, "gpu") for r, p in (("similarity", chosen), ("attributes", "fp32")))
    if similarity is None:
        raise OptionError(f"{bundle.folder} has no {chosen} graph for GPUs; `python -m export quantize` makes fp16 and int8")
    jobs = [EngineBuild(similarity, (WHOLE_PROFILE,)), EngineBuild(similarity, tuple(masked_profile(b) for b in batches))]
    return jobs if attributes is None else [*jobs, EngineBuild(attributes, (WHOLE_PROFILE,))]


def prebuild(bundle: Bundle, jobs: Sequence[EngineBuild], out: Path | None, notice: Notice) -> list[Built]:
    """Build engines in `out`, None: where the engine looks for them; each appears whole or not at all.

    notice: told, in lines, what is going on. Raises ProviderError, before anything is written, where a GPU, its driver or a
    package is missing; BundleError, OutputError.
    """
    require_gpu("tensorrt")
    device = shared_device()
    versions = versions_of(device.ordinal, device.capability)
    done = []
    folder = out or tensorrt_folder()
    with _written(folder), staging(folder) as place:
        shop = _Workshop(bundle, device, versions, folder, place, notice)
        for job in jobs:
            by_batch = {profile.most: profile for profile in job.profiles}
            attempts = functools.partial(shop.built_by_batch, job.graph, by_batch)
            done.append(largest_that_fits(attempts, list(by_batch)))
    return done


def context_options(folder: Path) -> dict[str, str]:
    """Over the usual options of TensorRT: the EP context in `folder`, and the engine beside it.

    With an EP context ONNX Runtime takes the engine's path from the context's folder, and refuses one that leads out of it.
    """
    return {
        "trt_engine_cache_path": ".",
        "trt_dump_ep_context_model": "True",
        "trt_ep_context_file_path": str(folder / CONTEXT),
        "trt_ep_context_embed_mode": "0",  # the engine stays a file, which the engine finds too
        "trt_cuda_graph_enable": "False",  # an engine is the same with and without; runs here are not over bound memory
    }


@dataclasses.dataclass(frozen=True)
class _Workshop:
    """Builds one engine after another. device: a kernels.device.Device; staging: where they are built, inside `folder`"""

    bundle: Bundle
    device: Any
    versions: Versions
    folder: Path
    staging: Path
    notice: Notice

    def built_by_batch(self, graph: Graph, profiles: Mapping[int, Profile], batch: int) -> Built:
        """Raises what says that memory did not suffice as it comes."""
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
        publish(self.staging, self.folder, key)  # over an engine that the engine built: that has no context and no record
        return built

    def _setting(self, graph: Graph, profile: Profile) -> Setting:
        """As `engine.runtime.gpu_session` has it."""
        shape, place = self.bundle.manifest.preprocessing.input_shape, (self.device.ordinal, self.device.stream)
        return Setting("tensorrt", graph.precision, graph.input, shape, profile, *place, graphs=profile.fixed)

    def _build(self, graph: Graph, setting: Setting, digest: str, made: Path) -> None:
        """The engine in `made`, run once; raises BundleError where it does not give the canonical result."""
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
            raise BundleError(f"TensorRT's engine of {path} does not give its canonical result; it was not kept")
        if not any(file.name != CONTEXT for file in made.iterdir()):
            raise BundleError(f"ONNX Runtime wrote no engine of {path}")


@contextlib.contextmanager
def _written(folder: Path) -> Iterator[None]:
    """The system's errors as an OutputError about `folder`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
