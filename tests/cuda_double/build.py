"""Build the test double of libcuda.so.1: its own functions, the kernels on the host shim, and refusals of all others."""

import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
NAME = "libcuda.so.1"
FLAGS = (
    "-std=c++17",
    "-O2",
    "-Wall",
    "-Wno-unknown-pragmas",
    "-ffp-contract=off",
    "-fPIC",
    "-shared",
    f"-Wl,-soname,{NAME}",
)
NOT_SUPPORTED = 801


def built(folder: Path) -> Path:
    """Compile the double into `folder`, for LD_LIBRARY_PATH; return the folder.

    pycuda links to some 140 functions when it is loaded. Those that the double does not implement exist and return an error.
    """
    spec = find_spec("pycuda")
    assert spec is not None
    assert spec.origin is not None
    (driver,) = Path(spec.origin).parent.glob("_driver*.so")
    symbols = subprocess.run(["nm", "-D", "--undefined-only", driver], capture_output=True, text=True, check=True).stdout
    wanted = sorted(set(re.findall(r"\b(cu[A-Z]\w+)", symbols)))
    rest = folder / "rest.cpp"
    refusals = [f'extern "C" __attribute__((weak)) int {name}() {{ return {NOT_SUPPORTED}; }}\n' for name in wanted]
    rest.write_text("".join(refusals))
    sources = [HERE / "libcuda.cpp", HERE.parent / "cuda_host" / "kern_host.cpp", rest]
    compiler = os.environ.get("CXX", "g++")
    subprocess.run([compiler, *FLAGS, *sources, "-o", folder / NAME, "-ldl"], check=True)
    return folder
