"""Vision models of Hugging Face transformers, and the vision towers of models of pictures and text."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.errors import OptionError
from engine.pictures.preprocessing import Preprocessing
from export.errors import ExportError, root_cause
from export.hf_embedder import HfEmbedder
from export.preprocessor import read_preprocessor
from export.runtime import silence
from export.torchvision_absence import hidden, works

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclasses.dataclass(frozen=True)
class HfModel:
    """A model of transformers.

    module: (N, C, H, W) float32 -> (N, D); taken: which of its outputs that is, for people
    preprocessing: returns what its files say, or raises ExportError; None: they do not say
    origin: the name on the hub and the revision; empty for a folder
    """

    module: nn.Module
    taken: str
    preprocessing: Callable[[], Preprocessing] | None
    origin: str


def load_hf(name: str, pool: str | None = None) -> HfModel:
    """Load a model from a folder that `save_pretrained` wrote, or by its name on the hub, with @REVISION if wanted.

    pool: cls, or mean (of the patches), in place of what the model's configuration says; None for that
    Raises OptionError without transformers, ExportError if the model is not there or is not one of pictures.
    """
    with hidden(not works()):
        return _load_hf(name, pool)


def _load_hf(name: str, pool: str | None) -> HfModel:
    try:
        import transformers  # noqa: PLC0415 - an optional package, and slow to load
    except ImportError as error:
        raise OptionError("transformers is not installed: pip install 'sane-engine[cpu,export,hf]'") from error
    local = Path(name).is_dir()
    if local and not (Path(name) / "config.json").is_file():
        raise ExportError(f"{name} has no config.json: give a folder that save_pretrained wrote, or a name on the hub")
    where, _, revision = (name, "", "") if local else name.partition("@")
    options: dict[str, Any] = {"local_files_only": local, "revision": revision or None}
    with silence():
        try:
            config = transformers.AutoConfig.from_pretrained(where, **options)
            model, untrained = _loaded(transformers, where, config, options)
            processor = _processor_file(where, options)
        except ExportError:
            raise
        except Exception as error:  # those of the hub, of files and of weights share no base
            raise ExportError(_advice(name, local, error)) from error
        module = HfEmbedder(model, pool, any(key.startswith("pooler.") for key in untrained))
    origin = "" if local else f"{where}@{getattr(config, '_commit_hash', None) or revision or 'unknown revision'}"
    preprocessing = None if processor is None else functools.partial(read_preprocessor, processor)
    return HfModel(module, f"{module.taken} of {type(model).__name__}", preprocessing, origin)


def _loaded(transformers: Any, where: str, config: Any, options: dict[str, Any]) -> tuple[nn.Module, list[str]]:
    """Return the model in float32, and the names of its weights that the files lack."""
    if config.model_type == "siglip2":
        raise ExportError(
            f"{where} is a NaFlex model, which takes any number of patches, not pictures of one size: use a SigLIP 2 model "
            "of fixed resolution, such as google/siglip2-base-patch16-224"
        )
    architecture = (config.architectures or [""])[0]
    projects = architecture.endswith("VisionModelWithProjection") and hasattr(transformers, architecture)
    model, report = (getattr(transformers, architecture) if projects else transformers.AutoModel).from_pretrained(
        where, config=config, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **options
    )
    if not hasattr(model, "get_image_features") and model.main_input_name != "pixel_values":
        kind = type(model).__name__
        raise ExportError(f"{where} holds a {kind}, which takes {model.main_input_name}: choose a model of pictures")
    missing = sorted(report["missing_keys"])
    needed = [key for key in missing if not key.startswith("pooler.")]
    if needed:
        more = f" and {len(needed) - 3} more" if len(needed) > 3 else ""
        raise ExportError(f"the weights of {where} lack {', '.join(needed[:3])}{more}: save the whole model again")
    return model.eval(), missing


def _processor_file(where: str, options: dict[str, Any]) -> Path | None:
    """Return the file that describes the preprocessing, fetched from the hub if need be; None if there is none."""
    if Path(where).is_dir():
        return next((Path(where) / name for name in PROCESSOR_FILES if (Path(where) / name).is_file()), None)
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - comes with transformers
    from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415

    for name in PROCESSOR_FILES:
        try:
            return Path(hf_hub_download(where, name, revision=options["revision"]))
        except EntryNotFoundError:
            continue
    return None


def _advice(name: str, local: bool, error: Exception) -> str:
    if local:
        return f"transformers cannot load {name}: {root_cause(error)}; save the model there again with save_pretrained"
    return (
        f"transformers cannot load {name}: {root_cause(error)}; it is no folder here, and as a name on the hub it needs a "
        "network and, if it is gated, a token: download it elsewhere, and give the folder"
    )
