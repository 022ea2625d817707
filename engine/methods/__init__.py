"""The saliency methods by name."""

from engine.errors import OptionError
from engine.methods.learned_mask import LearnedMask
from engine.methods.lime import Lime, LimePlan
from engine.methods.rise import Rise, RisePlan
from engine.methods.tokens import TokenPlan, Tokens
from engine.methods.window import Window, WindowPlan
from engine.protocol import Plan

PlannedMethod = Rise | Window | Lime | Tokens
"""Options of the methods whose passes depend only on the query. Each has:

name; baseline: what hidden pixels become unless the caller chooses; seed: None if nothing is drawn
estimator: how maps are made from scores; "sane" is the published way
the fields of `engine.saliency.stopping.StoppingOptions`
plan(pixels): the plan for a picture (H, W, 3) uint8 as the network sees it; of `Tokens`, plan(rows, columns) of its tokens
"""
Method = PlannedMethod | LearnedMask
"""`LearnedMask` learns a new mask for every reference: it has no plan, and no query can be prepared for it."""

METHODS: dict[str, type[Method]] = {"rise": Rise, "window": Window, "lime": Lime, "mask": LearnedMask, "tokens": Tokens}
COUNTED_BY: dict[type[Method], str] = {Rise: "masks", Lime: "samples", LearnedMask: "iterations", Tokens: "masks"}
"""The option for the number of passes. `Window` has none: its passes follow from the picture's size."""
PLANS: dict[type, type[PlannedMethod]] = {RisePlan: Rise, WindowPlan: Window, LimePlan: Lime, TokenPlan: Tokens}
Refinable = Rise | Tokens
"""Options of the methods whose maps get better with every block of passes."""


def method_named(method: str | Method) -> Method:
    """Return the default options of the method with this name; options are returned as they are. Raises OptionError."""
    if isinstance(method, Method):
        return method
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]()
    raise OptionError(f"method must be one of {', '.join(METHODS)} or its options object, got {method!r}")


def require_plan(method: Method) -> PlannedMethod:
    """Return the method if it has a plan. Raises OptionError if it has none."""
    if isinstance(method, LearnedMask):
        raise OptionError("method mask learns a new mask for every reference: nothing can be prepared; use `explain`")
    return method


def method_of(plan: Plan, method: str | Method) -> PlannedMethod:
    """Return the options for a plan: `method` if the plan belongs to it, else the defaults of the plan's own method.

    Raises OptionError if it is not a plan, or the method is unknown.
    """
    owner = PLANS.get(type(plan))
    if owner is None:
        raise OptionError(f"a plan must be one of {', '.join(p.__name__ for p in PLANS)}, got {type(plan).__name__}")
    options = method_named(method)
    return options if isinstance(options, owner) else owner()


def resolve_baseline(options: Method, baseline: str | None) -> str:
    """Return the baseline that was asked for, or the method's own for None. Raises OptionError where nothing is painted."""
    if isinstance(options, Tokens) and baseline not in (None, options.baseline):
        raise OptionError(
            f"method tokens leaves parts of the picture out and paints nothing: leave baseline {baseline!r} out"
        )
    return options.baseline if baseline is None else baseline
