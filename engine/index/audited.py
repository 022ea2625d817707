"""What an audit found: shares with their intervals, regions, groups; numbers for JSON."""

import dataclasses
import statistics
from typing import Any

import numpy as np

from engine.explanation import Explanation

JOINT_LEVEL = 0.95
"""Of the intervals of one table together: each is as wide as their number asks (Bonferroni)."""
LEAST_TIMES = 1.5
"""A region stands out where it counts for so many times its area; of a group, also beside all pictures."""


@dataclasses.dataclass(frozen=True)
class MeanInterval:
    """A mean over queries, with the ends of its confidence interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray, several: int = 1) -> "MeanInterval":
        """Make of one value for each query, (n,) float, as one of `several` intervals that hold together at JOINT_LEVEL.

        NaN: the query has no such value
        """
        values = values[np.isfinite(values)]
        z = statistics.NormalDist().inv_cdf(1 - (1 - JOINT_LEVEL) / 2 / several)
        if len(values) < 2:
            return cls(float("nan"), float("nan"), float("nan"))
        mean, half = float(values.mean()), z * float(values.std(ddof=1)) / len(values) ** 0.5
        return cls(mean, mean - half, mean + half)


@dataclasses.dataclass(frozen=True)
class SharedAttribute:
    """An attribute of the matches. shared, chance: probability that a query and a match, or a random row, both have it;
    more: their difference
    """

    name: str
    shared: float
    chance: float
    more: MeanInterval


@dataclasses.dataclass(frozen=True)
class RegionWeight:
    """How much a region counts in the maps of a group.

    area: share of the picture; times: what raises the similarity there as a share of all that does, over the area
    stands_out: whether the interval lies above LEAST_TIMES (of the background: above 1)
    """

    region: str
    queries: int
    area: float
    times: MeanInterval
    stands_out: bool


@dataclasses.dataclass(frozen=True, eq=False)
class AuditedGroup:
    """Queries that belong together: all, those of a folder, or those that an attribute is true of.

    mean_map: (32, 32) float32, where what raises the similarity lies, its mean is 1
    mean_picture: (64, 64, 3) uint8 of those that can be read; examples: of a region that stands out, else of any
    """

    name: str
    queries: int
    regions: tuple[RegionWeight, ...]
    mean_map: np.ndarray
    mean_picture: np.ndarray | None
    examples: tuple[Explanation, ...]

    @property
    def found(self) -> tuple[RegionWeight, ...]:
        """The regions that stand out, the strongest first."""
        return tuple(sorted((r for r in self.regions if r.stands_out), key=lambda r: -r.times.mean))


@dataclasses.dataclass(frozen=True, eq=False)
class Audit:
    """What was found in a catalogue.

    rows: of the index; queries: sampled; k: matches of each; seed: of the sample
    duplicates: matches left out as near-duplicates; unreadable: queries whose picture is gone or has changed
    attributes: all of the bundle, those first that matches share most beyond chance
    groups: all pictures first, then those in which a region stands out, then the others
    steadiness: correlation of two maps of one picture, against two of its matches; random_steadiness: against random rows
    """

    rows: int
    queries: int
    k: int
    seed: int
    duplicates: int
    unreadable: int
    attributes: tuple[SharedAttribute, ...]
    groups: tuple[AuditedGroup, ...]
    steadiness: MeanInterval
    random_steadiness: MeanInterval

    @property
    def biased(self) -> tuple[AuditedGroup, ...]:
        """The groups in which a region stands out."""
        return tuple(group for group in self.groups if group.found)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, without pictures, for JSON."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain = {name: dataclasses.asdict(v) if isinstance(v, MeanInterval) else v for name, v in own.items()}
        plain["attributes"] = [dataclasses.asdict(one) for one in self.attributes]
        plain["groups"] = [
            {
                "name": group.name,
                "queries": group.queries,
                "regions": [dataclasses.asdict(one) for one in group.regions],
                "mean_map": np.round(group.mean_map.astype(float), 3).tolist(),
            }
            for group in self.groups
        ]
        return plain
