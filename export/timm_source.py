"""Networks of timm, without their classifiers."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from engine.errors import OptionError
from engine.pictures.preprocessing import Preprocessing
from export.errors import ExportError, root_cause
from export.preprocessor import from_timm
from export.runtime import silence
from export.torch_files import load_state, state_dict
from export.torchvision_absence import replaced, works

RANDOM = "random"
"""In place of a file of weights: leave the network as it is made, to try an export."""


@dataclasses.dataclass(frozen=True)
class TimmModel:
    """A network of timm without its classifier. module: (N, C, H, W) float32 -> (N, D)

    preprocessing: returns what its configuration says, or raises ExportError; origin: what the weights are
    """

    module: nn.Module
    preprocessing: Callable[[], Preprocessing]
    origin: str


def load_timm(name: str, weights: Path | None = None) -> TimmModel:
    """Make a network of timm, and load its weights from a file, or else those that timm publishes for this name.

    weights: a state dict, in which the classifier may be; Path(RANDOM) leaves the network as it is made
    Raises OptionError without timm, ExportError if there is no such network or its weights do not fit.
    """
    timm = _import_timm()
    try:
        with silence():
            module = timm.create_model(name, pretrained=weights is None, num_classes=0)
    except Exception as error:  # timm raises RuntimeError for an unknown name, and whatever a download raises
        if weights is None and _is_known(timm, name):
            raise ExportError(
                f"timm cannot fetch the weights of {name}: {root_cause(error)}; give a file of them with --weights, "
                f"or --weights {RANDOM} to try an export"
            ) from error
        near = ", ".join(timm.list_models(f"*{name.partition('.')[0][:6]}*")[:5])
        raise ExportError(
            f"timm cannot make {name!r}: {root_cause(error)}; timm.list_models() lists the names"
            + (f", such as {near}" if near else "")
        ) from error
    config = dict(module.pretrained_cfg)
    if weights is not None and weights != Path(RANDOM):
        load_state(module, _without_classifier(module, state_dict(weights), config), str(weights))
    origin = config.get("hf_hub_id") or name if weights is None else ""
    return TimmModel(module.eval(), functools.partial(from_timm, config), origin)


def _without_classifier(module: nn.Module, state: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict without the tensors of the classifier, which the network does not have."""
    names = config.get("classifier") or ()
    heads = (names,) if isinstance(names, str) else tuple(names)
    known = module.state_dict()
    return {k: v for k, v in state.items() if k in known or not any(k.startswith(f"{head}.") for head in heads)}


def _is_known(timm: Any, name: str) -> bool:
    return bool(timm.is_model(name.partition(".")[0]))


def _import_timm() -> Any:
    """Import timm. It imports torchvision, of which networks and their configurations need nothing: empty classes do."""
    try:
        with silence(), replaced(not works()):
            import timm  # noqa: PLC0415 - an optional package, and slow to load
    except ImportError as error:
        if error.name == "timm":
            raise OptionError("timm is not installed: pip install 'sane-engine[cpu,export,timm]'") from error
        raise OptionError(
            f"timm does not import: {root_cause(error)}; pip install 'sane-engine[cpu,export,timm]'"
        ) from error
    return timm
