"""What options ONNX Runtime's GPU providers take, from the written list in `tests/data/provider_options.json`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

WRITTEN = json.loads((Path(__file__).parent / "data" / "provider_options.json").read_text())
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


def faults(provider: str, options: Mapping[str, object]) -> list[str]:
    """What the pinned onnxruntime-gpu would refuse of these options, from the written list."""
    known, kinds = WRITTEN["providers"][provider], WRITTEN["kinds"]
    found = []
    for key, value in options.items():
        if key not in known:
            found.append(f"{provider} has no option {key}")
        elif not isinstance(value, str):
            found.append(f"{key} must be text, got {value!r}")
        elif not re.fullmatch(kinds[known[key]], value):
            found.append(f"{key} takes {kinds[known[key]]}, got {value!r}")
    return found
