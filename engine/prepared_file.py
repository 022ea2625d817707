"""Prepared queries on disk: one .npz with everything but the model."""

import dataclasses
import io
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import EngineError, OptionError, OutputError
from engine.files import write_whole
from engine.methods import PLANS
from engine.model import LoadedModel, Picture, Running
from engine.prepared import Prepared
from engine.preprocessing import BASELINES
from engine.protocol import LARGEST_PLAN, require_whole
from engine.session import PROVIDERS

FORMAT = "sane-prepared"
VERSION = 1


def save_prepared(prepared: Prepared, path: Path) -> None:
    """Raises OutputError."""
    if path.suffix.lower() != ".npz":
        raise OutputError(f"cannot write {path}: a prepared query is an .npz file")
    plan = vars(prepared.plan)
    fields = {
        "format": FORMAT,
        "version": VERSION,
        "graph": prepared.model.graph_digest,
        "method": prepared.options.name,
        "options": dataclasses.asdict(prepared.options),
        "plan": {k: v for k, v in plan.items() if not isinstance(v, np.ndarray)},
        "running": dataclasses.asdict(prepared.running),
        "box": prepared.picture.box,
        **{k: getattr(prepared, k) for k in ("drawn", "baseline", "seconds", "late")},
    }
    arrays = {f"plan_{k}": v for k, v in plan.items() if isinstance(v, np.ndarray)}
    arrays |= {"pixels": prepared.picture.pixels, "embeddings": prepared.embeddings, "whole": prepared.whole}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, fields=np.array(json.dumps(fields)), **arrays)
    write_whole(path, buffer.getvalue())


def load_prepared(model: LoadedModel, path: Path) -> Prepared:
    """Raises OutputError where the file is not one of `save_prepared`, OptionError where it belongs to another model."""
    try:
        with np.load(path, allow_pickle=False) as data:
            fields = json.loads(str(data["fields"]))
            arrays = {name: data[name] for name in data if name != "fields"}
        if (fields["format"], fields["version"]) != (FORMAT, VERSION):
            raise OutputError(f"{path} is not a prepared query of version {VERSION}")
        _require_same_model(model, fields, path)
        try:
            return _read(model, fields, arrays)
        except EngineError as error:
            raise OutputError(f"{path} is not a prepared query of this model: {error}") from error
    except EngineError:
        raise
    except Exception as error:  # numpy and zlib raise almost anything on a broken archive
        raise OutputError(f"{path} is not a prepared query ({error})") from error


def _require_same_model(model: LoadedModel, fields: dict[str, Any], path: Path) -> None:
    made, running = fields["graph"], fields["running"]
    if made not in model.bundle.digests.values():
        raise OptionError(f"{path} was prepared with another model than {model.bundle.folder}; prepare the query again")
    if (made, running["precision"]) != (model.graph_digest, model.precision):
        raise OptionError(
            f"{path} was prepared with precision {running['precision']}, this Explainer runs {model.precision}: "
            f"make it with precision={running['precision']!r}, or prepare the query again"
        )


def _read(model: LoadedModel, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> Prepared:
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
    picture = Picture(pixels, (left, top, right, bottom))
    return Prepared(
        model=model,
        picture=picture,
        options=method(**fields["options"]),
        plan=plan,
        embeddings=embeddings.astype(np.float32),
        whole=whole.astype(np.float32),
        seen=model.see(picture),  # words may have changed since
        running=_running(model, fields["running"]),
        drawn=bool(fields["drawn"]),
        baseline=_known(fields["baseline"], BASELINES),
        seconds=float(fields["seconds"]),
        late=bool(fields["late"]),
    )


def _running(model: LoadedModel, fields: dict[str, Any]) -> Running:
    """What the file says of its runs, where that can be true."""
    running = Running(**fields)
    _known(running.provider, PROVIDERS)
    _known(running.precision, (model.precision,))
    for name in ("threads", "batch"):
        require_whole(name, getattr(running, name), 1, LARGEST_PLAN)
    return running


def _known(name: str, names: Collection[str]) -> str:
    if name not in names:
        raise OutputError(f"it says {name!r} where one of {', '.join(names)} is expected")
    return name
