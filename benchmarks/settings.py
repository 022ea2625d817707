"""The settings that are compared: the engine's default, and those of the published procedure."""

from collections.abc import Sequence

from engine import Rise
from engine.errors import OptionError

MASKS = 2000
OTHERS = 30
"""The published numbers of masks: of the query, and of the reference if it is masked too (K)."""
PUBLISHED_SEED, PUBLISHED_OTHER_SEED = 1, 2
TRUTH_SEED, TRUTH_OTHER_SEED = 1001, 1002
DEFAULT = Rise()


def sane(masks: int, seed: int = PUBLISHED_SEED) -> Rise:
    """Return the published estimator on plain random masks."""
    return Rise(masks=masks, seed=seed, estimator="sane")


def regression(masks: int) -> Rise:
    """Return the default masks and estimator, with a fixed number of passes."""
    return Rise(masks=masks, estimator="regression")


def chosen_names(given: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """Return the names that a command was given, or all known ones if none; raises OptionError for an unknown name."""
    unknown = [name for name in given if name not in known]
    if unknown:
        raise OptionError(f"there is no network {', '.join(unknown)}: choose from {', '.join(known)}")
    return given or known
