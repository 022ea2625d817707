"""Which precision runs: what a bundle's report says of its faster graphs, and what this processor can do with them."""

import dataclasses
import json
import math
import platform
from pathlib import Path
from typing import Any

from engine.errors import BundleError, OptionError
from engine.manifest import Manifest

VERSION = 1
FAITHFUL = 0.999
"""Map correlation with fp32 that a graph must reach for "auto" to take it."""
TARGETS = ("cpu", "gpu")
"""What graphs of low precision are made for."""
CPUINFO = Path("/proc/cpuinfo")
INT8_FLAGS = ("avx512_vnni", "avx_vnni", "asimddp")
"""What Linux calls the processor's int8 dot products: VNNI on x86, dotprod on ARM."""


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How close one graph comes to the fp32 one on pictures it was not made with, behind masks.

    embedding_cosine_*: over all masked pictures; map_correlation_*: Pearson, over all pairs and conditions; p10: nine of ten
    pairs reach it
    speed: CPU time of the fp32 graph over that of this one, on one thread of the machine that measured it; None where that
    is not a machine the graph is for
    calibration: how its ranges were found; kept_fp32: names of the nodes left in fp32 because int8 costs too much there
    """

    embedding_cosine_mean: float
    embedding_cosine_least: float
    map_correlation_mean: float
    map_correlation_p10: float
    map_correlation_least: float
    speed: float | None
    calibration: str
    kept_fp32: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is float and not (_is_number(value) and -1 <= value <= 1):
                raise OptionError(f"{field.name} must be a number from -1 to 1, got {value!r}")
        if self.speed is not None and not (_is_number(self.speed) and self.speed > 0):
            raise OptionError(f"speed must be a number above 0 or null, got {self.speed!r}")
        if not isinstance(self.calibration, str) or not all(isinstance(name, str) for name in self.kept_fp32):
            raise OptionError("calibration and kept_fp32 must be text")

    @property
    def passes(self) -> bool:
        """The mean of the map correlations reaches 0.999, and so do nine pairs of ten."""
        return min(self.map_correlation_mean, self.map_correlation_p10) >= FAITHFUL

    def __str__(self) -> str:
        verdict = "passes" if self.passes else f"does not pass, {FAITHFUL} is needed"
        found = f"map correlation {self.map_correlation_mean:.5f} (nine of ten {self.map_correlation_p10:.5f}): {verdict}"
        faster = "" if self.speed is None else f"; {self.speed:.2f} times as fast as fp32"
        kept = f"; {len(self.kept_fp32)} nodes left in fp32" if self.kept_fp32 else ""
        return found + faster + kept


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What `python -m export quantize` measured. graphs: by file

    identity: of the model it was measured on; calibration_pictures, held_out_pictures: how many; pairs: ordered pairs of the
    latter; masks, seed: of the RISE plan, estimator "sane"; measured_on: provider; machine, versions: where
    """

    identity: str
    calibration_pictures: int
    held_out_pictures: int
    pairs: int
    masks: int
    seed: int
    measured_on: str
    machine: str
    versions: dict[str, str]
    graphs: dict[str, Fidelity]

    def to_json(self) -> str:
        fields = {**vars(self), "graphs": {file: dataclasses.asdict(f) for file, f in self.graphs.items()}}
        return json.dumps({"version": VERSION, **fields}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Raises BundleError where the text is no report of a version this engine reads."""
        try:
            fields: dict[str, Any] = json.loads(text)
            if fields.pop("version") != VERSION:
                raise BundleError(f"precision.json has another version than {VERSION}; quantize the bundle again")
            graphs = {file: _fidelity(f) for file, f in fields.pop("graphs").items()}
            return cls(**fields, graphs=graphs)
        except BundleError:
            raise
        except (OptionError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise BundleError(f"precision.json is not valid: {error}; quantize the bundle again") from error


def choose(manifest: Manifest, report: Report | None, provider: str) -> tuple[str, str]:
    """The precision of the fastest similarity graph that is as good as fp32 on this provider, and why, in one line."""
    target = target_of(provider)
    wanted = "int8" if target == "cpu" else "fp16"
    graph = manifest.graph("similarity", wanted, target)
    if graph is None:
        return "fp32", f"the bundle has no {wanted} graph for {target}; `python -m export quantize` makes one"
    found = report.graphs.get(graph.file) if report is not None else None
    if found is None:
        return "fp32", f"no report says how good the {wanted} graph is; quantize the bundle again"
    if not found.passes:
        return "fp32", f"the {wanted} graph is not faithful enough: {found}"
    if wanted == "int8":
        if not fast_int8():
            return "fp32", "int8 needs a CPU with VNNI or dotprod instructions, which Linux does not report here"
        if found.speed is not None and found.speed <= 1:
            return "fp32", f"the int8 graph was not faster where it was measured: {found}"
    return wanted, str(found)


def target_of(provider: str) -> str:
    """cpu or gpu, as graphs are made for."""
    return "cpu" if provider in ("cpu", "openvino") else "gpu"


def fast_int8() -> bool:
    """Linux reports int8 dot products: without them int8 is slower than fp32, and 8-bit sums can overflow."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = [line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features")) and ":" in line]
    return bool(flags) and all(set(f) & set(INT8_FLAGS) for f in flags)


def int8_overflows() -> bool:
    """The fastest int8 kernels of this CPU sum products in 16 bits, which can overflow: x86 without VNNI."""
    return platform.machine().lower() in ("x86_64", "amd64", "i686", "i386") and not fast_int8()


def _fidelity(fields: dict[str, Any]) -> Fidelity:
    return Fidelity(**{**fields, "kept_fp32": tuple(fields["kept_fp32"])})


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
