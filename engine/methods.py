"""The saliency methods by name."""

from engine.errors import OptionError
from engine.learned import LearnedMask
from engine.lime import Lime, LimePlan
from engine.protocol import Plan
from engine.rise import Rise, RisePlan
from engine.window import Window, WindowPlan

Planned = Rise | Window | Lime
"""Frozen options of methods whose passes depend on the query alone. Each has a `name`, a `baseline` (what hidden pixels
become unless a caller says otherwise), an `estimator` (how maps come from scores; "sane" is the published way), a `seed`
(None where nothing is drawn), and `plan(pixels)`: the plan for a picture (H, W, 3) uint8 as the network sees it.
"""
Method = Planned | LearnedMask
"""The last learns a mask for each reference anew: it has no plan, and nothing can be prepared for it."""

METHODS: dict[str, type[Method]] = {"rise": Rise, "window": Window, "lime": Lime, "mask": LearnedMask}
COUNTED_BY: dict[type[Method], str] = {Rise: "masks", Lime: "samples", LearnedMask: "iterations"}
"""The option that says how long a method runs; a lattice of windows has none, nor a seed."""
PLANS: dict[type, type[Planned]] = {RisePlan: Rise, WindowPlan: Window, LimePlan: Lime}


def method_named(method: str | Method) -> Method:
    """Options for a name, or the options themselves; raises OptionError for an unknown method."""
    if isinstance(method, Method):
        return method
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]()
    raise OptionError(f"method must be one of {', '.join(METHODS)} or its options object, got {method!r}")


def planned(method: Method) -> Planned:
    """The method, where it has a plan; raises OptionError."""
    if isinstance(method, LearnedMask):
        raise OptionError("method mask learns from each reference anew: nothing can be prepared, use `explain`")
    return method


def method_of(plan: Plan, method: str | Method) -> Planned:
    """The method that a plan handed in belongs to: `method` where that is it, else its defaults; raises OptionError."""
    owner = PLANS.get(type(plan))
    if owner is None:
        raise OptionError(f"a plan must be one of {', '.join(p.__name__ for p in PLANS)}, got {type(plan).__name__}")
    options = method_named(method)
    return options if isinstance(options, owner) else owner()
