"""`import engine` must load none of these, and take at most twice the CPU time of what it must load (the best of five)."""

import re
import subprocess
import sys

UNWANTED = {"torch", "scipy", "sklearn", "skimage", "matplotlib", "onnx", "tqdm"}
MUST = "numpy, onnxruntime, PIL.Image"
MOST = 2.0


def run(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=True)


def seconds(modules: str) -> float:
    """CPU seconds of importing modules in a new process."""
    code = f"import time; began = time.process_time(); import {modules}; print(time.process_time() - began)"
    return float(run(code).stdout)


modules = re.findall(r"\|\s+(\S+)$", run("import engine", "-X", "importtime").stderr, re.MULTILINE)
loaded = {name.split(".")[0] for name in modules} & UNWANTED
if loaded or "engine" not in modules:
    sys.exit(f"import engine loads {', '.join(sorted(loaded)) or 'nothing'}")
taken = [(seconds("engine"), seconds(MUST)) for _ in range(5)]  # in turns: the machine may be busy
engine, must = (min(each) for each in zip(*taken, strict=True))
print(f"import engine: {engine:.3f} s of CPU, {engine / must:.2f} times {MUST}")
if engine > MOST * must:
    sys.exit(f"import engine takes more than {MOST:g} times as long as {MUST}")
