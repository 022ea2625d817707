"""Make the maps that fidelity is measured against before the suites run.

    python -m benchmarks.truth [NAME ...]

Nothing is timed, so the machine may be busy with other work. If a run is stopped, the same command continues it. The
networks must be made first. Without this, the fidelity suite makes the maps itself.
"""

import argparse

from benchmarks import maps, networks, pictures
from benchmarks.conftest import FULL
from benchmarks.settings import MASKS, TRUTH_OTHER_SEED, TRUTH_SEED, chosen_names, sane
from engine import Explainer
from engine.terminal import CommandParser, run_command
from export.progress import progress_bar
from training.loop import STOPPED


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)), STOPPED)


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.truth", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"networks: of {', '.join(FULL.queries)} (default: all)")
    return parser


def _run(options: argparse.Namespace) -> None:
    for name in chosen_names(options.names, tuple(FULL.queries)):
        explainer = Explainer(networks.made(name).bundle, precision="fp32")
        kind = "emoji" if name in networks.EMOJI else "photos"
        truth = sane(FULL.truth, TRUTH_SEED)
        with progress_bar(pictures.queries(kind, explainer, FULL.queries[name]), name, leave=True) as queries:
            for query in queries:
                if name == "resnet18":
                    maps.both(explainer, query, truth, sane(FULL.truth_other, TRUTH_OTHER_SEED))
                maps.prepared(explainer, query, truth)
                maps.prepared(explainer, query, sane(MASKS))


if __name__ == "__main__":
    raise SystemExit(main())
