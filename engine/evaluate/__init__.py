"""Measure how faithful explanations are: maps by insertion and deletion, and attributes over labelled pictures.

`python -m engine.evaluate PAIRS --out report.json` runs methods over pairs of pictures; `insertion_deletion` judges one map
(docs/method.md, Insertion and deletion).
`python -m engine.evaluate.attributes LABELS --images DIR --out report.json` judges the attributes
(docs/method.md, Attribute recognition and removal).
"""

from engine.evaluate.curves import InsertionDeletion, insertion_deletion

__all__ = ["InsertionDeletion", "insertion_deletion"]
