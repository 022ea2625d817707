"""A network of timm: made into a bundle once, then asked why two pictures match.

    python examples/timm_model.py resnet50 query.jpg match.jpg --weights resnet50.safetensors --bundle models/resnet50

Without --weights timm fetches the published ones; `--weights random` shows the way without any. Needs sane-engine[cpu,timm].
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from engine import Explainer
from engine.terminal import run_command, say
from export import TorchSource, export_similarity
from export.timm_source import load_timm


def write_bundle(name: str, weights: Path | None, bundle: Path) -> None:
    """Write the network as a bundle, as `python -m export similarity --timm` does."""
    network = load_timm(name, weights)
    export_similarity(TorchSource(network.module), network.preprocessing(), bundle, metric="cosine", origin=network.origin)


def explain(options: argparse.Namespace) -> None:
    if not options.bundle.exists():
        write_bundle(options.model, options.weights, options.bundle)
    found = Explainer(options.bundle).explain(options.query, options.reference)
    found.save(options.out)
    say(f"similarity {found.similarity:.3f}, after {found.passes} passes\nwrote {options.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Explain a match as a network of timm sees it.")
    add = parser.add_argument
    add("model", metavar="MODEL", help="a name of timm.list_models()")
    add("query", type=Path, metavar="QUERY")
    add("reference", type=Path, metavar="REFERENCE")
    add("--weights", type=Path, metavar="FILE", help="a state dict; or random (default: the published weights)")
    add("--bundle", type=Path, required=True, metavar="DIR", help="where the network is kept; made if it is not there")
    add("--out", type=Path, default=Path("why.png"), metavar="FILE", help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    return run_command(lambda: explain(options))


if __name__ == "__main__":
    sys.exit(main())
