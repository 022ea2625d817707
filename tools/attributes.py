"""Fill docs/attributes.md with the tables of the committed results, and judge the embedded demo's attributes.

python -m tools.attributes           # the tables, from benchmarks/results/attributes
python -m tools.attributes --demo    # measures first: all held-out pairs, and the contact sheet of 20
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.attribute_recognition import EMOJI, FIRST, RESULTS, SECOND, SEEDS, SETS
from benchmarks.record import circumstances
from engine import Explainer, Explanation, Rise
from engine.evaluate.attributes import evaluate
from engine.evaluate.bootstrap import json_ready
from engine.evaluate.labels import Labelled, read_labels
from engine.evaluate.matching import draw_pairs, matching_pairs, split_directions
from engine.evaluate.network_outputs import run_networks, similarities
from engine.files import write_whole
from engine.render.panels import panels
from training.datasets.emoji import load_emoji
from training.emoji_labels import write_labelled

DOCS = Path(__file__).parent.parent / "docs"
PAGE, SHEET = DOCS / "attributes.md", DOCS / "attributes.png"
DEMO, BOTH = RESULTS / "demo.json", RESULTS / "of_both.json"
PAIRS, SHOWN, SEED = 188, 20, 0
CELL, NAMED, COLUMNS = 120, 4, 4
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.attributes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", action="store_true", help="measure the embedded bundle again")
    if parser.parse_args(arguments).demo:
        demo()
    text = PAGE.read_text()
    tables = {"first": first(), "removal": removal(), "second": second(), "demo": demo_table()}
    tables |= {"both": both_table(), "named": named_table(), "passes": passes_table(), "places": places_table()}
    for name, table in tables.items():
        begin, end = f"<!-- {name}: python -m tools.attributes -->", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{table}\n{end}{rest.split(end)[1]}"
    write_whole(PAGE, text.encode())


def results(attributes: str, variant: str, seeds: Sequence[int] = SEEDS) -> list[Row]:
    return [json.loads((RESULTS / f"{attributes}-{variant}-{seed}.json").read_text()) for seed in seeds]


def first() -> str:
    """The table of recognition: means over seeds, and differences within a seed."""
    columns: dict[str, Callable[[Row], float]] = {
        "mAP, Noto": lambda r: r["map_noto"]["mean"],
        "mAP, Twemoji": lambda r: r["map_twemoji"]["mean"],
        "agreement of true": lambda r: r["agreement_true"]["mean"],
        "of false": lambda r: r["agreement_false"]["mean"],
        "first named is true of both": lambda r: r["top_true"]["confidence"]["mean"],
        "same both ways": lambda r: r["directions_agree"]["confidence"]["mean"],
    }
    lines = ["| attributes | trained | " + " | ".join(columns) + " |", "| --- |" + " --- |" * (len(columns) + 1)]
    for attributes in SETS:
        rows = {variant: results(attributes, variant) for variant in FIRST}
        for variant, name in (("alone", "(a) alone"), ("maps", "(b) with maps"), ("shuffled", "(c) maps of others")):
            cells = [_spread([value(r) for r in rows[variant]]) for value in columns.values()]
            lines.append(f"| {attributes} | {name} | {' | '.join(cells)} |")
        for other, name in (("alone", "b - a"), ("shuffled", "b - c")):
            pairs = list(zip(rows["maps"], rows[other], strict=True))
            cells = [_spread([value(b) - value(a) for b, a in pairs], sign=True) for value in columns.values()]
            lines.append(f"| {attributes} | {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _told(results("tags", "maps"))])


def removal() -> str:
    """The table of attribute removal: the drop in similarity for each ranking's first attribute, means over seeds."""
    columns = {"random": "any attribute", "random_true": "any true one", "confidence": "confidence", "+match": "+ match"}
    columns |= {"+prior": "+ prior", "best": "best possible"}
    gained = ("+ match gains", "+ prior gains", "true of both, confidence", "+ match", "+ prior")
    lines = [f"| attributes | trained | {' | '.join([*columns.values(), *gained])} |"]
    lines.append("| --- |" + " --- |" * (len(columns) + len(gained) + 1))
    for attributes in SETS:
        for variant in FIRST:
            rows = results(attributes, variant)
            cells = [f"{np.mean([r['removal'][key]['mean']['mean'] for r in rows]):.3f}" for key in columns]
            for key in ("+match", "+prior"):
                cells.append(_spread([r["removal"][key]["over_confidence"]["mean"] for r in rows], sign=True))
            for key in ("confidence", "+match", "+prior"):
                cells.append(_spread([r["top_true"][key]["mean"] for r in rows]))
            lines.append(f"| {attributes} | {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def second() -> str:
    """The table of variants, one seed each."""
    lines = ["| attributes | variant | mAP, Noto | mAP, Twemoji | agreement of true | of false | entropy of a map |"]
    lines.append("| --- |" + " --- |" * 6)
    for attributes in SETS:
        for variant in (*FIRST, *SECOND):
            (row,) = results(attributes, variant, (0,))
            intervals = [row[key] for key in ("map_noto", "map_twemoji", "agreement_true", "agreement_false")]
            cells = [f"{i['mean']:.3f} ({i['low']:.3f} to {i['high']:.3f})" for i in intervals]
            lines.append(f"| {attributes} | {variant} | {' | '.join(cells)} | {row['map_entropy']:.2f} |")
    return "\n".join(lines)


def of_both(*parts: str) -> list[Row]:
    rows = [row for row in json.loads(BOTH.read_text()) if row["part"] in parts]
    return sorted(rows, key=lambda row: parts.index(row["part"]))


def both_table() -> str:
    """The first attribute of a pair, by source and ranking."""
    lines = ["| pictures | network | attributes from | mAP | by confidence | p_q p_r | joint | joint over confidence |"]
    lines.append("| --- |" + " --- |" * 7)
    rows = of_both("emoji", "texts", "mobilenet", "clipart")
    for row in rows:
        what = "clip art" if row["part"] == "clipart" else "emoji"
        cells = [what, row["network"], row["source"], _interval(row["mean_average_precision"])]
        cells += [_interval(row["first_true"][name]) for name in ("confidence", "product", "joint")]
        lines.append(f"| {' | '.join([*cells, _interval(row['gain']['joint'], sign=True)])} |")
    counts = {row["part"]: (row["pairs"], row["pairs_with_a_true_one"]) for row in rows}
    each = counts.items()
    told = "; ".join(f"{part}: {pairs} pairs, {share:.2f} with an attribute true of both" for part, (pairs, share) in each)
    return "\n".join([*lines, "", f"{told}. {_made(rows)}"])


def named_table() -> str:
    """How many attributes are named from a threshold on, and how many of them are true of both."""
    rows = of_both("emoji", "mobilenet", "clipart")
    thresholds = [found["threshold"] for found in rows[0]["named"]]
    lines = ["| pictures | network | attributes from | a, b, c | error of the joint, of p_q p_r |"]
    lines[0] += "".join(f" named from {t:g} |" for t in thresholds)
    lines.append("| --- |" + " --- |" * (4 + len(thresholds)))
    for row in rows:
        fitted = ", ".join(f"{v:.2f}" for v in row["joint"])
        cells = ["clip art" if row["part"] == "clipart" else "emoji", row["network"], row["source"], fitted]
        cells.append(f"{row['joint_error']:.4f}, {row['product_error']:.4f}")
        cells += [f"{found['per_pair']:.1f}, {found['true_of_both']:.2f} true" for found in row["named"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def passes_table() -> str:
    """What the passes add to a probe on the embedding."""
    lines = ["| network | split | mAP, embedding | with passes | first true of both, embedding | with passes | gain |"]
    lines.append("| --- |" + " --- |" * 6)
    rows = of_both("passes")
    for row in rows:
        cells = [
            _interval(row[key][name]) for key in ("mean_average_precision", "first_true") for name in ("embedding", "passes")
        ]
        lines.append(
            f"| {row['network']} | {row['seed']} | {' | '.join(cells)} | {_interval(row['first_true_gain'], sign=True)} |"
        )
    return "\n".join([*lines, "", _made(rows)])


def places_table() -> str:
    """Where an attribute of a colour is seen."""
    lines = ["| map | area under the curve |", "| --- | --- |"]
    rows = of_both("places")
    lines += [f"| {row['source']} | {_interval(row['auc'])} |" for row in rows]
    return "\n".join([*lines, "", f"{rows[0]['maps']} maps of test pictures, {rows[0]['masks']} masks. {_made(rows)}"])


def demo() -> None:
    """Write benchmarks/results/attributes/demo.json and the contact sheet."""
    data, explainer = load_emoji(EMOJI, "all"), Explainer()
    folder = Path(".cache/experiment/demo-test")
    labels = write_labelled(data, "test", folder)
    table = explainer.model.bundle.attributes
    assert table is not None
    labelled = read_labels(labels, folder, table.names)
    found = json_ready(evaluate(explainer, labelled, PAIRS, Rise(seed=SEED), quiet=False))
    settings = {"identity": explainer.model.bundle.identity, "phi": table.weights, "threshold": table.threshold}
    settings |= {"pairs": PAIRS, "seed": SEED, "precision": explainer.precision, "masks": "auto"}
    write_whole(DEMO, (json.dumps({**settings, **found, **circumstances()}, indent=1) + "\n").encode())
    sheet(explainer, labelled).save(SHEET, optimize=True)


def demo_table() -> str:
    found = json.loads(DEMO.read_text())
    lines = [
        "| ranking | first named is true of both | same both ways | drop when it is removed |",
        "| --- | --- | --- | --- |",
    ]
    for name, words in (
        ("joint", "joint, the default"),
        ("all", "sane, the bundle's phi"),
        ("confidence", "confidence alone"),
    ):
        cells = [found["top_true"][name], found["direction_agreement"][name], found["removal"][name]["mean"]]
        lines.append(f"| {words} | {' | '.join(_interval(i) for i in cells)} |")
    for name, words in (("random", "any attribute"), ("random_true", "any true one"), ("best", "best possible")):
        lines.append(f"| {words} | | | {_interval(found['removal'][name]['mean'])} |")
    phi = ", ".join(f"{weight:g}" for weight in found["phi"])
    joint = found["joint"]
    named = (
        f"Named from probability {found['threshold']:g}: {_interval(joint['named_per_pair'])} a pair, of which "
        f"{_interval(joint['named_true_of_both'])} are true of both; {_interval(joint['pairs_with_a_name'])} of the pairs "
        f"get one. Gain of joint over confidence alone: {_interval(found['top_true_over_confidence']['joint'], sign=True)}."
    )
    told = (
        f"{found['pairs']} pairs both ways, seed {found['seed']}, phi {phi}, {found['precision']}, masks {found['masks']}; "
        f"{found['machine']}, onnxruntime {found['onnxruntime']}, commit {found['commit']}."
    )
    return "\n".join([*lines, "", named, "", told])


def sheet(explainer: Explainer, labelled: Labelled) -> Image.Image:
    """Draw twenty of these pairs, chosen by the seed: query, map, reference, and attributes, red unless true of both."""
    seen = run_networks(explainer, labelled.files, lambda *_: None)
    pairs = draw_pairs(split_directions(matching_pairs(labelled, similarities(explainer, seen.embeddings)))[0], PAIRS, SEED)
    order = np.random.default_rng(SEED).permutation(len(pairs))[:SHOWN]
    table = explainer.model.bundle.attributes
    assert table is not None
    cells = []
    for query, reference in pairs[order]:
        explanation = explainer.explain(labelled.files[query], labelled.files[reference], top=NAMED)
        true = labelled.truth[[query, reference]].all(0)
        cells.append(_cell(explanation, {name for name, yes in zip(table.names, true, strict=True) if yes}))
    width, height = cells[0].size
    page = Image.new("RGB", (COLUMNS * width, -(-len(cells) // COLUMNS) * height), "white")
    for i, cell in enumerate(cells):
        page.paste(cell, (i % COLUMNS * width, i // COLUMNS * height))
    return page


def _cell(explanation: Explanation, true: set[str]) -> Image.Image:
    assert explanation.reference_image is not None
    line, font = 17, ImageFont.load_default(14)
    cell = Image.new("RGB", (3 * CELL, CELL + (NAMED + 1) * line), "white")
    for i, panel in enumerate(panel.drawn() for panel in panels(explanation)[:3]):
        cell.paste(panel.resize((CELL - 8, CELL - 8)), (i * CELL + 4, 4))
    draw = ImageDraw.Draw(cell)
    for i, a in enumerate(explanation.attributes):
        text = f"{a.name}  {a.confidence:.2f}  match {a.match:+.2f}  prior {a.prior:.2f}"
        draw.text((6, CELL + i * line), text, "#1c1c1e" if a.name in true else "#c8401e", font)
    if not explanation.attributes:
        draw.text((6, CELL), "no attribute reaches the threshold", "#6e6e73", font)
    return cell


def _spread(values: Sequence[float], sign: bool = False) -> str:
    """The mean over seeds, with the least and the largest."""
    form = "+.3f" if sign else ".3f"
    return f"{np.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _interval(found: dict[str, float], sign: bool = False) -> str:
    mean, low, high = (f"{found[key]:{'+' if sign else ''}.3f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _made(rows: Sequence[Row]) -> str:
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    return f"{rows[0]['machine']}, onnxruntime {rows[0]['onnxruntime']}, commit {commits}."


def _told(rows: Sequence[Row]) -> str:
    row = rows[0]
    seeds, longest = ", ".join(str(r["seed"]) for r in rows), max(r["training_seconds"] for r in rows) / 60
    return (
        f"Means over seeds {seeds} (least to largest); maps of {row['masks']} masks, weight {row['weight']:g}; at most "
        f"{longest:.1f} minutes of training an attribute network; {row['machine']}, torch {row['torch']}, onnxruntime "
        f"{row['onnxruntime']}, commit {row['commit']}."
    )


if __name__ == "__main__":
    main()
