"""The demo's attributes: those of the attribute network or probes on the similarity network, whichever the pairs prefer.

Both are calibrated on the validation emoji, whose pairs decide: the better one names an attribute first that is true of both
drawings more often. Its threshold is the least of THRESHOLDS from which NAMED_TRUE of the named attributes are true of both.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from engine import Explainer
from engine.attributes.probability import joint_probability
from engine.bundle import load_bundle
from engine.errors import OptionError
from engine.evaluate.recognition import mean_average_precision
from engine.terminal import say
from export.calibration import calibrate
from export.probes import export_probes
from export.write import copy_without, finish, replacing
from training.datasets.emoji import VENDORS, Emoji
from training.emoji_labels import write_labelled

NOT_SHOWN = {"Flags", "country-flag"}
"""Attributes that are true of the same pictures as "flag"."""
LEARNED = 0.5
"""An attribute is shown from this average precision on the validation emoji."""
NAMED_TRUE = 0.9
THRESHOLDS = tuple(np.arange(10, 20) / 20)


def settle_attributes(data: Emoji, bundle: Path, out: Path, seed: int) -> dict[str, Any]:
    """Calibrate a bundle's attribute network, and probes beside it; keep the better in the bundle, and return figures."""
    labels = write_labelled(data, "valid", out / "valid")
    probed = probed_bundle(data, bundle, out, seed)
    figures = {}
    for name, folder in (("network", bundle), ("probes", probed)):
        calibrate(folder, labels.parent, labels, seed=seed, quiet=False)
        use_threshold(data, folder)
        figures[name] = of_both(data, Explainer(folder), "valid")
        say(f"{name}: first named is true of both in {figures[name]['first_true']:.3f} of the validation pairs")
    chosen = max(figures, key=lambda name: figures[name]["first_true"])
    if chosen == "probes":
        shutil.rmtree(bundle)
        shutil.copytree(probed, bundle)
    return {"chosen": chosen, "valid": figures}


def probed_bundle(data: Emoji, bundle: Path, out: Path, seed: int) -> Path:
    """Return a copy of the bundle with probes, fitted to the training emoji, for attributes that they learn well."""
    probed = out / "probed"
    shutil.rmtree(probed, ignore_errors=True)
    shutil.copytree(bundle, probed)
    names = [name for name in data.attributes if name not in NOT_SHOWN]
    labels = write_labelled(data, "train", out / "train", names)
    fitted = export_probes(probed, labels.parent, labels, seed=seed, quiet=False).table.names
    valid = data.split("valid")
    seen = Explainer(probed).confidences([data.picture(i) for i in valid])
    truth = data.truth[np.ix_(valid, [data.attributes.index(name) for name in fitted])]
    _, precision = mean_average_precision(truth, seen)
    learned = [name for name, value in zip(fitted, precision, strict=True) if value >= LEARNED]
    labels = write_labelled(data, "train", out / "train", learned)
    export_probes(probed, labels.parent, labels, seed=seed, quiet=False)
    return probed


def use_threshold(data: Emoji, bundle: Path) -> None:
    """Choose the bundle's threshold on the validation pairs."""
    probability, truth = _pairs(data, Explainer(bundle), "valid")
    shares = [truth[probability >= threshold].mean() for threshold in THRESHOLDS]
    good = [threshold for threshold, share in zip(THRESHOLDS, shares, strict=True) if share >= NAMED_TRUE]
    before = load_bundle(bundle)
    if before.attributes is None:
        raise OptionError(f"{bundle} has no attributes")
    table = dataclasses.replace(before.attributes, threshold=float(good[0] if good else THRESHOLDS[-1]))
    with replacing(bundle) as folder:
        copy_without(before, [], folder)
        finish(folder, before.manifest, table, before.canonical)


def of_both(data: Emoji, explainer: Explainer, split: str) -> dict[str, float]:
    """Return how good the attributes named for the pairs of a split are, as shares."""
    probability, truth = _pairs(data, explainer, split)
    table = explainer.model.bundle.attributes
    named = probability >= (0.0 if table is None else table.threshold)
    first = truth[np.arange(len(truth)), probability.argmax(1)]
    return {
        "first_true": float(first.mean()),
        "named_true": float(truth[named].mean()),
        "named_per_pair": float(named.sum(1).mean()),
        "pairs_with_a_name": float(named.any(1).mean()),
    }


def _pairs(data: Emoji, explainer: Explainer, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of being true of both drawings of each emoji of a split, and whether it is: (P, A) each."""
    table, count = explainer.model.bundle.attributes, len(data.pair.base)
    if table is None:
        raise OptionError("the bundle has no attributes")
    columns = [data.attributes.index(name) for name in table.names]
    drawn = [data.bases(split) + i * count for i in range(len(VENDORS))]
    ours, theirs = (explainer.confidences([data.picture(i) for i in which]) for which in drawn)
    truth = data.truth[drawn[0]][:, columns] & data.truth[drawn[1]][:, columns]
    return joint_probability(ours, theirs, table.joint), truth
