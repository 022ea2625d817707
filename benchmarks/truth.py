"""Make the maps that fidelity is measured against ahead of the suites: python -m benchmarks.truth [NAME ...].

They take no clock, so they may be made while the machine is busy; a run that was stopped goes on. The networks come first.
Without this the fidelity suite makes the maps itself.
"""

import argparse

from tqdm import tqdm

from benchmarks import maps, networks, pictures
from benchmarks.conftest import FULL
from benchmarks.settings import MASKS, TRUTH_OTHER_SEED, TRUTH_SEED, sane
from engine import Explainer


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.truth", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(FULL.queries)} (default: all)")
    options = parser.parse_args(arguments)
    for name in options.names or FULL.queries:
        explainer = Explainer(networks.made(name).bundle, precision="fp32")
        kind = "emoji" if name in networks.EMOJI else "photos"
        for query in tqdm(pictures.queries(kind, explainer, FULL.queries[name]), desc=name, disable=None):
            truth = sane(FULL.truth, TRUTH_SEED)
            if name == "resnet18":
                maps.both(explainer, query, truth, sane(FULL.truth_other, TRUTH_OTHER_SEED))
            maps.prepared(explainer, query, truth)
            maps.prepared(explainer, query, sane(MASKS))


if __name__ == "__main__":
    main()
