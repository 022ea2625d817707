"""Decide when enough masks have run: the caller's limits, and the stopping rule's checks (docs/estimator.md)."""

import dataclasses
import math
import time
from typing import Protocol

from engine.errors import OptionError

AUTO = (256, 1024)
"""The stopping rule runs at least and at most so many masks."""
BLOCK = 128
"""Masks between two checks; also the size of a balanced block of `engine.methods.rise`."""
PUBLISHED, PUBLISHED_OTHERS = 2000, 30
"""Masks of the published procedure: over the query, and over a reference that is masked too."""


class StoppingOptions(Protocol):
    """What the options of every method say about the end of its passes.

    name: the method's; estimator: how maps are made from scores
    ends_early: whether a deadline may end its passes early
    automatic: whether the stopping rule decides how many passes are enough
    enough: the correlation that is enough then; None: what the published procedure would reach
    first_look: passes before the first check
    step: passes between two checks; None: as many as a share of noise that falls as 1 / masks predicts
    """

    @property
    def name(self) -> str: ...
    @property
    def estimator(self) -> str: ...
    @property
    def ends_early(self) -> bool: ...
    @property
    def automatic(self) -> bool: ...
    @property
    def enough(self) -> float | None: ...
    @property
    def first_look(self) -> int: ...
    @property
    def step(self) -> int | None: ...


@dataclasses.dataclass(frozen=True)
class Convergence:
    """How close maps are to their limits for infinitely many masks: estimated correlations, as means over the references.

    reliability: of the maps as they are now; published: of the maps that the published procedure would give
    behind: by how much less than its mean the first counts beside the second: of references that are not known yet, some are
        less reliable than the directions that stand for them in the mean
    """

    reliability: float
    published: float
    behind: float = 0.0


@dataclasses.dataclass(frozen=True)
class Budget:
    """When passes may end before the plan is complete.

    tolerance: a correlation with the limit that is enough, None for no such end
    until: time.perf_counter() at which the caller wants the answer, None for no deadline
    as_published: whether the correlation of the published procedure is enough
    first_look, step: masks before the first check and between two, as `StoppingOptions` says
    """

    tolerance: float | None = None
    until: float | None = None
    as_published: bool = False
    first_look: int = AUTO[0]
    step: int | None = None

    @classmethod
    def of(cls, options: StoppingOptions, drawn: bool, tolerance: float | None, deadline: float | None) -> "Budget":
        """Return the budget of a call that begins now.

        drawn: whether the masks were drawn from a seed; deadline: seconds from now
        Raises OptionError for values out of range, or if the method cannot end early.
        """
        regression = drawn and options.estimator == "regression"
        if tolerance is not None:
            _require_tolerance(tolerance, regression)
        if tolerance is None and drawn and options.automatic:
            tolerance = options.enough
        as_published = tolerance is None and drawn and options.automatic
        if deadline is None:
            return cls(tolerance, None, as_published, options.first_look, options.step)
        if isinstance(deadline, bool) or not isinstance(deadline, (int, float)) or not 0 < deadline < math.inf:
            raise OptionError(f"deadline must be a number of seconds above 0, got {deadline!r}")
        if not options.ends_early:
            raise OptionError(f"deadline does not apply to method {options.name}: its map needs every pass")
        return cls(tolerance, time.perf_counter() + deadline, as_published, options.first_look, options.step)

    def share(self, pictures: int) -> "Budget":
        """Return the budget of the first of so many pictures, which share the remaining time evenly."""
        if self.until is None:
            return self
        now = time.perf_counter()
        return dataclasses.replace(self, until=now + (self.until - now) / pictures)

    def first_check(self) -> "Budget":
        """Return a budget that ends at the first check of the stopping rule, if there are checks."""
        return dataclasses.replace(self, tolerance=0.0) if self.checks else self

    @property
    def checks(self) -> bool:
        """Whether the maps are checked to decide how many masks are enough."""
        return self.tolerance is not None or self.as_published

    def goal(self, done: int, convergence: Convergence | None, total: int) -> int | None:
        """Return how many masks to run in all before the next check, `done` included; None if enough were run.

        convergence: after `done` masks, None before the first check; total: masks of the plan
        Noise is a share 1 - r^2 of a map's variance and falls as 1 / masks, which predicts when the tolerance is reached.
        """
        if done >= total:
            return None
        if not self.checks:
            return total
        if convergence is None:
            return min(max(self.first_look, done + 1), total)
        wanted, reached = self.tolerance, convergence.reliability
        if wanted is None:
            wanted, reached = convergence.published, convergence.reliability - convergence.behind
        if reached >= wanted:
            return None
        if self.step is not None:
            return min(done + self.step, total)
        needed = done * (1 - reached**2) / max(1 - wanted**2, 1e-9)
        return min(max(BLOCK * int(min(needed, total) // BLOCK), done + BLOCK), total)


def _require_tolerance(tolerance: object, regression: bool) -> None:
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance <= 1:
        raise OptionError(f"tolerance must be a correlation above 0 and at most 1, got {tolerance!r}")
    if not regression:
        raise OptionError("tolerance needs estimator 'regression' and masks drawn from a seed: only their maps have errors")
