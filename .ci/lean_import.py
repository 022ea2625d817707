"""`import engine` must load none of these, and take under half a second (the best of five: CI machines are noisy)."""

import re
import subprocess
import sys

UNWANTED = {"torch", "scipy", "sklearn", "skimage", "matplotlib", "onnx", "tqdm"}
LIMIT = 0.5

seconds = []
for _ in range(5):
    command = [sys.executable, "-X", "importtime", "-c", "import engine"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    modules = re.findall(r"\|\s+(\d+) \| (\s*)(\S+)$", report, re.MULTILINE)
    loaded = {name.split(".")[0] for _, _, name in modules} & UNWANTED
    if loaded:
        sys.exit(f"import engine loads {', '.join(sorted(loaded))}")
    seconds.append(next(int(total) for total, _, name in reversed(modules) if name == "engine") / 1e6)
print(f"import engine: {min(seconds):.3f} s (best of {len(seconds)})")
if min(seconds) >= LIMIT:
    sys.exit(f"import engine takes {min(seconds):.3f} s, more than {LIMIT} s")
