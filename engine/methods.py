"""The saliency methods by name."""

from engine.errors import OptionError
from engine.lime import Lime
from engine.rise import Rise
from engine.window import Window

Method = Rise | Window | Lime
"""Frozen options. Each has a `name`, a `baseline` (what hidden pixels become unless a caller says otherwise), an `estimator`
(how maps come from scores; "sane" is the published way), a `seed` (None where nothing is drawn), and `plan(pixels)`, the plan
for a picture (H, W, 3) uint8 as the network sees it.
"""

METHODS: dict[str, type[Method]] = {"rise": Rise, "window": Window, "lime": Lime}


def method_named(method: str | Method) -> Method:
    """Options for a name, or the options themselves; raises OptionError for an unknown method."""
    if isinstance(method, (Rise, Window, Lime)):
        return method
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]()
    raise OptionError(f"method must be one of {', '.join(METHODS)} or its options object, got {method!r}")
