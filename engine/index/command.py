"""python -m engine.index: build a catalogue of prepared pictures, search it, and explain its matches."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.cluster import add_cluster_options, cluster_asked_for
from engine.errors import OutputError
from engine.explainer import Explainer
from engine.explanation import checked_suffix
from engine.files import check_writable, write_whole
from engine.index.catalogue import Index
from engine.index.graph import current_graph
from engine.index.settings import INDEXED, Fidelity
from engine.index.store import STATE, IndexStore, compact_index, damage
from engine.pictures.reading import MAX_PIXELS, add_pixel_limit, add_reading_options, reading_of
from engine.protocol import ignore_notice
from engine.runtime.providers import PROVIDERS
from engine.terminal import Bar, CommandParser, notice, printable, run_command, say

NAMED = 3
"""Attributes of a match on its line."""
_EXAMPLES = """examples:
  python -m engine.index build catalogue --images photos --bundle models/shoes   a row per picture, subfolders too
  python -m engine.index add catalogue --images new.csv        columns id and path, or id and url; .parquet as well
  python -m engine.index build catalogue --images photos.csv --ray auto        on a Ray cluster
  python -m engine.index search catalogue query.jpg -k 5
  python -m engine.index explain catalogue query.jpg red/1.jpg red/2.jpg --out why.html
  python -m engine.index audit catalogue --out audit.html      what matches share, and where their maps lie
  python -m engine.index verify catalogue                      every byte is as it was written

A build that was stopped, by whatever, goes on where it was when it is started again.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, see `engine.terminal`."""

    def run() -> None:
        options = _parser().parse_args(arguments)
        options.run(options)

    return run_command(run, "stopped; the same command goes on where it was")


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m engine.index",
        description="A catalogue of prepared pictures: search it, and explain each match from what is stored.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], about: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
        made.set_defaults(run=run)
        made.add_argument("index", type=Path, metavar="INDEX", help="the index's folder")
        return made

    def model(made: argparse.ArgumentParser, default: str) -> None:
        made.add_argument("--bundle", metavar="DIR", help=f"model made by `python -m export` (default: {default})")
        made.add_argument("--provider", default="auto", metavar="P", help=f"auto, {', '.join(PROVIDERS)}")
        made.add_argument("--quiet", action="store_true", help="no progress bar, and no notices on standard error")

    def images(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "--images", type=Path, required=True, metavar="DIR", help="a folder, or a .csv or .parquet of id and path"
        )
        add_cluster_options(made)

    build = command("build", _build, "make an index of pictures, or go on with one that was stopped")
    images(build)
    model(build, "the embedded emoji demo")
    _add_build_options(build)
    add = command("add", _add, "add pictures that are new or have changed")
    images(add)
    model(add, "the one of the build")
    search = command("search", _search, "find the pictures that are most similar to one, and say why")
    search.add_argument("query", metavar="PICTURE", help="a picture, or an id of the index")
    search.add_argument("-k", type=int, default=20, metavar="K", help="pictures to find (default: %(default)s)")
    model(search, "the one of the build")
    explain = command("explain", _explain, "explain why a picture matches pictures of the index")
    explain.add_argument("query", metavar="QUERY", help="a picture, or an id of the index")
    explain.add_argument("references", nargs="+", metavar="REFERENCE", help="ids of the index")
    explain.add_argument("--out", type=Path, default=Path("why.html"), metavar="FILE", help=".html (default: %(default)s)")
    model(explain, "the one of the build")
    audit = command("audit", _audit, "say why the catalogue matches as it does: what is shared, and where maps lie")
    _add_audit_options(audit)
    model(audit, "the one of the build")
    for made in (add, search, explain, audit):  # colours are read as in the build
        add_pixel_limit(made)
    remove = command("remove", _remove, "remove pictures")
    remove.add_argument("ids", nargs="+", metavar="ID", help="of the index")
    model(remove, "the one of the build")
    remove.set_defaults(max_pixels=MAX_PIXELS)  # it reads no picture
    command("verify", _verify, "compare every file and every row with its checksum")
    command("stat", _stat, "say what is in an index, as JSON")
    command("compact", _compact, "write the rows into few files")
    return parser


def _add_build_options(build: argparse.ArgumentParser) -> None:
    add_reading_options(build)
    build.add_argument("--precision", default="auto", metavar="P", help="auto, fp32, fp16, bf16, int8")
    build.add_argument("--condition", metavar="C", help="name or index, for models with conditions: one for each index")
    build.add_argument("--method", choices=list(INDEXED), default="rise", help="tokens: for vision transformers")
    build.add_argument("--masks", type=int, metavar="N", help="passes over a picture (default: at most 1024, as it needs)")
    build.add_argument("--seed", type=int, default=0, metavar="S", help="of the masks (default: %(default)s)")
    build.add_argument("--thumbnails", action="store_true", help="keep the pictures as the network saw them, as JPEG")


def _add_audit_options(audit: argparse.ArgumentParser) -> None:
    audit.add_argument("--sample", type=int, default=200, metavar="N", help="random rows to ask (default: %(default)s)")
    audit.add_argument("-k", type=int, default=20, metavar="K", help="best matches of each (default: %(default)s)")
    audit.add_argument("--seed", type=int, default=0, metavar="S", help="of the rows (default: %(default)s)")
    audit.add_argument("--out", type=Path, default=Path("audit.html"), metavar="FILE", help=".html (default: %(default)s)")
    audit.add_argument("--json", action="store_true", help="print every number as JSON")


def _build(options: argparse.Namespace) -> None:
    told = ignore_notice if options.quiet else notice
    begun = (options.index / STATE).is_file() and options.precision == "auto"  # auto may take another one today
    precision = IndexStore(options.index).settings.precision if begun else options.precision
    explainer = Explainer(options.bundle, options.provider, precision, **vars(reading_of(options)), notice=told)
    masks = {} if options.masks is None else {"masks": options.masks}
    with Bar(options.quiet, "pictures", "picture") as bar:
        index = Index.build(
            options.index,
            explainer,
            options.images,
            method=INDEXED[options.method](seed=options.seed, **masks),
            condition=options.condition,
            thumbnails=options.thumbnails,
            cluster=cluster_asked_for(options, explainer.provider),
            progress=bar.show,
            notice=told,
        )
    say(_report(index))


def _add(options: argparse.Namespace) -> None:
    explainer = _explainer(options)
    index, told = Index.open(options.index, explainer), ignore_notice if options.quiet else notice
    cluster = cluster_asked_for(options, explainer.provider)
    with Bar(options.quiet, "pictures", "picture") as bar:
        index.add(options.images, cluster=cluster, progress=bar.show, notice=told)
    say(_report(index))


def _report(index: Index) -> str:
    report = index.report
    assert report is not None, "it was just built or added to"
    lines = [f"{report.added} added, {report.unchanged} unchanged, {len(report.failed)} failed; {len(index)} in all"]
    lines += [f"  {printable(id_)}: {printable(why)}" for id_, why in report.failed.items()]
    return "\n".join([*lines, f"fidelity: {index.fidelity()}"])


def _search(options: argparse.Namespace) -> None:
    lines = []
    found = _open(options).search_and_explain(options.query, options.k)
    if found and not found[0].exact and not options.quiet:
        notice("a large index is searched on a graph of its rows, which may miss some")
    for match in found:
        named = match.explanation.attributes[:NAMED] if match.explanation else ()
        lines.append(f"{match.similarity:.3f}  {match.id}  {', '.join(a.name for a in named)}".rstrip())
    say("\n".join(printable(line) for line in lines) or "nothing was found")


def _require_page(out: Path) -> None:
    if checked_suffix(out) != ".html":
        raise OutputError(f"cannot write {out}: its name must end in .html")
    check_writable(out)


def _explain(options: argparse.Namespace) -> None:
    _require_page(options.out)
    found = _open(options).explain(options.query, options.references)
    from engine.render.html import page  # noqa: PLC0415 - drawing is not needed to compute

    write_whole(options.out, page(found).encode(errors="backslashreplace"))
    lines = [f"{id_}: similarity {e.similarity:.3f}" for id_, e in zip(options.references, found, strict=True)]
    say("\n".join(printable(line) for line in (*lines, f"wrote {options.out}")))


def _audit(options: argparse.Namespace) -> None:
    _require_page(options.out)
    index = _open(options)
    with Bar(options.quiet, "pictures", "picture") as bar:
        audit = index.audit(options.sample, options.k, seed=options.seed, progress=bar.show)
    from engine.index.audit_page import audit_page, verdict_lines  # noqa: PLC0415 - as in `_explain`

    write_whole(options.out, audit_page(audit).encode())
    lines = [*verdict_lines(audit), f"wrote {options.out}"]
    say(json.dumps(audit.to_dict()) if options.json else "\n".join(printable(line) for line in lines))


def _remove(options: argparse.Namespace) -> None:
    index = _open(options)
    index.remove(options.ids)
    say(f"{len(set(options.ids))} removed; {len(index)} in all")


def _verify(options: argparse.Namespace) -> None:
    found = damage(options.index)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        for line in found[1:]:
            notice(line)
        raise OutputError(f"{options.index} is damaged: {found[0]}{more}")
    store = IndexStore(options.index)
    say(f"{len(store.state.files) + 1} files and {len(store.table)} rows are as they were written")


def _stat(options: argparse.Namespace) -> None:
    store = IndexStore(options.index)
    files = [store.path / name for name in (*store.state.files, STATE)]
    graph = current_graph(store.path, store.table)
    size = sum(file.stat().st_size for file in (*files, *([] if graph is None else [graph])))
    measured = Fidelity.of(store.table.fidelity())
    about = {
        "rows": len(store.table),
        "bytes": size,
        "search": "exact" if graph is None else "approximate",
        "record_bytes": store.settings.dtype.itemsize,
        "fidelity": vars(measured),
        "reaches_target": measured.reaches(store.settings.target),
        "failed": dict(store.state.failed),
        "settings": json.loads(store.settings.to_json()),
    }
    say(json.dumps(about, indent=1))


def _compact(options: argparse.Namespace) -> None:
    compact_index(options.index)
    say(f"{len(IndexStore(options.index).table)} rows in few files")


def _open(options: argparse.Namespace) -> Index:
    return Index.open(options.index, _explainer(options))


def _explainer(options: argparse.Namespace) -> Explainer:
    settings = IndexStore(options.index).settings
    told = ignore_notice if options.quiet else notice
    return settings.explainer(options.index, options.bundle, options.provider, told, options.max_pixels)
