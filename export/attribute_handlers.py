"""The subcommands about attributes that need no PyTorch: from labels, by vectors, and their calibration."""

import argparse

from engine.errors import OptionError
from engine.pictures.reading import reading_of
from export.calibration import calibrate
from export.joint import JointFit
from export.probes import Probes, export_probes
from export.vectors import export_vectors

OF_MODELS = ("names", "weights", "input", "output")
"""Options that say something of an attribute model."""


def fitted_attributes(options: argparse.Namespace) -> str:
    """Run `attributes --labels` or `attributes --vectors`, and say for people what was found."""
    for name in OF_MODELS:
        if getattr(options, name) is not None:
            raise OptionError(f"--{name} is about an attribute model: leave it out with --labels and --vectors")
    given = {k: getattr(options, k) for k in ("confidence", "threshold") if getattr(options, k) is not None}
    if options.vectors is not None:
        for name in ("images", "passes", "seed"):
            if getattr(options, name):
                raise OptionError(f"--{name} is used with --labels only: leave it out")
        table = export_vectors(options.bundle, options.vectors, **given)
        return f"{len(table.names)} attributes by vector\nwrote {options.bundle}"
    if options.images is None:
        raise OptionError("--labels needs --images: the folder of the pictures that the file names")
    if given.pop("confidence", "sigmoid") != "sigmoid":
        raise OptionError(f"attributes from labels have confidence sigmoid, got {options.confidence}: leave it out")
    found = export_probes(
        options.bundle,
        options.images,
        options.labels,
        seed=options.seed or 0,
        passes=options.passes,
        **given,
        quiet=False,
        reading=reading_of(options),
    )
    return "\n".join([*_about(found), f"wrote {options.bundle}"])


def _about(found: Probes) -> list[str]:
    sizes = ", ".join(f"{tap.height} x {tap.width}" for tap in found.taps)
    source = f"{len(found.taps)} layers of the network ({sizes} cells)" if found.taps else "the embedding alone"
    lines = [f"{len(found.table.names)} attributes read off {source}, from {found.record['pictures']} pictures"]
    if not found.taps:
        advice = "" if found.record["passes"] else "; --passes looks at every picture through masks too, and sees more"
        lines.append(f"no layer of this network can be tapped: no activation lies over the picture{advice}")
    for kind, judged in found.record["probes"].items():
        precision, error = judged["mean_average_precision"]["mean"], judged["calibration_error"]
        lines.append(f"on pictures held out, {kind}: mean average precision {precision:.3f}, calibration error {error:.4f}")
    if found.left_out:
        lines.append(f"left out for too few pictures ({counted(list(found.left_out))})")
    return lines


def calibrated(options: argparse.Namespace) -> str:
    """Run `calibrate`, and say for people what was found."""
    found = calibrate(
        options.bundle, options.images, options.labels, seed=options.seed, quiet=False, reading=reading_of(options)
    )
    passes = [name for name, value in zip(found.table.names, found.prior.value, strict=True) if value > 0]
    pairs, grouped = found.record["explained_pairs"], found.record["pairing"] == "groups"
    search = found.search
    lines = [
        f"pairs: {'pictures of one group' if grouped else 'each picture and the one most similar to it (no groups given)'}",
        f"prior: significant for {len(passes)} of {len(found.table.names)} attributes"
        + (f": {', '.join(passes)}" if passes else ""),
        f"calibration error: {found.before.error:.4f} -> {found.after.error:.4f}"
        + ("" if found.scaled else "; the confidences stay as they are, because they fit held-out pictures better"),
        _about_joint(found.joint),
        f"phi: {' '.join(f'{weight:g}' for weight in search.phi)}; drop in similarity over {pairs} pairs {search.best}, "
        f"with confidence alone {search.confidence}; gain of weights that other pairs chose {search.held_out}",
        f"wrote {options.bundle}",
    ]
    unknown = list(found.record["unknown_attributes"])
    if unknown:
        lines.insert(0, f"left out attributes that the bundle does not have ({counted(unknown)})")
    return "\n".join(lines)


def counted(names: list[str]) -> str:
    """Say how many names there are, and the first of them."""
    return f"{len(names)}: {', '.join(names[:3])}{', ...' if names[3:] else ''}"


def _about_joint(found: JointFit) -> str:
    errors = "" if found.fitted_error is None else f"; calibration error of the product {found.product_error:.4f}"
    if found.joint is None:
        return f"true of both pictures: the product of the two confidences, over {found.pairs} pairs{errors}"
    a, b, c = found.joint
    return (
        f"true of both pictures: sigmoid({a:.2f} min {b:+.2f} max {c:+.2f}) of the logits, over {found.pairs} pairs"
        f"{errors}, of the fit {found.fitted_error:.4f}"
    )
