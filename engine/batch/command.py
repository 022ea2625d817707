"""python -m engine.batch: explain many given pairs, in this process or on a cluster."""

import argparse
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from engine.batch.explaining import BatchOptions, PartDone, PartExplainer, open_part_explainer
from engine.batch.folder import FAILED_TABLE, open_folder
from engine.batch.pairs import ListedPair, Part, listed_pairs, parts_of
from engine.cluster import Cluster, add_cluster_options, cluster_asked_for, on_cluster
from engine.errors import OptionError
from engine.explainer import Explainer
from engine.methods.rise import Rise
from engine.pictures.reading import add_reading_options, reading_of
from engine.protocol import FIXED, MODES, Progress, ignore_notice
from engine.runtime.providers import PROVIDERS
from engine.terminal import Bar, CommandParser, notice, run_command, say
from engine.writing import writing

BATCH_FORMAT, BATCH_VERSION = "sane-batch", 1
_EXAMPLES = """examples:
  python -m engine.batch pairs.csv --out explained                                 columns query and reference
  python -m engine.batch pairs.parquet --out explained --bundle models/shoes --pictures
  python -m engine.batch pairs.csv --out explained --ray auto --workers 64         on a Ray cluster
  python -m engine.batch explained/failed.parquet --images . --out again           pairs that failed, once more

A batch that was stopped, by whatever, goes on where it was when it is started again.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, see `engine.terminal`."""
    return run_command(lambda: _run(_parser().parse_args(arguments)), "stopped; the same command goes on where it was")


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m engine.batch",
        description="Explain many pairs of pictures: Parquet tables of numbers and maps, and pictures if asked for.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("pairs", type=Path, metavar="PAIRS", help=".csv or .parquet: columns query, reference and, if wanted, condition")
    add("--out", type=Path, required=True, metavar="DIR", help="a new folder, or that of a batch that was stopped")
    add("--images", type=Path, metavar="DIR", help="folder that paths are relative to (default: that of PAIRS)")
    add("--bundle", metavar="DIR", help="model made by `python -m export` (default: the embedded emoji demo)")
    add("--provider", default="auto", metavar="P", help=f"auto, {', '.join(PROVIDERS)} (default: %(default)s)")
    add("--precision", default="auto", metavar="P", help="auto, fp32, fp16, bf16, int8 (default: %(default)s)")
    add("--mode", choices=MODES, default=FIXED, help="pair and both map the reference too (default: %(default)s)")
    add("--masks", type=int, metavar="N", help="passes over a picture (default: 256 to 1024 as it needs)")
    add("--seed", type=int, default=0, metavar="S", help="of the masks (default: %(default)s)")
    add("--pictures", action="store_true", help="draw every explanation, too")
    add_reading_options(parser)
    add("--quiet", action="store_true", help="no progress bar, and no notices on standard error")
    add_cluster_options(parser)
    return parser


def _run(options: argparse.Namespace) -> None:
    pairs = listed_pairs(options.pairs)
    images = (options.pairs.parent if options.images is None else options.images).absolute()
    if not images.is_dir():
        raise OptionError(f"there is no folder {images}: name that of the pictures by --images")
    masks = {} if options.masks is None else {"masks": options.masks}
    asked = BatchOptions(images, options.mode, Rise(seed=options.seed, **masks), options.pictures)
    told = ignore_notice if options.quiet else notice
    explainer = Explainer(options.bundle, options.provider, options.precision, **vars(reading_of(options)), notice=told)
    explainer.model.require_embeddings("explain a batch")
    for condition in dict.fromkeys(pair.condition for pair in pairs):
        explainer.model.manifest.condition_index(condition)
    cluster = cluster_asked_for(options, explainer.provider)
    with writing(options.out), Bar(options.quiet, "pairs", "pair") as bar:
        folder = open_folder(options.out.absolute(), _settings(pairs, asked, explainer))
        found = explained(parts_of(pairs), PartExplainer(explainer, asked, folder), cluster, bar.show)
    failed = f"; {found.failed} failed: {options.out / FAILED_TABLE} says why" if found.failed else ""
    say(f"{found.explained} pairs are explained in {options.out}{failed}")


def explained(parts: Sequence[Part], work: PartExplainer, cluster: Cluster | None, progress: Progress) -> PartDone:
    """Explain what is not done yet of a batch, and write the table of what failed; returns how many pairs that makes.

    cluster: where; None: in this process. Raises OutputError, and what `on_cluster` raises.
    """
    folder, pairs = work.folder, sum(map(len, parts))
    pending = [part for part in parts if not folder.done(part.number)]
    done = pairs - sum(map(len, pending))
    progress(done, pairs)
    results: Iterable[PartDone] = map(work, pending)
    if cluster is not None:
        make = functools.partial(open_part_explainer, work.explainer.elsewhere(), work.options, folder)
        results = on_cluster(make, pending, cluster)
    for result in results:
        done += result.explained + result.failed
        progress(done, pairs)
    failed = folder.finish(len(parts))
    return PartDone(pairs - failed, failed)


def _settings(pairs: Sequence[ListedPair], asked: BatchOptions, explainer: Explainer) -> dict[str, Any]:
    """Return everything that a row depends on besides its pictures: a batch goes on only with the same."""
    model = explainer.model
    rows = json.dumps([[pair.query, pair.reference, pair.condition] for pair in pairs])
    files = json.dumps(model.bundle.digests, sort_keys=True)
    return {
        "format": BATCH_FORMAT,
        "version": BATCH_VERSION,
        "pairs": len(pairs),
        "pairs_sha256": hashlib.sha256(rows.encode(errors="backslashreplace")).hexdigest(),
        "model": model.manifest.name,
        "bundle_sha256": hashlib.sha256(files.encode()).hexdigest(),
        "provider": model.provider,
        "precision": model.precision,
        "apply_profiles": model.reading.apply_profiles,
        "mode": asked.mode,
        "rise": dataclasses.asdict(asked.rise),
        "pictures": asked.pictures,
    }
