"""Prepared pictures on disk: one .npz file with everything but the model. Knows their fields, not their class."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import EngineError, OptionError, OutputError, first_line
from engine.files import read_npz, write_npz
from engine.methods import PLANS
from engine.model import LoadedModel, Picture, RunSettings
from engine.pictures.preprocessing import BASELINES
from engine.protocol import LARGEST_PLAN, require_whole
from engine.runtime.providers import PROVIDERS

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
        "late": prepared["deadline_reached"],
        **{k: prepared[k] for k in ("drawn", "baseline", "seconds")},
    }
    arrays = {f"plan_{k}": v for k, v in plan.items() if isinstance(v, np.ndarray)}
    arrays |= {"pixels": picture.pixels, "embeddings": prepared["embeddings"], "whole": prepared["whole"]}
    write_npz(path, {"fields": np.array(json.dumps(fields)), **arrays})


def read_prepared(model: LoadedModel, path: Path) -> dict[str, Any]:
    """The fields that `write_prepared` wrote. Raises OutputError where the file is not one of its, OptionError where it
    belongs to another model.
    """
    arrays = read_npz(path)
    try:
        fields = json.loads(str(arrays.pop("fields")))
        if (fields["format"], fields["version"]) != (PREPARED_FORMAT, PREPARED_VERSION):
            raise OutputError(f"{path} is not a prepared picture of version {PREPARED_VERSION}")
        _require_same_model(model, fields, path)
        try:
            return _read_fields(model, fields, arrays)
        except EngineError as error:
            raise OutputError(f"{path} is not a prepared picture of this model: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration, RecursionError) as error:
        if isinstance(error, EngineError):  # an OptionError is a ValueError too
            raise
        raise OutputError(f"{path} is not a prepared picture ({first_line(error)})") from error


def _require_same_model(model: LoadedModel, fields: dict[str, Any], path: Path) -> None:
    made, precision = fields["graph"], fields["running"]["precision"]
    if made not in model.bundle.digests.values():
        raise OptionError(f"{path} was prepared with another model than {model.bundle.folder}; prepare the picture again")
    if (made, precision) != (model.graph_digest, model.precision):
        raise OptionError(
            f"{path} was prepared with precision {precision}, this Explainer runs {model.precision}: make it with "
            f"precision={precision!r}, or prepare the picture again"
        )


def _read_fields(model: LoadedModel, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    method = {m.name: m for m in PLANS.values()}[fields["method"]]
    plan_type = next(plan for plan, owner in PLANS.items() if owner is method)
    plan = plan_type(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in fields["plan"].items()},
        **{k.removeprefix("plan_"): v for k, v in arrays.items() if k.startswith("plan_")},
    )
    pixels, embeddings, whole = arrays["pixels"], arrays["embeddings"], arrays["whole"]
    preprocessing, size = model.preprocessing, model.manifest.embedding
    expected = ((preprocessing.height, preprocessing.width, 3), (len(plan), size), (size,))
    if (pixels.shape, embeddings.shape, whole.shape) != expected or pixels.dtype != np.uint8:
        raise OutputError("its arrays do not fit the model")
    if not np.isfinite(embeddings).all() or not np.isfinite(whole).all():
        raise OutputError("its embeddings are not finite")
    left, top, right, bottom = fields["box"]
    original_size = fields.get("original_size")  # older files have none
    if original_size is not None:
        original_size = (int(original_size[0]), int(original_size[1]))
    return {
        "picture": Picture(pixels, (left, top, right, bottom), original_size),
        "options": method(**fields["options"]),
        "plan": plan,
        "embeddings": embeddings.astype(np.float32),
        "whole": whole.astype(np.float32),
        "run_settings": _run_settings(model, fields["running"]),
        "drawn": bool(fields["drawn"]),
        "baseline": _one_of(fields["baseline"], BASELINES),
        "seconds": float(fields["seconds"]),
        "deadline_reached": bool(fields["late"]),
    }


def _run_settings(model: LoadedModel, fields: dict[str, Any]) -> RunSettings:
    """What the file says of its runs, where that can be true."""
    settings = RunSettings(**fields)
    _one_of(settings.provider, PROVIDERS)
    _one_of(settings.precision, (model.precision,))
    for name in ("threads", "batch"):
        require_whole(name, getattr(settings, name), 1, LARGEST_PLAN)
    return settings


def _one_of(name: str, names: Collection[str]) -> str:
    if name not in names:
        raise OutputError(f"it says {name!r} where one of {', '.join(names)} is expected")
    return name
