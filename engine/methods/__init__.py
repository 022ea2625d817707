"""The saliency methods by name."""

from engine.errors import OptionError
from engine.methods.learned_mask import LearnedMask
from engine.methods.lime import Lime, LimePlan
from engine.methods.rise import Rise, RisePlan
from engine.methods.window import Window, WindowPlan
from engine.protocol import Plan

PlannedMethod = Rise | Window | Lime
"""Options of the methods whose passes depend on the query alone. Each has a `name`, a `baseline`
(what hidden pixels become unless the caller says otherwise), an `estimator` (how maps are made from scores; "sane" is the
published way), a `seed` (None where nothing is drawn), what `engine.saliency.stopping.StoppingOptions` asks for, and
`plan(pixels)`: the plan for a picture (H, W, 3) uint8 as the network sees it.
"""
Method = PlannedMethod | LearnedMask
"""The last learns a mask for every reference anew: it has no plan, and nothing can be prepared for it."""

METHODS: dict[str, type[Method]] = {"rise": Rise, "window": Window, "lime": Lime, "mask": LearnedMask}
COUNTED_BY: dict[type[Method], str] = {Rise: "masks", Lime: "samples", LearnedMask: "iterations"}
"""The option that says how long a method runs; a lattice of windows has none, nor a seed."""
PLANS: dict[type, type[PlannedMethod]] = {RisePlan: Rise, WindowPlan: Window, LimePlan: Lime}


def method_named(method: str | Method) -> Method:
    """Options for a name, or the options themselves; raises OptionError for an unknown method."""
    if isinstance(method, Method):
        return method
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]()
    raise OptionError(f"method must be one of {', '.join(METHODS)} or its options object, got {method!r}")


def require_plan(method: Method) -> PlannedMethod:
    """The method, if it has a plan; raises OptionError."""
    if isinstance(method, LearnedMask):
        raise OptionError("method mask learns a mask for every reference anew: nothing can be prepared, use `explain`")
    return method


def method_of(plan: Plan, method: str | Method) -> PlannedMethod:
    """The method that a plan belongs to: `method` if it does, else the defaults of the one it does; raises OptionError."""
    owner = PLANS.get(type(plan))
    if owner is None:
        raise OptionError(f"a plan must be one of {', '.join(p.__name__ for p in PLANS)}, got {type(plan).__name__}")
    options = method_named(method)
    return options if isinstance(options, owner) else owner()


def resolve_baseline(options: Method, baseline: str | None) -> str:
    """The baseline asked for, or for None the method's own."""
    return options.baseline if baseline is None else baseline
