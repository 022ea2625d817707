"""Rendering masks onto pictures. Knows nothing of similarity models."""

__all__ = ["ORIGIN"]

ORIGIN = "sane-engine"
"""Tells this package from the unrelated distribution `kernels`; `engine` checks it at import."""
