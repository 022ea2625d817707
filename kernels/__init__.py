"""Draw masks onto pictures. Nothing here knows about similarity models."""

__all__ = ["ORIGIN"]

ORIGIN = "sane-engine"
"""Distinguishes this package from the unrelated distribution `kernels`; `engine` checks it at import."""
