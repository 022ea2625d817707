"""Rendering masks onto pictures. Knows nothing of similarity models."""

from kernels.cubins import fatbin

__all__ = ["ORIGIN", "fatbin"]

ORIGIN = "sane-engine"
"""Tells this package from the unrelated distribution `kernels`; `engine` checks it at import."""
