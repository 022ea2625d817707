"""Choose the precision: from the bundle's report about its faster graphs, and from what this processor supports."""

import platform
from pathlib import Path

from engine.bundle.manifest import Graph, Manifest
from engine.bundle.report import Report

CPUINFO = Path("/proc/cpuinfo")
INT8_FLAGS = ("avx512_vnni", "avx_vnni", "asimddp")
"""Linux's names for a processor's int8 dot products: VNNI on x86, dotprod on ARM."""


def choose_precision(manifest: Manifest, report: Report | None, provider: str) -> tuple[str, str]:
    """Return the precision of the fastest similarity graph as good as fp32 on this provider; and why, in one line."""
    target = target_of(provider)
    wanted = "int8" if target == "cpu" else "fp16"
    graph = manifest.graph("similarity", wanted, target)
    if graph is None:
        return "fp32", f"the bundle has no {wanted} graph for {target}; `python -m export quantize` makes one"
    found = report.graphs.get(graph.file) if report is not None else None
    if found is None:
        return "fp32", f"the bundle has no report on the {wanted} graph; quantize the bundle again"
    if not found.passes:
        return "fp32", f"the {wanted} graph is not faithful enough: {found}"
    if wanted == "int8":
        if not fast_int8():
            return "fp32", "int8 needs a CPU with VNNI or dotprod instructions, which Linux does not report here"
        if found.speed is not None and found.speed <= 1:
            return "fp32", f"the int8 graph was not faster where it was measured: {found}"
    return wanted, str(found)


def faithful_precisions(manifest: Manifest, report: Report | None, provider: str) -> list[str]:
    """Return the precisions of the CPU provider whose maps are as good as fp32's by the bundle's report, fp32 first."""
    found = ["fp32"]
    graph = manifest.graph("similarity", "int8", "cpu")
    checked = None if report is None or graph is None else report.graphs.get(graph.file)
    if checked is not None and checked.passes and fast_int8():
        found.append("int8")
    if provider == "openvino" and report is not None and report.bf16 is not None and report.bf16.passes:
        found.append("bf16")
    return found


def graph_of(manifest: Manifest, role: str, provider: str, precision: str) -> Graph | None:
    """Return the graph that a provider runs in a precision; None if the bundle has none."""
    stored = "fp32" if (provider, precision) == ("openvino", "bf16") else precision  # rounded when it runs
    return manifest.graph(role, stored, target_of(provider))


def target_of(provider: str) -> str:
    """Return the target of the graphs that a provider runs: cpu or gpu."""
    return "cpu" if provider in ("cpu", "openvino") else "gpu"


def fast_int8() -> bool:
    """Whether Linux reports int8 dot products. Without them int8 is slower than fp32, and its sums can overflow."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = [line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features")) and ":" in line]
    return bool(flags) and all(set(f) & set(INT8_FLAGS) for f in flags)


def int8_overflows() -> bool:
    """Whether this CPU's fastest int8 kernels sum in 16 bits, which can overflow: x86 without VNNI."""
    return platform.machine().lower() in ("x86_64", "amd64", "i686", "i386") and not fast_int8()
