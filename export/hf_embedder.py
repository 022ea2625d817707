"""One embedding per picture from a model of transformers."""

from typing import Any

import torch
from torch import nn

from export.errors import ExportError, root_cause

CLASS_TOKENS = ("cls_token", "class_embedding", "class_token")
"""Names of parameters that show that a model's first token is a class token."""
TEXT_PARTS = ("text_model", "text_projection")
USUAL_SIZE = 224


class HfEmbedder(nn.Module):
    """Takes the model's own embedding if it has one, else the class token, else the mean of the patches.

    pool: cls or mean, in place of that; None: as said
    pooler_is_untrained: its pooled output is random, because its files have no weights for it
    Raises ExportError if the model has no such output, or does not run on a picture alone.

    taken: what was chosen, for people
    """

    def __init__(self, model: Any, pool: str | None, pooler_is_untrained: bool) -> None:
        super().__init__()
        self.model = model
        self.pool = pool
        vision = getattr(model.config, "vision_config", model.config)
        self.has_class = any(key.rpartition(".")[2] in CLASS_TOKENS for key in model.state_dict())
        self.extra = int(self.has_class) + int(getattr(vision, "num_register_tokens", 0) or 0)
        self.dual = hasattr(model, "get_image_features")
        for name in TEXT_PARTS:
            if self.dual and isinstance(getattr(model, name, None), nn.Module):
                setattr(model, name, None)  # never run, and often as large as the rest
        self.taken = self._choice(self._tried(vision), pooler_is_untrained)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, D)"""
        found = self._outputs(pixels)
        if self.taken in found:
            return found[self.taken].flatten(1)
        tokens = found["last_hidden_state"]
        if tokens.ndim == 4:
            return tokens.mean((2, 3))
        return tokens[:, 0] if self.taken == "the class token" else tokens[:, self.extra :].mean(1)

    def _choice(self, found: dict[str, torch.Tensor], pooler_is_untrained: bool) -> str:
        kind = type(self.model).__name__
        if self.pool is None and "image_embeds" in found:
            return "image_embeds"
        if self.pool is None and "pooler_output" in found and not pooler_is_untrained:
            return "pooler_output"
        if found.get("last_hidden_state", torch.zeros(())).ndim not in (3, 4):
            raise ExportError(f"a {kind} gives neither tokens nor a pooled output: leave --pool out, or use --module")
        if self.pool == "cls" and not self.has_class:
            raise ExportError(f"a {kind} has no class token for --pool cls: use --pool mean")
        return "the class token" if self.has_class and self.pool != "mean" else "the mean of the patches"

    def _tried(self, vision: Any) -> dict[str, torch.Tensor]:
        """Return the outputs for a black picture."""
        size = getattr(vision, "image_size", None) or USUAL_SIZE
        height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
        black = torch.zeros(1, getattr(vision, "num_channels", 3), height, width)
        try:
            with torch.inference_mode():
                return self._outputs(black)
        except Exception as error:  # it may be any model
            raise ExportError(
                f"a {type(self.model).__name__} does not run on a picture alone ({root_cause(error)}): "
                "make an nn.Module of the part that does, and use --module"
            ) from error

    def _outputs(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the outputs that are there, by their names in transformers."""
        if not self.dual:
            found = self.model(pixel_values=pixels)
            names = {name: name for name in ("image_embeds", "pooler_output", "last_hidden_state")}
        else:
            found = self.model.get_image_features(pixel_values=pixels)
            if isinstance(found, torch.Tensor):  # transformers 4
                return {"image_embeds": found}
            names = {"image_embeds": "pooler_output", "last_hidden_state": "last_hidden_state"}
        outputs = {name: getattr(found, theirs, None) for name, theirs in names.items()}
        return {name: output for name, output in outputs.items() if output is not None}
