"""How faithful saliency maps are: insertion and deletion (SANE.md, Evaluation), for one map or for a file of pairs.

`python -m engine.evaluate PAIRS --out report.json` runs methods over pairs; `insertion_deletion` judges one map.
"""

from engine.evaluate.curves import InsertionDeletion, insertion_deletion

__all__ = ["InsertionDeletion", "insertion_deletion"]
