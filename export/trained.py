"""The files that `training` writes: a network's weights and everything else that an export needs; no code in them runs."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.attributes.table import AttributeTable
from engine.bundle.manifest import Conditions
from engine.errors import EngineError
from engine.pictures.preprocessing import Preprocessing
from engine.typed import typed
from export.architectures import AttributeNet, PublishedAttributeNet, SimilarityNet
from export.errors import ExportError, root_cause
from export.torch_files import load_state, save_whole

TRAINED_FORMAT = "sane-trained"
TRAINED_VERSION = 1
TRAINED_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "similarity": SimilarityNet,
    "attributes": AttributeNet,
    "attributes-published": PublishedAttributeNet,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained network. network: in evaluation mode; preprocessing: of its pictures

    conditions: of a similarity network that was trained with types of pairs; table: the attributes of an attribute network
    """

    network: nn.Module
    preprocessing: Preprocessing
    conditions: Conditions | None = None
    table: AttributeTable | None = None


def save_trained(path: Path, architecture: str, arguments: Mapping[str, int], trained: Trained) -> None:
    """Write a file that `load_trained` reads; raises OutputError.

    architecture: a key of TRAINED_NETWORKS; arguments: those that the network was made with
    """
    conditions, table = trained.conditions, trained.table
    content: dict[str, Any] = {
        "format": TRAINED_FORMAT,
        "version": TRAINED_VERSION,
        "architecture": architecture,
        "arguments": dict(arguments),
        "state": {k: v.contiguous() for k, v in trained.network.state_dict().items()},
        "preprocessing": trained.preprocessing.to_dict(),
        "conditions": None,
        "table": None,
    }
    if conditions is not None:
        content["conditions"] = {"names": list(conditions.names), "weights": torch.from_numpy(conditions.weights)}
    if table is not None:
        content["table"] = {"names": list(table.names), "confidence": table.confidence, "threshold": table.threshold}
        content["table"]["bias"] = torch.from_numpy(table.bias)
    save_whole(content, path)


def load_trained(path: Path) -> Trained:
    """Read a file that `save_trained` wrote; raises ExportError if it is not one."""
    if not path.is_file():
        raise ExportError(f"there is no file {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content.get("format") != TRAINED_FORMAT or content["version"] != TRAINED_VERSION:
            raise ValueError(f"its format is not {TRAINED_FORMAT} {TRAINED_VERSION}")
        network = TRAINED_NETWORKS[content["architecture"]](**content["arguments"])
        load_state(network, content["state"], str(path))
        return Trained(
            network.eval(),
            typed(Preprocessing, content["preprocessing"]),
            _conditions(content["conditions"]) if content["conditions"] else None,
            _table(content["table"]) if content["table"] else None,
        )
    except EngineError:
        raise
    except Exception as error:  # broken files raise almost anything
        raise ExportError(
            f"{path} was not written by training.similarity or training.attributes ({root_cause(error)})"
        ) from error


def _conditions(fields: dict[str, Any]) -> Conditions:
    return Conditions(tuple(fields["names"]), fields["weights"].numpy())


def _table(fields: dict[str, Any]) -> AttributeTable:
    bias = fields["bias"].numpy().astype(np.float32)
    return AttributeTable(tuple(fields["names"]), fields["confidence"], bias, fields["threshold"])
