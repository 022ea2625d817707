"""What a search of an index gives."""

import dataclasses

from engine.explanation import Explanation


@dataclasses.dataclass(frozen=True, eq=False)
class Match:
    """A row that was found.

    similarity: to the query, by the model's metric; explanation: why, where that was asked for
    exact: whether all rows were compared, so that none can be missing
    """

    id: str
    similarity: float
    explanation: Explanation | None = None
    exact: bool = True
