"""python -m kernels.build: masks.cu to masks.fatbin; with --check, fail where that is stale or a kernel spills registers.

Needs the wheels nvidia-cuda-nvrtc and nvidia-nvfatbin (extra `kernels`), and neither a toolkit nor a GPU.
"""

import argparse
import hashlib
import json
import re
import sys
from typing import Any

from kernels import nvidia
from kernels.cubins import FATBIN, FATBIN_RECORD, GPU_ARCHITECTURES, OPTIONS, SOURCE, KernelError, key, record

__all__ = ["cubin_for"]


def cubin_for(architecture: int) -> bytes:
    """Machine code of the kernels for one compute capability times ten, such as 87, by NVRTC.

    Raises KernelError where there is no NVRTC or it does not know the architecture.
    """
    return _cubin(architecture)[0]


def _cubin(architecture: int) -> tuple[bytes, str]:
    return nvidia.nvrtc_compiled(SOURCE.read_bytes(), SOURCE.name, [*OPTIONS, f"--gpu-architecture=sm_{architecture}"])


def registers(log: str, architecture: int) -> dict[str, int]:
    """Registers of every kernel, from ptxas's log. Raises KernelError where one spills, or keeps an array in memory."""
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
    if not found or len(found) != log.count("Compiling entry function"):
        raise KernelError(f"NVRTC's log for sm_{architecture} has changed its form: registers of {len(found)} kernels read")
    return found


def built() -> tuple[bytes, dict[str, Any]]:
    """The fatbin and what its record says of it. Raises KernelError where a kernel spills."""
    cubins, used = {}, {}
    for architecture in GPU_ARCHITECTURES:
        cubins[architecture], log = _cubin(architecture)
        used[f"sm_{architecture}"] = registers(log, architecture)
    oldest = GPU_ARCHITECTURES[0]
    flags = [option for option in OPTIONS if "ptxas" not in option]
    ptx, _ = nvidia.nvrtc_compiled(SOURCE.read_bytes(), SOURCE.name, [*flags, f"--gpu-architecture=compute_{oldest}"])
    code = nvidia.bundled(cubins, (oldest, ptx), SOURCE.name)
    return code, {
        "key": key(),
        "sha256": hashlib.sha256(code).hexdigest(),
        "compiler": f"NVRTC {nvidia.version()}",
        "ptx": f"compute_{oldest}",
        "registers": used,
    }


def check_fatbin() -> str:
    """One line on the fatbin that is there. Raises KernelError where it is stale or a kernel spills."""
    said = record()
    code, now = built()
    if now["compiler"] == said["compiler"] and code != FATBIN.read_bytes():
        raise KernelError(f"{FATBIN.name} is not what {now['compiler']} makes of {SOURCE.name}: python -m kernels.build")
    most = max(max(kernels.values()) for kernels in now["registers"].values())
    return f"{FATBIN.name} is up to date: {len(code)} bytes, at most {most} registers, nothing spilt ({now['compiler']})"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 with one line on standard error."""
    parser = argparse.ArgumentParser(prog="python -m kernels.build", description="Compile the CUDA kernels, without a GPU.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a stale fatbin or a register spill")
    try:
        if parser.parse_args(arguments).check:
            print(check_fatbin())
        else:
            code, said = built()
            FATBIN.write_bytes(code)
            FATBIN_RECORD.write_text(json.dumps(said, indent=1) + "\n")
            print(f"{FATBIN}: {len(code)} bytes, {', '.join(said['registers'])} and PTX for {said['ptx']}")
    except KernelError as error:
        print(f"kernels.build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
