"""Commands that write pages of docs/ from the checkout; not part of the wheel.

python -m tools.evaluation           docs/evaluation.md: every method judged on held-out emoji, its table and curves
python -m tools.attributes           docs/attributes.md: the tables of the committed results; --demo measures the demo again
python -m tools.models               docs/models.md: every family of models, from the committed rows
python -m tools.rivals               docs/rivals.md: the default maps beside another package's, from the committed rows
python -m tools.gallery              docs/gallery.md and its pictures: every method in both modes on the demo pairs
"""
