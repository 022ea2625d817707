"""A bundle's description: `manifest.json` describes the model, `attributes.json` its attributes."""

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np

from engine.attributes.table import MOST_CHARACTERS, AttributeTable, is_name
from engine.errors import BundleError, EngineError, OptionError, shortened
from engine.pictures.preprocessing import Preprocessing
from engine.protocol import require_whole
from engine.saliency.similarity import METRICS
from engine.typed import typed

MANIFEST = "manifest.json"
BUNDLE_FORMAT = "sane-bundle"
BUNDLE_VERSION = 1
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
GRAPH_TARGETS = ("any", "cpu", "gpu")
ROLES = ("similarity", "attributes", "gradient", "stem", "tokens")
LARGEST_EMBEDDING = 1_000_000
MOST_TOKENS = 65_536
Condition = int | str | None
"""A condition by its index or its name."""


@dataclasses.dataclass(frozen=True)
class TokenLayout:
    """Where tokens lie: first `prefix` of them without a place, then rows x columns patches, row by row.

    Raises OptionError for values out of range.
    """

    prefix: int
    rows: int
    columns: int

    def __post_init__(self) -> None:
        require_whole("prefix", self.prefix, 0, MOST_TOKENS)
        require_whole("rows", self.rows, 1, MOST_TOKENS)
        require_whole("columns", self.columns, 1, MOST_TOKENS)

    @property
    def count(self) -> int:
        """All tokens, those of the prefix included."""
        return self.prefix + self.rows * self.columns


@dataclasses.dataclass(frozen=True)
class Graph:
    """One ONNX file.

    role: "similarity" outputs embeddings (batch, D); "attributes" activation maps (batch, A, h, w); "gradient" embeddings,
        similarities and their gradients (`engine.runtime.gradient_session`); "stem" a transformer's tokens (batch, T, W),
        "tokens" the embeddings of some of them (`engine.runtime.token_tail`)
    precision: one of PRECISIONS; target: one of GRAPH_TARGETS; input, output: names in the graph
    second_input: of a similarity graph that takes two pictures and gives a score (batch, 1)
    layout: of role "tokens": where they lie in the picture
    """

    file: str
    role: str
    precision: str
    target: str
    opset: int
    input: str
    output: str
    second_input: str | None = None
    layout: TokenLayout | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Conditions:
    """A model's C conditions. names: one each; weights: (C, D) float32, before relu."""

    names: tuple[str, ...]
    weights: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Manifest:
    """A model, as manifest.json describes it.

    name, licence: free text; origin: where the weights came from, such as a name and revision on a hub
    embedding: D; metric: one of METRICS; graphs: at least the fp32 similarity graph
    Raises OptionError for values out of range.
    """

    name: str
    licence: str
    preprocessing: Preprocessing
    embedding: int
    metric: str
    graphs: tuple[Graph, ...]
    conditions: Conditions | None = None
    version: int = BUNDLE_VERSION
    origin: str = ""

    def __post_init__(self) -> None:
        if not is_name(self.name or "-") or not self.name.isprintable() or not isinstance(self.licence, str):
            raise OptionError(f"name must be one line of text, at most {MOST_CHARACTERS} characters, and licence text")
        if not isinstance(self.origin, str) or not self.origin.isprintable() or len(self.origin) > MOST_CHARACTERS:
            raise OptionError(f"origin must be one line of text, at most {MOST_CHARACTERS} characters")
        require_whole("embedding", self.embedding, 1, LARGEST_EMBEDDING)
        if self.metric not in METRICS:
            raise OptionError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}")
        for graph in self.graphs:
            if not all(is_name(name or "-") for name in (graph.file, graph.input, graph.output, graph.second_input)):
                raise OptionError(f"a graph's file, input and output must be names of 1 to {MOST_CHARACTERS} characters")
            for value, allowed in ((graph.role, ROLES), (graph.precision, PRECISIONS), (graph.target, GRAPH_TARGETS)):
                if value not in allowed:
                    raise OptionError(f"{graph.file}: {value!r} is not one of {', '.join(allowed)}")
        roles = {graph.role for graph in self.graphs}
        if ("tokens" in roles) != ("stem" in roles) or any(
            (g.role == "tokens") != (g.layout is not None) for g in self.graphs
        ):
            raise OptionError("graphs of role stem and tokens go together, and the second has a layout")
        if self.conditions is not None:
            count, got = len(self.conditions.names), self.conditions.weights
            if got.shape != (count, self.embedding) or not count or not np.isfinite(got).all():
                raise OptionError(f"condition weights must be finite ({count}, {self.embedding}), got {got.shape}")
            if len(set(self.conditions.names)) != count or not all(is_name(n) for n in self.conditions.names):
                raise OptionError(f"conditions need distinct names of 1 to {MOST_CHARACTERS} characters")

    def graph(self, role: str, precision: str, target: str) -> Graph | None:
        """Return the graph of this role and precision for a target, cpu or gpu; None if there is none."""
        fitting = (g for g in self.graphs if (g.role, g.precision) == (role, precision) and g.target in ("any", target))
        return next(fitting, None)

    @property
    def base(self) -> Graph:
        """The fp32 similarity graph. Raises BundleError if there is none."""
        graph = self.graph("similarity", "fp32", "cpu")
        if graph is None:
            raise BundleError(f"{MANIFEST} names no fp32 similarity graph; export the bundle again")
        return graph

    def condition_index(self, condition: Condition) -> int | None:
        """The index of a condition given by index or name. None: the embeddings are compared as they are.

        Raises OptionError if the model has no such condition.
        """
        if condition is None:
            return None
        known = self.conditions
        if known is None:
            raise OptionError(f"condition {condition!r} was asked for, but this model has no conditions: leave it out")
        if isinstance(condition, np.integer):
            condition = int(condition)
        if isinstance(condition, str) and condition in known.names:
            return known.names.index(condition)
        count = len(known.names)
        if isinstance(condition, str) and condition.isdecimal() and len(condition) < 10:
            condition = int(condition)
        if isinstance(condition, int) and not isinstance(condition, bool) and 0 <= condition < count:
            return condition
        some = ", ".join(known.names[:5]) + (", ..." if count > 5 else "")
        raise OptionError(
            f"this model has no condition {condition!r}: give an index below {count} or one of its names, such as {some}"
        )

    def to_json(self) -> str:
        """Return the text of manifest.json."""
        fields = {**vars(self), "preprocessing": self.preprocessing.to_dict()}
        graphs = [dataclasses.asdict(g) for g in self.graphs]
        # graphs of one input are written as before there were others
        fields["graphs"] = [{k: v for k, v in g.items() if v is not None} for g in graphs]
        fields["conditions"] = _conditions_json(self.conditions)
        if not self.origin:  # bundles of the first kind did not have it
            del fields["origin"]
        return json.dumps({"format": BUNDLE_FORMAT, **fields}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Read the text of manifest.json. Raises BundleError if it is not valid or has another version."""
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"manifest.json is not JSON ({error})") from error
        if not isinstance(fields, dict) or fields.pop("format", None) != BUNDLE_FORMAT:
            raise BundleError(f"manifest.json is not a bundle's: its format is not {BUNDLE_FORMAT!r}")
        if fields.get("version") != BUNDLE_VERSION:
            got = shortened(repr(fields.get("version")))
            raise BundleError(
                f"manifest.json has version {got}, but this engine reads {BUNDLE_VERSION}; export the bundle again"
            )
        try:
            conditions = fields.pop("conditions")
            return cls(
                **{
                    **fields,
                    "preprocessing": typed(Preprocessing, fields["preprocessing"]),
                    "graphs": tuple(typed(Graph, g) for g in fields["graphs"]),
                    "conditions": None
                    if conditions is None
                    else typed(Conditions, {**conditions, "weights": _floats(conditions["weights"])}),
                }
            )
        except (EngineError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BundleError(f"manifest.json is not valid: {shortened(str(error))}; export the bundle again") from error


def identity(manifest: Manifest, similarity_sums: list[str]) -> str:
    """Return the model's identity: a sha256 (hex) over the fp32 similarity graph, preprocessing, metric and conditions.

    These decide every similarity. similarity_sums: sha256 of the graph, then of its external data sorted by name
    """
    parts = [
        similarity_sums,
        manifest.preprocessing.to_dict(),
        manifest.metric,
        _conditions_json(manifest.conditions),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _conditions_json(conditions: Conditions | None) -> dict[str, Any] | None:
    if conditions is None:
        return None
    return {"names": list(conditions.names), "weights": _shortest(conditions.weights)}


def attributes_to_json(table: AttributeTable) -> str:
    """Return the text of attributes.json."""
    fields: dict[str, Any] = {**vars(table), "names": list(table.names), "phi": list(table.phi)}
    fields |= {"bias": _shortest(table.bias), "scale": _shortest(table.slopes)}
    fields["prior"] = None if table.prior is None else _shortest(table.prior)
    if table.joint is None:  # older engines do not know it
        del fields["joint"]
    return json.dumps({"version": BUNDLE_VERSION, **fields}, indent=1, ensure_ascii=False) + "\n"


def attributes_from_json(text: str) -> AttributeTable:
    """Read the text of attributes.json. Raises BundleError if it is not valid or has another version."""
    try:
        fields = json.loads(text)
        if fields.pop("version") != BUNDLE_VERSION:
            raise BundleError(
                f"attributes.json is not of version {BUNDLE_VERSION}, which this engine reads; export the attributes again"
            )
        for name in ("bias", "prior", "scale"):
            if fields.get(name) is not None:  # older bundles have no scale
                fields[name] = _floats(fields[name])
        return typed(AttributeTable, fields)
    except BundleError:
        raise
    except (EngineError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise BundleError(f"attributes.json is not valid: {shortened(str(error))}; export the attributes again") from error


def _shortest(values: np.ndarray) -> Any:
    """Return nested lists of the shortest decimals that are read back as the same float32."""
    if values.ndim > 1:
        return [_shortest(row) for row in values]
    return [float(str(np.float32(v))) for v in values]


def _floats(values: Any) -> np.ndarray:
    given = np.asarray(values)
    if given.dtype.kind not in "iuf":
        raise ValueError(f"numbers are wanted, got {given.dtype}")
    with np.errstate(over="ignore"):  # whoever takes the numbers refuses those that float32 cannot hold
        return given.astype(np.float32)
