"""python -m engine.explain: why do these pictures match?"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import NoReturn

import numpy as np

from engine.assemble import JOINT, RANKED_BY, SANE
from engine.bundle import demo_bundle
from engine.errors import OptionError
from engine.explainer import Explainer
from engine.explanation import DRAWN, Explanation, Originals, checked_suffix
from engine.files import check_writable, write_json, write_whole
from engine.methods import COUNTED_BY, METHODS, Method, method_named
from engine.methods.rise import ESTIMATORS, Rise
from engine.pictures.loading import load_picture
from engine.pictures.reading import Reading, add_reading_options, reading_of
from engine.protocol import BOTH, FIXED, PAIR, ignore_notice
from engine.reference_vectors import ReferenceLike, file_of, is_embedding_file, named_vectors, read_embedding_file
from engine.render.attribute_groups import attribute_groups, numbers
from engine.render.texts import NO_LINK, map_trust
from engine.runtime.providers import PROVIDERS
from engine.terminal import Bar, CommandParser, notice, printable, run_command, say

DEMO_PAIR = ("cat-noto.png", "cat-twemoji.png")
DEFAULT_OUT = Path("explanation.png")
_EXAMPLES = """examples:
  python -m engine.explain                                      the demo pair, drawn to explanation.png
  python -m engine.explain query.jpg match.jpg --bundle models/shoes
  python -m engine.explain query.jpg a.jpg b.jpg c.jpg --out why.html
  python -m engine.explain query.jpg match.jpg --json           numbers only, for another program
  python -m engine.explain query.jpg match.jpg --mode pair      both pictures mapped, and which regions match
  python -m engine.explain query.jpg match.jpg --original       drawn on the pictures as they are, before the crop
  python -m engine.explain query.jpg --reference-embedding index.npz:vectors    a reference per row of the array
  python -m engine.explain query.jpg match.jpg --rather-than other.jpg          why this one, and not that one?
  python -m engine.explain query.jpg match.jpg --estimator sane --masks 2000    the paper's own map
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, see `engine.terminal`."""
    return run_command(lambda: _explain(_parser().parse_intermixed_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m engine.explain",
        description="Explain why a query picture matches reference pictures: a saliency map and ranked attributes.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("query", nargs="?", metavar="QUERY", help="picture to explain; without any, the demo pair")
    add("references", nargs="*", metavar="REFERENCE", help="pictures that match it")
    add(
        "--reference-embedding",
        action="append",
        default=[],
        metavar="FILE",
        help="references as embeddings, a row each: FILE.npy, FILE.npz or FILE.npz:KEY; may be repeated",
    )
    add("--bundle", metavar="DIR", help="model made by `python -m export` (default: the embedded emoji demo)")
    add("--method", default="rise", metavar="M", help=f"one of {', '.join(METHODS)} (default: %(default)s)")
    add(
        "--mode",
        default=FIXED,
        metavar="MODE",
        help=f"{FIXED}: a map of the query; {PAIR}: of both pictures, and the regions that match; {BOTH}: the same "
        "against the masked partner, as published (default: %(default)s)",
    )
    add(
        "--masks",
        type=_whole_number,
        metavar="N",
        help="passes over a picture (default: rise 256 to 1024 as it needs, tokens 192 to 1024, lime 1000, mask 500 steps)",
    )
    add("--estimator", metavar="E", help=f"of rise: {' or '.join(ESTIMATORS)}, the paper's own (default: {ESTIMATORS[0]})")
    add(
        "--ranking",
        default=JOINT,
        metavar="R",
        help=f"of attributes: {' or '.join(RANKED_BY)}, the paper's own (default: %(default)s)",
    )
    add(
        "--rather-than",
        metavar="FILE",
        help="why the references, rather than this one? A picture, or an embedding: FILE.npy, FILE.npz or FILE.npz:KEY",
    )
    add("--seed", type=_whole_number, metavar="S", help="of the masks (default: 0)")
    add("--condition", metavar="C", help="name or index, for models with conditions")
    add("--top", type=_whole_number, default=5, metavar="K", help="attributes to print (default: %(default)s)")
    add("--provider", default="auto", metavar="P", help=f"auto, {', '.join(PROVIDERS)} (default: %(default)s)")
    add("--precision", default="auto", metavar="P", help="auto, fp32, fp16, bf16, int8 (default: %(default)s)")
    add("--out", type=Path, metavar="FILE", help=f".png, .html, .json or .npz (default: {DEFAULT_OUT}; none with --json)")
    add("--original", action="store_true", help="draw .png and .html on the original pictures, not on the network's crop")
    add("--contours", action="store_true", help="draw lines around the strongest parts of the maps, for print")
    add_reading_options(parser)
    add("--json", action="store_true", help="print one JSON array, an object per reference, and nothing else")
    add("--quiet", action="store_true", help="no progress bar, and no notices on standard error")
    return parser


def _explain(options: argparse.Namespace) -> None:
    query, pictures = _pictures(options)
    arrays = [(given, read_embedding_file(given)) for given in options.reference_embedding]
    rival = None if options.rather_than is None else _rival(options.rather_than)
    out = _out(options)
    files = _files(out, len(pictures) + sum(len(a) if a.ndim > 1 else 1 for _, a in arrays)) if out else []
    reads = [query, *pictures, *_embedding_files(options), Path(options.bundle or demo_bundle())]
    for file in files:
        check_writable(file, reads)
    method = _method(options)
    explainer = Explainer(
        options.bundle,
        options.provider,
        options.precision,
        **vars(reading_of(options)),
        notice=ignore_notice if options.quiet else notice,
    )
    if arrays or isinstance(rival, np.ndarray):
        explainer.model.require_embeddings("compare embeddings")
    named: list[tuple[str, ReferenceLike]] = [(picture.name, picture) for picture in pictures]
    for given, array in arrays:
        named += named_vectors(given, array, explainer.model.manifest.embedding)
    names, references = [name for name, _ in named], [reference for _, reference in named]
    with Bar(options.quiet, "passes", "pass") as bar:
        explanations = explainer.explain_many(
            query,
            references,
            method,
            options.mode,
            options.condition,
            ranking=options.ranking,
            rather_than=rival,
            progress=bar.show,
        )
    if out:
        _save(
            explanations,
            out,
            files,
            _originals(query, references, explainer.model.reading) if options.original else None,
            options.contours,
        )
    if options.json:
        say(json.dumps([e.to_dict() for e in explanations], ensure_ascii=False))
    else:
        say(_summary(explanations, names, options.top, files))


def _out(options: argparse.Namespace) -> Path | None:
    out: Path | None = options.out or (None if options.json else DEFAULT_OUT)
    for given in ("original", "contours"):
        if getattr(options, given) and (out is None or checked_suffix(out) not in DRAWN):
            raise OptionError(f"--{given} is about what is drawn: give --out a name that ends in {' or '.join(DRAWN)}")
    return out


def _rival(given: str) -> Path | np.ndarray:
    """The reference that the others are told from: a picture's path, or an embedding (D,)."""
    if not is_embedding_file(given):
        return Path(given)
    array = read_embedding_file(given)
    if array.ndim > 1 and len(array) != 1:
        raise OptionError(f"--rather-than takes one reference, and {given} holds {len(array)} rows: save one of them alone")
    return array.reshape(-1)


def _embedding_files(options: argparse.Namespace) -> list[Path]:
    """The files among the options that may name an array in a file, FILE.npz:KEY."""
    given = [*options.reference_embedding, *([options.rather_than] if options.rather_than is not None else [])]
    return [file_of(name) for name in given]


def _originals(query: Path, references: Sequence[ReferenceLike], reading: Reading) -> list[Originals]:
    picture = load_picture(query, reading)
    return [(picture, other if isinstance(other, Path) else None) for other in references]


def _method(options: argparse.Namespace) -> Method:
    chosen = method_named(options.method)
    given = {k: getattr(options, k) for k in ("masks", "estimator", "seed") if getattr(options, k) is not None}
    if "estimator" in given and not isinstance(chosen, Rise):
        raise OptionError(f"--estimator goes with method rise, not {chosen.name}")
    if given and type(chosen) not in COUNTED_BY:
        raise OptionError(f"--{next(iter(given))} does not apply to method window, whose windows are fixed by the size")
    if "masks" in given:
        given[COUNTED_BY[type(chosen)]] = given.pop("masks")
    return dataclasses.replace(chosen, **given)


def _pictures(options: argparse.Namespace) -> tuple[Path, list[Path]]:
    if options.query is None:
        if options.reference_embedding:
            raise OptionError("--reference-embedding needs a query, as in: QUERY --reference-embedding FILE")
        folder = Path(str(resources.files("engine") / "data" / "pictures"))
        return folder / DEMO_PAIR[0], [folder / DEMO_PAIR[1]]
    if not options.references and not options.reference_embedding:
        raise OptionError("one picture was given; a query needs at least one reference, as in: QUERY REFERENCE")
    return Path(options.query), [Path(r) for r in options.references]


def _files(out: Path, count: int) -> list[Path]:
    """What --out writes: one page or JSON for all references; numbered files of the other kinds."""
    suffix = checked_suffix(out)
    if count == 1 or suffix in (".html", ".json"):
        return [out]
    return [out.with_name(f"{out.stem}-{i}{out.suffix}") for i in range(1, count + 1)]


def _save(
    explanations: list[Explanation], out: Path, files: list[Path], originals: list[Originals] | None, contours: bool
) -> None:
    each: Sequence[Originals | None] = [None] * len(explanations) if originals is None else originals
    if len(files) == len(explanations):
        for explanation, file, own in zip(explanations, files, each, strict=True):
            explanation.save(file, own, contours=contours)
    elif checked_suffix(out) == ".html":
        from engine.render.html import page  # noqa: PLC0415 - drawing is not needed to compute

        shown = None
        if originals is not None:
            shown = [e.original_panels(*own, contours=contours) for e, own in zip(explanations, originals, strict=True)]
        write_whole(out, page(explanations, shown, contours).encode(errors="backslashreplace"))
    else:
        write_json(out, [e.to_dict() for e in explanations])


def _summary(explanations: list[Explanation], names: list[str], top: int, files: list[Path]) -> str:
    lines = []
    for explanation, name in zip(explanations, names, strict=True):
        trust = map_trust(explanation)
        map_ = f", map {trust} after {explanation.passes} passes" if trust else ""
        lines.append(f"{printable(name)}: similarity {explanation.similarity:.3f}{_rather_than(explanation)}{map_}")
        if explanation.correspondence is not None:
            lines.append(f"  {_matched(explanation)}")
        lines += _attribute_lines(explanation, top)
    lines += [f"note: {printable(note)}" for note in dict.fromkeys(note for e in explanations for note in e.notes)]
    return "\n".join([*lines, *(f"wrote {printable(str(file))}" for file in files)])


def _matched(explanation: Explanation) -> str:
    count, other = len(explanation.links or ()), map_trust(explanation, of_reference=True)
    regions = f"{count} region{'s match' if count > 1 else ' matches'}" if count else NO_LINK
    return regions + (f"; the reference's map is {other}" if other else "")


def _rather_than(explanation: Explanation) -> str:
    other = explanation.rather_than_similarity
    return "" if other is None else f" rather than {other:.3f}"


def _attribute_lines(explanation: Explanation, top: int) -> list[str]:
    """A line for each attribute of the match, and one for each kind of difference."""
    has_prior = explanation.ranking == SANE and explanation.phi is not None and explanation.phi[2] != 0
    lines = []
    for group in attribute_groups(explanation, top):
        if group.main:
            lines += [
                f"  {printable(a.name):<24} {group.title} {a.score:.2f}   {numbers(a, has_prior)}" for a in group.attributes
            ]
        else:
            lines.append(f"  {group.title}: {', '.join(printable(a.name) for a in group.attributes)}")
    return lines


def _whole_number(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"a whole number from 0 is needed, got {text!r}")
    return value


def _main() -> NoReturn:
    sys.exit(main())


if __name__ == "__main__":
    _main()
