"""An extension of griffe: lines of a docstring such as `query: a path, a PIL image ...` become a list."""

import re
from typing import Any

import griffe

NAMED = re.compile(r"^(\w+(?:, \w+)*): (?=\S)", flags=re.MULTILINE)


class NamedLines(griffe.Extension):
    """Rewrites every docstring once, when its object has been read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value)


def listed(docstring: str) -> str:
    """Return a docstring whose paragraphs of `name: what it is` lines are lists."""
    paragraphs = docstring.split("\n\n")
    return "\n\n".join(NAMED.sub(r"- **`\1`**: ", p) if NAMED.match(p) else p for p in paragraphs)
