"""The saliency methods by name."""

from engine.errors import OptionError
from engine.lime import Lime, LimePlan
from engine.protocol import Plan
from engine.rise import Rise, RisePlan
from engine.window import Window, WindowPlan

Method = Rise | Window | Lime
"""Frozen options. Each has a `name`, a `baseline` (what hidden pixels become unless a caller says otherwise), an `estimator`
(how maps come from scores; "sane" is the published way), a `seed` (None where nothing is drawn), and `plan(pixels)`, which
gives the plan for a picture (H, W, 3) uint8 as the network sees it.
"""

METHODS: dict[str, type[Method]] = {"rise": Rise, "window": Window, "lime": Lime}
PLANS: dict[type, type[Method]] = {RisePlan: Rise, WindowPlan: Window, LimePlan: Lime}


def method_named(method: str | Method) -> Method:
    """Options for a name, or the options themselves; raises OptionError for an unknown method."""
    if isinstance(method, (Rise, Window, Lime)):
        return method
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]()
    raise OptionError(f"method must be one of {', '.join(METHODS)} or its options object, got {method!r}")


def method_of(plan: Plan, method: str | Method) -> Method:
    """The method that a plan handed in belongs to: `method` where that is it, else its defaults; raises OptionError."""
    owner = PLANS.get(type(plan))
    if owner is None:
        raise OptionError(f"a plan must be one of {', '.join(p.__name__ for p in PLANS)}, got {type(plan).__name__}")
    options = method_named(method)
    return options if isinstance(options, owner) else owner()
