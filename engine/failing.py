"""One picture of many that fails: whether that is the picture's own failure, or the end of the work."""

import numpy as np

from engine.errors import BundleError, EngineError, ImageError
from engine.model import LoadedModel

PICTURE_ERRORS = (ImageError, BundleError)
"""What a picture can raise: it cannot be read, or the network gives it numbers that mean nothing."""


def picture_failure(error: EngineError, model: LoadedModel) -> str:
    """Return why one picture of many has no result, so that the others get theirs.

    error: one of PICTURE_ERRORS. It is raised again if the model does not run its canonical picture either, in a batch as
    large as those of the passes: then no other picture would do better.
    """
    if isinstance(error, BundleError):
        _require_running(error, model)
    return str(error)


def _require_running(error: BundleError, model: LoadedModel) -> None:
    image = model.preprocessing.normalised(model.bundle.canonical["picture"])
    rows = np.stack([image] * model.run_settings.batch)
    try:
        for network in (model.similarity, model.attributes):
            if network is not None:
                network.run(rows)
        if any(graph.layout is not None for graph in model.manifest.graphs):
            model.tokens().canonical(image)
    except EngineError:
        raise error from None
