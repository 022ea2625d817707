"""How faithful explanations are (docs/method.md, Insertion and deletion): maps by insertion and deletion, and attributes.

`python -m engine.evaluate PAIRS --out report.json` runs methods over pairs; `insertion_deletion` judges one map.
`python -m engine.evaluate.attributes LABELS --images DIR --out report.json` judges the words.
"""

from engine.evaluate.curves import InsertionDeletion, insertion_deletion

__all__ = ["InsertionDeletion", "insertion_deletion"]
