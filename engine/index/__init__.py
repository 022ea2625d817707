"""A catalogue of prepared pictures on disk: search it, and explain each match from what is stored (docs/index.md)."""

from engine.index.audited import Audit
from engine.index.catalogue import Index
from engine.index.matches import Match

__all__ = ["Audit", "Index", "Match"]
