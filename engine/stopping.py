"""When enough masks were run: what a caller allows, and after how many masks the stopping rule looks."""

import dataclasses
import math
import time

from engine.errors import OptionError
from engine.methods import Method
from engine.rise import AUTO, BLOCK, Rise

DIRECTIONS = 12
"""Leading directions of the embeddings that stand for references not known yet."""


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """Of maps, mean over references: estimated correlation with their limits for infinitely many masks.

    reliability: of the maps as they are; published: of the published number of masks by the published estimator
    """

    reliability: float
    published: float


@dataclasses.dataclass(frozen=True)
class Budget:
    """When passes may end before the plan does.

    tolerance: estimated correlation with the limit that is enough; as_published: that of the published number of masks is;
    until: time.perf_counter() at which the caller wants the answer; None: no such end
    """

    tolerance: float | None = None
    until: float | None = None
    as_published: bool = False

    @classmethod
    def of(cls, options: Method, drawn: bool, tolerance: float | None, deadline: float | None) -> "Budget":
        """For a call that begins now. deadline: seconds. Raises OptionError for what the method cannot do."""
        regression = drawn and options.estimator == "regression"
        if tolerance is not None:
            if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance <= 1:
                raise OptionError(f"tolerance is a correlation, above 0 and at most 1, got {tolerance!r}")
            if not regression:
                raise OptionError(
                    "tolerance needs estimator 'regression' and masks drawn from a seed: no other tells its error"
                )
        as_published = tolerance is None and regression and isinstance(options, Rise) and options.masks == "auto"
        if deadline is None:
            return cls(tolerance, None, as_published)
        if isinstance(deadline, bool) or not isinstance(deadline, (int, float)) or not 0 < deadline < math.inf:
            raise OptionError(f"deadline is a number of seconds above 0, got {deadline!r}")
        if options.name == "window":
            raise OptionError("deadline does not apply to method window, whose windows all count")
        return cls(tolerance, time.perf_counter() + deadline, as_published)

    def share(self, pictures: int) -> "Budget":
        """For the first of so many pictures, the time that is left divided evenly."""
        if self.until is None:
            return self
        now = time.perf_counter()
        return dataclasses.replace(self, until=now + (self.until - now) / pictures)

    def first_look(self) -> "Budget":
        """The same, satisfied where it first looks."""
        return dataclasses.replace(self, tolerance=0.0) if self.looks else self

    @property
    def looks(self) -> bool:
        """Whether maps decide when it is enough."""
        return self.tolerance is not None or self.as_published

    def goal(self, done: int, fidelity: Fidelity | None, total: int) -> int | None:
        """How many masks to run next before looking again, those `done` included; None: enough.

        fidelity: after `done` masks. What the noise adds to a map, 1 - r^2 in parts of its variance, falls as 1 / masks:
        that tells where the tolerance will be reached.
        """
        if done >= total:
            return None
        if not self.looks:
            return total
        if fidelity is None:
            return min(max(AUTO[0], done + 1), total)
        wanted = fidelity.published if self.tolerance is None else self.tolerance
        if fidelity.reliability >= wanted:
            return None
        needed = done * (1 - fidelity.reliability**2) / max(1 - wanted**2, 1e-9)
        return min(max(BLOCK * int(min(needed, total) // BLOCK), done + BLOCK), total)
