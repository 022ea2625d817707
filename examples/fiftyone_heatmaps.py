"""Heat maps in FiftyOne: for each picture of a folder, why it matches the query, beside its similarity and attributes.

    python examples/fiftyone_heatmaps.py query.jpg pictures --bundle models/shoes --dataset why

Then `fiftyone app launch` shows them, to sort by similarity and to fade the maps. Needs sane-engine[cpu] and fiftyone, which
keeps its data sets in a database of its own.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import fiftyone as fo
import numpy as np

from engine import Explainer, Explanation
from engine.terminal import run_command, say

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def heatmap(values: np.ndarray) -> fo.Heatmap:
    """Return a map (H, W) float32 over an original picture; what the network did not see counts as 0."""
    whole = np.nan_to_num(values)
    most = float(np.abs(whole).max()) or 1.0
    return fo.Heatmap(map=whole, range=[-most, most])


def sample_of(picture: Path, explanation: Explanation) -> fo.Sample:
    """Return a sample of a picture that is the explanation's reference, with its own map."""
    sample = fo.Sample(filepath=str(picture.resolve()))
    sample["similarity"] = explanation.similarity
    sample["why"] = heatmap(explanation.on_original(reference=True))
    named = [fo.Classification(label=one.name, confidence=one.score) for one in explanation.attributes]
    sample["in_both"] = fo.Classifications(classifications=named)
    return sample


def samples(options: argparse.Namespace) -> list[fo.Sample]:
    """Explain every picture of the folder against the query; the query's passes are run once."""
    pictures = sorted(path for path in options.pictures.iterdir() if path.suffix.lower() in SUFFIXES)
    explainer = Explainer(options.bundle)
    found = explainer.explain_many(options.query, pictures, mode="pair")
    return [sample_of(picture, one) for picture, one in zip(pictures, found, strict=True)]


def write(options: argparse.Namespace) -> None:
    dataset = fo.Dataset(options.dataset, persistent=True, overwrite=True)
    dataset.add_samples(samples(options), progress=False)
    say(f"wrote {len(dataset)} samples to the dataset {options.dataset}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write why pictures match a query as heat maps of FiftyOne.")
    add = parser.add_argument
    add("query", type=Path, metavar="QUERY")
    add("pictures", type=Path, metavar="FOLDER")
    add("--bundle", type=Path, metavar="DIR", help="a model of yours (default: the embedded demo)")
    add("--dataset", default="why", metavar="NAME", help="written anew (default: %(default)s)")
    options = parser.parse_args(arguments)
    return run_command(lambda: write(options))


if __name__ == "__main__":
    sys.exit(main())
