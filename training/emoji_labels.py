"""The emoji of a split as pictures with labels, as `export attributes --labels` and `export calibrate` read them."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from engine.files import write_whole
from export.write import as_output_error
from training.datasets.emoji import VENDORS, Emoji


def write_labelled(data: Emoji, split: str, folder: Path, names: Sequence[str] | None = None) -> Path:
    """Write the pictures of a split, and a file of what is true of each; return that file.

    names: the attributes that the file names; None: all
    """
    with as_output_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
    wanted = data.attributes if names is None else names
    count, lines = len(data.pair.base), ["image,group,attributes"]
    for index in data.split(split):
        vendor, base = divmod(int(index), count)
        name = f"{base}-{VENDORS[vendor]}.png"
        Image.fromarray(data.picture(index)).save(folder / name)
        true = [a for a, yes in zip(data.attributes, data.truth[index], strict=True) if yes and a in wanted]
        lines.append(f"{name},{base},{';'.join(true)}")
    labels = folder / "labels.csv"
    write_whole(labels, ("\n".join(lines) + "\n").encode())
    return labels
