"""The data sets that networks are trained on, by name; each one is a `training.datasets.protocol.DataSet`."""

import importlib
from pathlib import Path
from typing import Any

from engine.errors import OptionError
from engine.pictures.reading import AS_USUAL, Reading
from training.datasets.protocol import DataSet

PHOTOS = ("awa2", "polyvore")
NAMES = ("emoji", "emoji-parts", *PHOTOS)


def load(name: str, root: Path, reading: Reading = AS_USUAL) -> DataSet:
    """Load a data set from its folder `root` (docs/method.md, Data layouts); the emoji are fetched there on first use.

    name: emoji, whose attributes are tags; emoji-parts, whose attributes are visible parts of each drawing; awa2; polyvore
    reading: how the files of photos are read
    Raises OptionError.
    """
    if name not in NAMES:
        raise OptionError(f"there is no data set {name!r}; choose one of {', '.join(NAMES)}")
    if reading != AS_USUAL and name not in PHOTOS:
        raise OptionError(f"--max-pixels and --apply-profiles are of photos, and {name} has none: leave them out")
    module, _, attributes = name.partition("-")
    given: dict[str, Any] = {"attributes": attributes} if attributes else {}
    if name in PHOTOS:
        given["reading"] = reading
    # imported when needed: a data set does not need what another one imports
    load_it = getattr(importlib.import_module(f"training.datasets.{module}"), f"load_{module}")
    data: DataSet = load_it(root, **given)
    return data
