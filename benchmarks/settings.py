"""What is compared with what: the default, and the published procedure's settings."""

from engine import Rise

MASKS = 2000
OTHERS = 30
"""The published numbers of masks: on the query, and on the reference where it is masked too (K)."""
PUBLISHED_SEED, PUBLISHED_OTHER_SEED = 1, 2
TRUTH_SEED, TRUTH_OTHER_SEED = 1001, 1002
DEFAULT = Rise()


def sane(masks: int, seed: int = PUBLISHED_SEED) -> Rise:
    """The published estimator on plain random masks."""
    return Rise(masks=masks, seed=seed, estimator="sane")


def regression(masks: int) -> Rise:
    """The default's masks and estimator at a fixed number of passes."""
    return Rise(masks=masks, estimator="regression")
