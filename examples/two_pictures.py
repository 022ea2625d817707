"""Why do two pictures match? Prints the answer, and draws it as a page.

    python examples/two_pictures.py query.png match.png --out why.html

Needs sane-engine[cpu]. Without --bundle it asks the embedded demo model, which knows emoji.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from engine import Explainer
from engine.terminal import run_command, say


def explain(options: argparse.Namespace) -> None:
    found = Explainer(options.bundle).explain(options.query, options.reference, mode="pair")
    say(f"similarity {found.similarity:.3f}")
    for title, attributes in (
        ("in both", found.attributes),
        ("only in the query", found.only_query),
        ("only in the reference", found.only_reference),
    ):
        say(f"{title}: {', '.join(attribute.name for attribute in attributes[:5]) or 'nothing that stands out'}")
    say(f"regions that match: {len(found.links or ())}")
    found.save(options.out)
    say(f"wrote {options.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Explain why two pictures match.")
    parser.add_argument("query", type=Path, metavar="QUERY")
    parser.add_argument("reference", type=Path, metavar="REFERENCE")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="a model of yours (default: the embedded demo)")
    parser.add_argument("--out", type=Path, default=Path("why.html"), metavar="FILE", help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    return run_command(lambda: explain(options))


if __name__ == "__main__":
    sys.exit(main())
