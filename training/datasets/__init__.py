"""The data sets that networks are trained on, by name; each one is a `training.datasets.protocol.DataSet`."""

import importlib
from pathlib import Path

from engine.errors import OptionError
from training.datasets.protocol import DataSet

NAMES = ("emoji", "emoji-parts", "awa2", "polyvore")


def load(name: str, root: Path) -> DataSet:
    """Load a data set from its folder `root` (docs/method.md, Data layouts); the emoji are fetched there on first use.

    name: emoji, whose attributes are tags; emoji-parts, whose attributes are visible parts of each drawing; awa2; polyvore
    Raises OptionError.
    """
    if name not in NAMES:
        raise OptionError(f"there is no data set {name!r}; choose one of {', '.join(NAMES)}")
    module, _, attributes = name.partition("-")
    given = {"attributes": attributes} if attributes else {}
    # imported when needed: a data set does not need what another one imports
    load_it = getattr(importlib.import_module(f"training.datasets.{module}"), f"load_{module}")
    data: DataSet = load_it(root, **given)
    return data
