"""Make one explanation at 224 x 224 and print its peak memory. The memory suite runs this in a new process.

    python -m benchmarks.memory ours|published FOLDER MASKS ESTIMATOR

FOLDER is the folder of a network (`benchmarks.networks`). The output is a JSON object: passes, bytes of the embeddings that
were kept, and the peak of resident memory from /proc/self/status (what `wait4` reports of a child process includes memory
of its parent).
"""

import json
import sys
from pathlib import Path

import numpy as np


def main(arguments: list[str]) -> None:
    who, folder, masks, estimator = arguments
    pictures = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    if who == "ours":
        found = run_ours(Path(folder), pictures, int(masks), estimator)
    else:
        found = run_published(Path(folder), pictures, int(masks))
    print(json.dumps(found | {"peak_bytes": peak_bytes()}))


def peak_bytes() -> int:
    """Return the peak of this process's resident memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(kilobytes) * 1024


def run_ours(folder: Path, pictures: np.ndarray, masks: int, estimator: str) -> dict[str, int]:
    """Explain with the engine. pictures: (2, 224, 224, 3) uint8, query and reference"""
    from engine import Explainer, Rise  # noqa: PLC0415 - a process measures only one of the two

    explainer = Explainer(folder / "bundle", precision="fp32")
    prepared = explainer.prepare(pictures[0], Rise(masks=masks, estimator=estimator))
    prepared.explain(pictures[1])
    return {"passes": len(prepared.plan), "embedding_bytes": prepared.embeddings.nbytes}


def run_published(folder: Path, pictures: np.ndarray, masks: int) -> dict[str, int]:
    """Explain with the published procedure. pictures: (2, 224, 224, 3) uint8, query and reference"""
    import torch  # noqa: PLC0415 - as above

    from benchmarks import published  # noqa: PLC0415
    from benchmarks.networks import Network  # noqa: PLC0415
    from benchmarks.settings import sane  # noqa: PLC0415

    network = Network("resnet18", pictures.shape[1], folder)
    query, reference = (torch.from_numpy(network.preprocessing.normalised(p)) for p in pictures)
    module = network.torch()
    drawn = published.Masks.drawn(sane(masks).plan(pictures[0]), network.size)
    published.fixed(module, query, published.eager(module)(reference[None])[0], drawn, 32)
    return {"passes": masks, "embedding_bytes": masks * 4 * 64}


if __name__ == "__main__":
    main(sys.argv[1:])
