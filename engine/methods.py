"""What can be asked of a saliency method: frozen options, checked when made."""

import dataclasses

from engine.errors import OptionError
from engine.plans import LARGEST_GRID, RisePlan, draw_rise

LARGEST_PLAN = 1_000_000


@dataclasses.dataclass(frozen=True)
class Rise:
    """Random masks (Petsiuk et al. 2018).

    masks: passes over the query; grid: cells a side; p: probability that a cell is shown
    estimator: "sane", the paper's sum of masks weighted by similarity over the mean mask
    seed: 0..2^64-1; equal seeds draw equal masks

    Raises OptionError for values out of range.
    """

    masks: int = 2000
    grid: int = 8
    p: float = 0.5
    estimator: str = "sane"
    seed: int = 0

    name = "rise"

    def __post_init__(self) -> None:
        _whole("masks", self.masks, 1, LARGEST_PLAN)
        _whole("grid", self.grid, 1, LARGEST_GRID)
        _whole("seed", self.seed, 0, 2**64 - 1)
        if not 0 < self.p <= 1:
            raise OptionError(f"p must lie above 0 and at most 1, got {self.p}")
        if self.estimator != "sane":
            raise OptionError(f"estimator must be 'sane', got {self.estimator!r}")

    def draw(self, height: int, width: int) -> RisePlan:
        return draw_rise(self.masks, self.grid, self.p, self.seed, height, width)


METHODS = {"rise": Rise}


def method_named(method: str | Rise) -> Rise:
    """Options for a name, or the options themselves; raises OptionError for an unknown method."""
    if isinstance(method, Rise):
        return method
    if method in METHODS:
        return METHODS[method]()
    raise OptionError(f"method must be one of {', '.join(METHODS)} or its options object, got {method!r}")


def _whole(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise OptionError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
