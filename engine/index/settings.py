"""What every row of an index has in common: `index.json`."""

import dataclasses
import functools
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from engine.bundle import ATTRIBUTES, VECTORS
from engine.errors import OptionError, OutputError, first_line
from engine.explainer import Explainer
from engine.index.noise import noise_dtype
from engine.index.operators import OperatorFormat
from engine.methods import Refinable
from engine.methods.rise import Rise
from engine.methods.tokens import Tokens
from engine.model import LoadedModel
from engine.pictures.reading import MAX_PIXELS, Reading
from engine.protocol import Notice, ignore_notice
from engine.runtime.precision import target_of

INDEX_FORMAT, INDEX_VERSION = "sane-index", 2
DIGEST = 32
"""Bytes of a sha256."""
INDEXED: dict[str, type[Refinable]] = {method.name: method for method in (Rise, Tokens)}
"""The methods whose maps are linear in the reference, and say how far they are off."""
NOTHING_SEEN = (0, 0)
"""Cells of the activation maps of a bundle without attributes."""


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How close maps from the index come to those made from the passes: correlations, over pictures and references."""

    median: float
    tenth_percentile: float
    maps: int

    @classmethod
    def of(cls, correlations: np.ndarray) -> "Fidelity":
        """Summarise correlations of any shape; of none, NaN."""
        found = correlations[np.isfinite(correlations)]
        if not found.size:
            return cls(math.nan, math.nan, 0)
        low, middle = np.quantile(found.astype(np.float64), [0.1, 0.5])
        return cls(float(middle), float(low), found.size)

    def reaches(self, target: "tuple[float, float]") -> bool:
        """Tell whether median and 10th percentile reach the target."""
        return self.median >= target[0] and self.tenth_percentile >= target[1]

    def __str__(self) -> str:
        return f"median {self.median:.3f}, 10th percentile {self.tenth_percentile:.3f} over {self.maps} maps"


@dataclasses.dataclass(frozen=True)
class IndexSettings:
    """What every row has in common.

    identity, graph, attributes: digests of the model, of the similarity graph that ran, and of the attributes ("" for none)
    bundle: the bundle's folder; "" for the demo; precision, provider: what ran
    embedding, names: the numbers of an embedding and of attributes; metric: of the similarity
    cells: (h, w) of the activation maps
    condition: the one that maps and similarities are under; None: the embeddings are compared as they are
    passes: the method's options; thumbnails: whether rows hold the picture
    operator: how operators are stored; fidelity: as it was measured when that was chosen; target: what was wanted of it
    apply_profiles: whether colours were converted to sRGB by the pictures' profiles; indexes without this field were not
    """

    identity: str
    graph: str
    attributes: str
    bundle: str
    precision: str
    provider: str
    embedding: int
    metric: str
    names: int
    cells: tuple[int, int]
    condition: str | None
    passes: Refinable
    thumbnails: bool
    operator: OperatorFormat
    fidelity: Fidelity
    target: tuple[float, float]
    apply_profiles: bool = False

    @property
    def has_offset(self) -> bool:
        """Whether maps have a part that is the same for every reference: that of the metric's squared lengths."""
        return self.metric == "euclidean"

    @functools.cached_property
    def dtype(self) -> np.dtype[np.void]:
        """The record of a row: all of it that has the same length in every row."""
        return np.dtype(
            [
                ("operator", self.operator.dtype(self.embedding)),
                *([("offset", "<f4", (self.operator.modes,))] if self.has_offset else []),
                ("noise", noise_dtype(self.operator.columns(self.embedding))),
                ("amplitude", "<f4"),
                ("confidences", "<u2", (self.names,)),
                ("box", "<f4", (4,)),
                ("size", "<i4", (2,)),
                ("passes", "<i4"),
                ("seconds", "<f4"),
            ]
        )

    def to_json(self) -> str:
        """Return the text of `index.json`."""
        fields = dataclasses.asdict(self)
        fields["passes"] = {"method": self.passes.name, **fields["passes"]}
        return json.dumps({"format": INDEX_FORMAT, "version": INDEX_VERSION, **fields}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, path: Path) -> "IndexSettings":
        """Read `index.json`. Raises OutputError if it is something else."""
        try:
            fields: dict[str, Any] = json.loads(text)
            if (fields.pop("format"), fields.pop("version")) != (INDEX_FORMAT, INDEX_VERSION):
                raise OutputError(f"{path} is not an index of version {INDEX_VERSION}: build it again with this version")
            for name in ("cells", "target"):
                fields[name] = tuple(fields[name])
            fields["passes"] = INDEXED[fields["passes"].pop("method")](**fields["passes"])
            fields["operator"], fields["fidelity"] = OperatorFormat(**fields["operator"]), Fidelity(**fields["fidelity"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise OutputError(f"{path} is not an index ({first_line(error)}): build it again") from error

    def explainer(
        self,
        path: Path,
        bundle: str | None = None,
        provider: str = "auto",
        notice: Notice = ignore_notice,
        max_pixels: int = MAX_PIXELS,
    ) -> Explainer:
        """Return an explainer of the bundle and the precision that the index was built with, which reads colours alike.

        bundle: where it is now, if it was moved; max_pixels: of the largest picture that it reads
        Raises OptionError if it is not there, and what `Explainer` raises.
        """
        reading = Reading(max_pixels, self.apply_profiles)
        return Explainer(self.bundle_at(path, bundle), provider, self.precision, **vars(reading), notice=notice)

    def bundle_at(self, path: Path, bundle: str | None) -> str | None:
        """Return the bundle's folder, None for the demo. path, bundle: as above. Raises OptionError if it is not there."""
        folder = bundle or self.bundle or None
        if folder is not None and not Path(folder).is_dir():
            raise OptionError(f"the bundle that {path} was built with is not at {folder}: say where with --bundle")
        return folder

    def require(self, explainer: Explainer, path: Path) -> None:
        """Raise OptionError unless the explainer runs the model that the index was built with, and reads pictures alike."""
        model = explainer.model
        if model.bundle.identity != self.identity:
            raise OptionError(
                f"{path} was built with another model than {model.bundle.folder}: open it with that one, or build it again"
            )
        if (model.graph_digest, model.precision) != (self.graph, self.precision):
            raise OptionError(
                f"{path} was built with precision {self.precision}, this explainer runs {model.precision}: make it with "
                f"precision={self.precision!r}, or build the index again"
            )
        if model.reading.apply_profiles != self.apply_profiles:
            raise OptionError(
                f"{path} was built with apply_profiles={self.apply_profiles}, this explainer has another one: make it with "
                "that, or build the index again"
            )
        if isinstance(self.passes, Tokens) and all(graph.layout is None for graph in model.manifest.graphs):
            raise OptionError(
                f"{path} is of method tokens, and {model.bundle.folder} has no graphs of tokens: open it with the bundle "
                "that it was built with, or export the model again"
            )
        if attributes_digest(model) != self.attributes:
            raise OptionError(
                f"{path} holds what the bundle's attributes were when it was built, and they have changed: build it again"
            )


def attributes_digest(model: LoadedModel) -> str:
    """Return a digest of what confidences and activation maps depend on, beside the model; "" for no attributes."""
    bundle = model.bundle
    if bundle.attributes is None:
        return ""
    graph = model.manifest.graph("attributes", "fp32", target_of(model.provider))
    files = (ATTRIBUTES, VECTORS, "" if graph is None else graph.file)
    return hashlib.sha256("".join(bundle.digests.get(name, "-") for name in files).encode()).hexdigest()
