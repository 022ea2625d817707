"""Prepared pictures on disk: one .npz file with everything but the model. Knows their fields, not their class."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.bundle import graph_digest
from engine.errors import EngineError, OptionError, OutputError, first_line
from engine.files import write_npz
from engine.methods import PLANS
from engine.model import LoadedModel, RunSettings
from engine.npz import NpzFile, open_npz
from engine.picture import Picture
from engine.pictures.preprocessing import BASELINES, Box
from engine.protocol import LARGEST_PLAN, Plan, require_whole
from engine.runtime.providers import PROVIDERS
from engine.typed import typed

PREPARED_FORMAT, PREPARED_VERSION = "sane-prepared", 1


def write_prepared(path: Path, model: LoadedModel, prepared: Mapping[str, Any]) -> None:
    """Write the fields of an `engine.prepared.Prepared`, by name. Raises OutputError."""
    if path.suffix.lower() != ".npz":
        raise OutputError(f"cannot write {path}: the name of a prepared picture's file must end in .npz")
    plan, picture = vars(prepared["plan"]), prepared["picture"]
    fields = {
        "format": PREPARED_FORMAT,
        "version": PREPARED_VERSION,
        "graph": model.graph_digest,
        "method": prepared["options"].name,
        "options": dataclasses.asdict(prepared["options"]),
        "plan": {k: v for k, v in plan.items() if not isinstance(v, np.ndarray)},
        "running": dataclasses.asdict(prepared["run_settings"]),
        "box": picture.box,
        "original_size": picture.original_size,
        "profile": picture.profile,
        "late": prepared["deadline_reached"],
        **{k: prepared[k] for k in ("drawn", "baseline", "seconds")},
    }
    arrays = {f"plan_{k}": v for k, v in plan.items() if isinstance(v, np.ndarray)}
    arrays |= {"pixels": picture.pixels, "embeddings": prepared["embeddings"], "whole": prepared["whole"]}
    write_npz(path, {"fields": np.array(json.dumps(fields)), **arrays})


@dataclasses.dataclass(frozen=True)
class SavedFields:
    """What a file says beside its arrays. graph: sha256 of the graph that ran; plan: its numbers; late: see `Prepared`"""

    format: str
    version: int
    graph: str
    method: str
    options: dict[str, Any]
    plan: dict[str, Any]
    running: RunSettings
    box: Box
    late: bool
    drawn: bool
    baseline: str
    seconds: float
    original_size: tuple[int, int] | None = None  # older files have none
    profile: str | None = None  # likewise


def read_prepared(model: LoadedModel, path: Path) -> dict[str, Any]:
    """The fields that `write_prepared` wrote. Raises OutputError where the file is not one of its, OptionError where it
    belongs to another model.
    """
    with open_npz(path) as file:
        try:
            fields = typed(SavedFields, file.read_json("fields"))
            if (fields.format, fields.version) != (PREPARED_FORMAT, PREPARED_VERSION):
                raise OutputError(f"it is not of version {PREPARED_VERSION}")
        except (OptionError, OutputError) as error:
            raise OutputError(f"it is not a prepared picture ({error})") from error
        _require_same_model(model, fields, path)
        try:
            return _read_fields(model, fields, file)
        except (EngineError, TypeError) as error:
            raise OutputError(f"it is not a prepared picture of this model: {first_line(error)}") from error


def _require_same_model(model: LoadedModel, fields: SavedFields, path: Path) -> None:
    made, precision = fields.graph, fields.running.precision
    if made not in {graph_digest(model.bundle, graph) for graph in model.manifest.graphs}:
        raise OptionError(f"{path} was prepared with another model than {model.bundle.folder}; prepare the picture again")
    if (made, precision) != (model.graph_digest, model.precision):
        raise OptionError(
            f"{path} was prepared with precision {precision}, this Explainer runs {model.precision}: make it with "
            f"precision={precision!r}, or prepare the picture again"
        )


def _read_fields(model: LoadedModel, fields: SavedFields, file: NpzFile) -> dict[str, Any]:
    methods = {method.name: (plan, method) for plan, method in PLANS.items()}
    plan_type, method = methods[_one_of(fields.method, methods)]
    arrays = {f"plan_{f.name}": f.name for f in dataclasses.fields(plan_type) if f.type is np.ndarray}
    file.refuse_others(("fields", "pixels", "embeddings", "whole", *arrays))
    plan: Plan = typed(plan_type, fields.plan | {name: file.read(stored, "biu") for stored, name in arrays.items()})
    preprocessing, size = model.preprocessing, model.manifest.embedding
    height, width = preprocessing.height, preprocessing.width
    plan.renderer(height, width)  # raises where the plan does not fit the picture
    pixels = file.read_uint8("pixels", (height, width, 3))
    return {
        "picture": Picture(pixels, fields.box, fields.original_size, fields.profile),
        "options": method(**fields.options),
        "plan": plan,
        "embeddings": file.read_float32("embeddings", (len(plan), size)),
        "whole": file.read_float32("whole", (size,)),
        "run_settings": _run_settings(model, fields.running),
        "drawn": fields.drawn,
        "baseline": _one_of(fields.baseline, (*BASELINES, method.baseline)),
        "seconds": fields.seconds,
        "deadline_reached": fields.late,
    }


def _run_settings(model: LoadedModel, settings: RunSettings) -> RunSettings:
    """What the file says of its runs, where that can be true."""
    _one_of(settings.provider, PROVIDERS)
    _one_of(settings.precision, (model.precision,))
    for name in ("threads", "batch"):
        require_whole(name, getattr(settings, name), 1, LARGEST_PLAN)
    return settings


def _one_of(name: str, names: Collection[str]) -> str:
    if name not in names:
        raise OutputError(f"it says {name!r} where one of {', '.join(names)} is expected")
    return name
