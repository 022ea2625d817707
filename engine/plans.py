"""The perturbation plans that can be handed in instead of drawn."""

from engine.lime import LimePlan
from engine.rise import RisePlan
from engine.window import WindowPlan

__all__ = ["LimePlan", "RisePlan", "WindowPlan"]
