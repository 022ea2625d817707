"""The report on a bundle's faster graphs: how close their maps come to the fp32 graph's."""

import dataclasses
import json
import sys
from typing import Any

from engine.errors import BundleError, OptionError, shortened
from engine.typed import typed

REPORT_VERSION = 1
FAITHFUL = 0.999
"""Map correlation with fp32 that a graph must reach before precision "auto" uses it."""
TARGETS = ("cpu", "gpu")
"""Targets of faster graphs."""
REPORT_ESTIMATORS = ("regression", "sane")
"""Estimators whose maps a report may compare."""


@dataclasses.dataclass(frozen=True)
class MapFidelity:
    """How well one kind of map agrees with the fp32 graph's; it decides nothing.

    estimator: regression or sane; masks: behind so many; pairs: so many maps were compared; mean, p10: Pearson correlation
        and its 10th percentile
    Raises OptionError for values out of range.
    """

    estimator: str
    masks: int
    pairs: int
    mean: float
    p10: float

    def __post_init__(self) -> None:
        _require_estimator(self.estimator)
        if self.masks < 1 or self.pairs < 1:
            raise OptionError(f"masks and pairs of a report must be at least 1, got {self.masks} and {self.pairs}")
        for name in ("mean", "p10"):
            _require_correlation(name, getattr(self, name))

    def __str__(self) -> str:
        return f"{self.estimator}, {self.masks} masks: {self.mean:.5f} (nine of ten {self.p10:.5f})"


@dataclasses.dataclass(frozen=True)
class GraphFidelity:
    """How close one graph comes to the fp32 graph, on masked pictures that were not used to make it.

    embedding_cosine_*: over all masked pictures; map_correlation_*: Pearson, over all pairs and conditions; p10: the 10th
        percentile, which nine pairs of ten reach
    speed: CPU time of the fp32 graph divided by this graph's, on one thread of the measuring machine; None if the graph is
        made for other machines
    calibration: how the ranges were found; kept_fp32: names of nodes left in fp32 because int8 costs too much there
    other_maps: those of the published estimator, and of more masks; none in reports of older versions
    Raises OptionError for values out of range.
    """

    embedding_cosine_mean: float
    embedding_cosine_least: float
    map_correlation_mean: float
    map_correlation_p10: float
    map_correlation_least: float
    speed: float | None
    calibration: str
    kept_fp32: tuple[str, ...] = ()
    other_maps: tuple[MapFidelity, ...] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.type is float:
                _require_correlation(field.name, getattr(self, field.name))
        if self.speed is not None and not (_is_number(self.speed) and self.speed > 0):
            raise OptionError(f"speed must be a number above 0 or null, got {self.speed!r}")
        if not isinstance(self.calibration, str) or not all(isinstance(name, str) for name in self.kept_fp32):
            raise OptionError("calibration and kept_fp32 must be text")

    @property
    def passes(self) -> bool:
        """Whether the mean of the map correlations reaches 0.999, and nine pairs of ten do."""
        return min(self.map_correlation_mean, self.map_correlation_p10) >= FAITHFUL

    def __str__(self) -> str:
        verdict = "passes" if self.passes else f"does not pass, {FAITHFUL} is needed"
        found = f"map correlation {self.map_correlation_mean:.5f} (nine of ten {self.map_correlation_p10:.5f}): {verdict}"
        faster = "" if self.speed is None else f"; {self.speed:.2f} times as fast as fp32"
        kept = f"; {len(self.kept_fp32)} nodes left in fp32" if self.kept_fp32 else ""
        return found + faster + kept


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What `python -m export quantize` measured.

    identity: the model's; calibration_pictures, held_out_pictures: how many; pairs: ordered pairs of held-out pictures
    masks, seed: of the RISE plan; estimator: how maps were made from it; reports without this field had "sane"
    measured_on: the provider; machine: the processor's architecture; versions: by package; graphs: by file name
    bf16: of the fp32 graph as OpenVINO runs it in bf16; None if the measuring machine could not
    Raises OptionError for another estimator.
    """

    identity: str
    calibration_pictures: int
    held_out_pictures: int
    pairs: int
    masks: int
    seed: int
    measured_on: str
    machine: str
    versions: dict[str, str]
    graphs: dict[str, GraphFidelity]
    estimator: str = "sane"
    bf16: GraphFidelity | None = None

    def __post_init__(self) -> None:
        _require_estimator(self.estimator)

    def to_json(self) -> str:
        """Return the text of precision.json."""
        fields = {**vars(self), "graphs": {file: dataclasses.asdict(f) for file, f in self.graphs.items()}}
        if self.bf16 is None:
            del fields["bf16"]  # as reports were before there was one
        else:
            fields["bf16"] = dataclasses.asdict(self.bf16)
        return json.dumps({"version": REPORT_VERSION, **fields}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Read the text of precision.json. Raises BundleError if it is not valid or has another version."""
        try:
            fields: dict[str, Any] = json.loads(text)
            if fields.pop("version") != REPORT_VERSION:
                raise BundleError(
                    f"precision.json is not of version {REPORT_VERSION}, which this engine reads; quantize the bundle again"
                )
            return typed(cls, fields)
        except BundleError:
            raise
        except (OptionError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise BundleError(f"precision.json is not valid: {shortened(str(error))}; quantize the bundle again") from error


def _require_estimator(value: str) -> None:
    if value not in REPORT_ESTIMATORS:
        raise OptionError(f"estimator must be one of {', '.join(REPORT_ESTIMATORS)}, got {value!r}")


def _require_correlation(name: str, value: object) -> None:
    if not (_is_number(value) and -1 <= value <= 1):  # type: ignore[operator]
        raise OptionError(f"{name} must be a number from -1 to 1, got {value!r}")


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max  # also of whole numbers that no float can hold
