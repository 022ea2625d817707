"""Read the similarity checkpoints of the paper's authors without running code in them (docs/method.md, Data layouts)."""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from engine.bundle.manifest import Conditions
from engine.errors import OptionError
from engine.pictures.preprocessing import Preprocessing
from export.architectures import SimilarityNet
from export.errors import ExportError, root_cause
from export.torch_files import load_state, state_dict

POLYVORE = "sane-polyvore"
AWA = "sane-awa"
ARCHITECTURES = (POLYVORE, AWA)
AUTHORS_PREPROCESSING = Preprocessing(112, 112, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""The authors' networks end in a 7 x 7 pool, which fixes the size of their pictures."""

TRUNK = "embeddingnet.embeddingnet."
CONDITIONS = "embeddingnet.masks.weight"


def load_checkpoint(path: Path, arch: str, typespaces: Path | None = None) -> tuple[nn.Module, Conditions | None]:
    """Return the network with its weights and, for Polyvore, its conditions.

    typespaces: typespaces.p of the data set, which names the conditions 'type,type'; without it they are numbered
    Raises OptionError or ExportError if the file does not hold that network.
    """
    if arch not in ARCHITECTURES:
        raise OptionError(f"arch must be one of {', '.join(ARCHITECTURES)}, got {arch!r}")
    if typespaces is not None and arch != POLYVORE:
        raise OptionError(f"{arch} has no conditions for typespaces to name: leave --typespaces out")
    state = {k.removeprefix("module."): v for k, v in state_dict(path).items()}  # DataParallel adds this prefix
    if (CONDITIONS in state) != (arch == POLYVORE):
        other = POLYVORE if CONDITIONS in state else AWA
        verb = "has" if CONDITIONS in state else "lacks"
        raise ExportError(f"{path} is no {arch} checkpoint: it {verb} {CONDITIONS}; try --arch {other}")
    module = SimilarityNet(normalise=arch == AWA)
    load_state(module, {k.removeprefix(TRUNK): v for k, v in state.items() if k.startswith(TRUNK)}, f"{path} ({TRUNK}*)")
    return module, _conditions(path, state[CONDITIONS], typespaces) if arch == POLYVORE else None


def load_typespaces(path: Path) -> list[tuple[str, str]]:
    """Return pairs of types from a pickle of strings in lists and tuples; raises ExportError, without running code from it,
    if it holds anything else.
    """
    try:
        pickled = Path(path).read_bytes()
        _refuse_large_memo(pickled)
        content = _PlainUnpickler(io.BytesIO(pickled), encoding="utf-8").load()
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror or error}") from error
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, MemoryError) as error:
        raise ExportError(f"{path} is not a pickled list of type pairs ({root_cause(error)})") from error
    if not isinstance(content, list) or not all(_is_pair(p) for p in content):
        raise ExportError(f"{path} must hold a list of pairs of type names")
    return [(p[0], p[1]) for p in content]


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, tuples, strings and numbers. A pickle can run code only through a global, and every global is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}; only lists, tuples and strings are read")


def _refuse_large_memo(pickled: bytes) -> None:
    """Raise UnpicklingError for a memo number that no file of this length needs: unpickling allocates up to that number."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if "PUT" in opcode.name and argument is not None and int(argument) > len(pickled):
            raise pickle.UnpicklingError(f"{opcode.name} {argument}")


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, str) for v in value)


def _conditions(path: Path, masks: Tensor, typespaces: Path | None) -> Conditions:
    if masks.ndim != 2 or masks.layout != torch.strided or not masks.is_floating_point():
        raise ExportError(f"{path}: {CONDITIONS} must be floating (C, D), got {masks.dtype} {tuple(masks.shape)}")
    names = [str(i) for i in range(len(masks))]
    if typespaces is not None:
        names = [",".join(pair) for pair in load_typespaces(typespaces)]
        if len(names) != len(masks):
            raise ExportError(f"{typespaces} names {len(names)} type pairs, {path} has {len(masks)} conditions")
    return Conditions(tuple(names), masks.detach().float().numpy())
