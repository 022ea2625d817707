"""The report on a bundle's faster graphs: how close their maps come to those of the fp32 graph."""

import dataclasses
import json
import math
from typing import Any

from engine.errors import BundleError, OptionError

REPORT_VERSION = 1
FAITHFUL = 0.999
"""Map correlation with fp32 that a graph must reach for "auto" to take it."""
TARGETS = ("cpu", "gpu")
"""What faster graphs are made for."""


@dataclasses.dataclass(frozen=True)
class GraphFidelity:
    """How close one graph comes to the fp32 one on pictures it was not made with, behind masks.

    embedding_cosine_*: over all masked pictures; map_correlation_*: Pearson, over all pairs and conditions; p10: nine of ten
    pairs reach it
    speed: CPU time of the fp32 graph over that of this one, on one thread of the machine that measured it; None where that
    is not a machine the graph is for
    calibration: how its ranges were found; kept_fp32: names of the nodes left in fp32 because int8 costs too much there
    """

    embedding_cosine_mean: float
    embedding_cosine_least: float
    map_correlation_mean: float
    map_correlation_p10: float
    map_correlation_least: float
    speed: float | None
    calibration: str
    kept_fp32: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is float and not (_is_number(value) and -1 <= value <= 1):
                raise OptionError(f"{field.name} must be a number from -1 to 1, got {value!r}")
        if self.speed is not None and not (_is_number(self.speed) and self.speed > 0):
            raise OptionError(f"speed must be a number above 0 or null, got {self.speed!r}")
        if not isinstance(self.calibration, str) or not all(isinstance(name, str) for name in self.kept_fp32):
            raise OptionError("calibration and kept_fp32 must be text")

    @property
    def passes(self) -> bool:
        """The mean of the map correlations reaches 0.999, and so do nine pairs of ten."""
        return min(self.map_correlation_mean, self.map_correlation_p10) >= FAITHFUL

    def __str__(self) -> str:
        verdict = "passes" if self.passes else f"does not pass, {FAITHFUL} is needed"
        found = f"map correlation {self.map_correlation_mean:.5f} (nine of ten {self.map_correlation_p10:.5f}): {verdict}"
        faster = "" if self.speed is None else f"; {self.speed:.2f} times as fast as fp32"
        kept = f"; {len(self.kept_fp32)} nodes left in fp32" if self.kept_fp32 else ""
        return found + faster + kept


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What `python -m export quantize` measured. graphs: by file

    identity: of the model it was measured on; calibration_pictures, held_out_pictures: how many; pairs: ordered pairs of the
    latter; masks, seed: of the RISE plan, estimator "sane"; measured_on: provider; machine, versions: where
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

    def to_json(self) -> str:
        fields = {**vars(self), "graphs": {file: dataclasses.asdict(f) for file, f in self.graphs.items()}}
        return json.dumps({"version": REPORT_VERSION, **fields}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Raises BundleError where the text is no report of a version this engine reads."""
        try:
            fields: dict[str, Any] = json.loads(text)
            if fields.pop("version") != REPORT_VERSION:
                raise BundleError(f"precision.json has another version than {REPORT_VERSION}; quantize the bundle again")
            graphs = {file: _graph_fidelity(f) for file, f in fields.pop("graphs").items()}
            return cls(**fields, graphs=graphs)
        except BundleError:
            raise
        except (OptionError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise BundleError(f"precision.json is not valid: {error}; quantize the bundle again") from error


def _graph_fidelity(fields: dict[str, Any]) -> GraphFidelity:
    return GraphFidelity(**{**fields, "kept_fp32": tuple(fields["kept_fp32"])})


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
