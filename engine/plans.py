"""The perturbation plans that can be handed in instead of drawn."""

from engine.methods.lime import LimePlan
from engine.methods.rise import RisePlan
from engine.methods.tokens import TokenPlan
from engine.methods.window import WindowPlan

__all__ = ["LimePlan", "RisePlan", "TokenPlan", "WindowPlan"]
