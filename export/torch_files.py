"""Files of torch.save: written complete or not at all, and read without running code in them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.errors import OutputError
from engine.files import beside
from export.errors import ExportError, root_cause


def save_whole(content: object, path: Path) -> None:
    """Write `content` with torch.save, complete or not at all; raises OutputError."""
    new = beside(path)
    try:
        torch.save(content, new)
        os.replace(new, path)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a missing folder or a full disk
        raise OutputError(f"cannot write {path}: {root_cause(error)}") from error
    finally:
        new.unlink(missing_ok=True)


def state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors by name from a .safetensors file, or from one of torch.save, at its top or under `state_dict` or `model`,
    without running code in the file. Raises ExportError.
    """
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"there is no weights file {path}")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):  # in checkpoints the best score is a numpy scalar
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken files raise almost anything, and torch does not distinguish them from pickled code
        raise ExportError(
            f"{path} is not a file of torch.save with tensors in plain containers; anything else is not read, since it "
            "could run code: save module.state_dict() again"
        ) from error
    if isinstance(content, dict):
        content = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not content or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise ExportError(f"{path} holds no state dict: it must hold tensors by name, at the top or under 'state_dict'")
    return {str(k): v for k, v in content.items()}


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors import torch as safetensors  # noqa: PLC0415 - comes with the extras hf and timm
    except ImportError as error:
        raise ExportError("safetensors is not installed: pip install safetensors") from error
    try:
        return safetensors.load_file(path)
    except Exception as error:  # safetensors' own class, or OSError
        raise ExportError(
            f"{path} is not a whole .safetensors file ({root_cause(error)}): download or save it again"
        ) from error


def load_state(module: nn.Module, state: dict[str, torch.Tensor], path: str) -> None:
    """Load `state`, read from `path`, into `module`; raises ExportError unless they fit each other exactly."""
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes that differ, one per line
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise ExportError(f"{path} does not fit the module: {' '.join(lines)}") from error
    for what, names in (("lacks", missing), ("has tensors that the module does not take:", unexpected)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ExportError(f"{path} {what} {', '.join(names[:3])}{more}")


def _numpy_scalars() -> list[Any]:
    """Return what a pickled numpy number refers to, under the module names of numpy 1 and 2."""
    scalar = np.float64(0).__reduce__()[0]
    paths = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((scalar, path) for path in paths), np.dtype, *{type(np.dtype(c)) for c in "?bBhHiIlLqQefd"}]
