"""The demo pictures of the package, which every graph is tried on."""

from importlib import resources
from pathlib import Path

import numpy as np

from engine.errors import OptionError
from engine.pictures.loading import load_picture
from engine.pictures.preprocessing import Preprocessing


def demo_pictures(preprocessing: Preprocessing) -> np.ndarray:
    """Return the demo pictures of the package as the network sees them: (n, H, W, 3) uint8."""
    folder = Path(str(resources.files("engine") / "data" / "pictures"))
    paths = sorted(folder.glob("*.png"))
    if len(paths) < 2:
        raise OptionError(f"{folder} holds no pictures to compare graphs on; install sane-engine again")
    return np.stack([preprocessing.fitted(load_picture(path))[0] for path in paths])
