"""python -m kernels.build: compile masks.cu to masks.fatbin. With --check, fail if that is stale or registers spill.

Needs the wheels nvidia-cuda-nvrtc and nvidia-nvfatbin (extra `kernels`), but neither a CUDA toolkit nor a GPU.
"""

import argparse
import hashlib
import json
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from kernels import nvidia
from kernels.cubins import FATBIN, FATBIN_RECORD, GPU_ARCHITECTURES, NVRTC_OPTIONS, SOURCE, KernelError, key, record

__all__ = ["cubin_for"]

FAILED, STOPPED = 1, 130
"""Exit statuses: the kernels cannot be compiled or the check fails; stopped from the keyboard."""


def cubin_for(architecture: int) -> bytes:
    """Compile the kernels with NVRTC to machine code for one compute capability times ten, such as 87.

    Raises KernelError if NVRTC is not found or does not know the architecture.
    """
    return _cubin(architecture)[0]


def _cubin(architecture: int) -> tuple[bytes, str]:
    return nvidia.compile_cuda(SOURCE.read_bytes(), SOURCE.name, [*NVRTC_OPTIONS, f"--gpu-architecture=sm_{architecture}"])


def registers(log: str, architecture: int) -> dict[str, int]:
    """Read the registers of every kernel from ptxas's log. Raises KernelError if a kernel spills or uses stack memory."""
    entry = re.compile(
        r"Function properties for (\w+)\n\D*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers",
        re.DOTALL,
    )
    found = {}
    for name, *numbers in entry.findall(log):
        stack, stores, loads, used = map(int, numbers)
        if stack or stores or loads:
            raise KernelError(f"{name} spills on sm_{architecture}: {stack} bytes of stack, {stores} stored, {loads} loaded")
        found[name] = used
    compiled = log.count("Compiling entry function")
    if not found or len(found) != compiled:
        raise KernelError(f"NVRTC's log for sm_{architecture} has a new form: {compiled} kernels, read {len(found)}")
    return found


def build_fatbin() -> tuple[bytes, dict[str, Any]]:
    """Compile the fatbin; return it and what to record of it in masks.json. Raises KernelError if a kernel spills."""
    cubins, used = {}, {}
    for architecture in GPU_ARCHITECTURES:
        cubins[architecture], log = _cubin(architecture)
        used[f"sm_{architecture}"] = registers(log, architecture)
    oldest = GPU_ARCHITECTURES[0]
    flags = [option for option in NVRTC_OPTIONS if "ptxas" not in option]
    ptx, _ = nvidia.compile_cuda(SOURCE.read_bytes(), SOURCE.name, [*flags, f"--gpu-architecture=compute_{oldest}"])
    code = nvidia.make_fatbin(cubins, (oldest, ptx), SOURCE.name)
    return code, {
        "key": key(),
        "sha256": hashlib.sha256(code).hexdigest(),
        "compiler": f"NVRTC {nvidia.version()}",
        "ptx": f"compute_{oldest}",
        "registers": used,
    }


def check_fatbin() -> str:
    """Compile again and compare; return one line on the fatbin. Raises KernelError if it is stale or a kernel spills."""
    stored = record()
    code, now = build_fatbin()
    if now["compiler"] == stored["compiler"] and code != FATBIN.read_bytes():
        raise KernelError(f"{FATBIN.name} is not what {now['compiler']} makes of {SOURCE.name}: run python -m kernels.build")
    most = max(max(kernels.values()) for kernels in now["registers"].values())
    return f"{FATBIN.name} is up to date: {len(code)} bytes, at most {most} registers, no spills ({now['compiler']})"


def write_fatbin() -> str:
    """Compile the fatbin and write it with its record, both or neither; return one line on it. Raises KernelError."""
    code, built = build_fatbin()
    contents = {FATBIN: code, FATBIN_RECORD: (json.dumps(built, indent=1) + "\n").encode()}
    with tempfile.TemporaryDirectory(prefix=".build-", dir=FATBIN.parent) as folder:
        for path, content in contents.items():
            (Path(folder) / path.name).write_bytes(content)
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt must not come between the two files
        try:
            for path in contents:
                (Path(folder) / path.name).replace(path)
        finally:
            signal.signal(signal.SIGINT, interrupt)
    return f"{FATBIN}: {len(code)} bytes, {', '.join(built['registers'])} and PTX for {built['ptx']}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status. Every failure is one line on standard error."""
    parser = argparse.ArgumentParser(prog="python -m kernels.build", description="Compile the CUDA kernels, without a GPU.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the fatbin is stale or registers spill")
    try:
        print(check_fatbin() if parser.parse_args(arguments).check else write_fatbin())
    except (KernelError, OSError) as error:
        print(f"kernels.build: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("kernels.build: stopped", file=sys.stderr)
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
