"""A pair's explanations as its passes go on, each from more masks than the last."""

from collections.abc import Callable, Iterator

from engine.explanation import Explanation
from engine.prepared import Prepared
from engine.protocol import Progress
from engine.saliency.stopping import BLOCK


def refined(
    sides: list[Prepared], most_masks: int, explain: Callable[[list[Prepared]], Explanation], progress: Progress
) -> Iterator[Explanation]:
    """Explain, then add masks to every side, as long as the caller goes on and there are fewer than `most_masks`.

    sides: the query, and the reference if it is masked too; explain: makes the explanation of the sides
    progress: told about the passes of every step
    """
    while True:
        yield explain(sides)
        left = most_masks - len(sides[0].plan)
        if not left:
            return
        sides = [side.refine(min(BLOCK, left), progress=progress) for side in sides]
