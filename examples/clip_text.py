"""Text to picture: what in a picture matches a text, by a CLIP or SigLIP model of transformers?

    python examples/clip_text.py openai/clip-vit-base-patch32 cat.jpg "a photo of a cat" --bundle models/clip

The model is a folder that `save_pretrained` wrote, or a name on the hub. Its vision tower becomes a bundle, its text tower
gives the reference. Needs sane-engine[cpu,export,hf].
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from engine import Explainer, Explanation, OptionError
from engine.terminal import run_command, say
from export import TorchSource, export_similarity
from export.hf import load_hf


@dataclasses.dataclass(frozen=True)
class Text:
    """An embedded text. vector: (D,) float32; a logit of the model is scale * cosine + bias"""

    vector: torch.Tensor
    scale: float
    bias: float


def embed_text(model_name: str, text: str) -> Text:
    """Embed a text with the model's text tower."""
    if Path(model_name).is_dir() and not (Path(model_name) / "tokenizer_config.json").is_file():
        raise OptionError(f"{model_name} has no tokenizer beside its weights: save its processor there too")
    try:
        model = AutoModel.from_pretrained(model_name, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(model_name)
    except (OSError, ValueError) as error:
        raise OptionError(f"transformers cannot load {model_name}: {str(error).splitlines()[0]}") from error
    longest = model.config.text_config.max_position_embeddings
    tokens = tokenizer([text], padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        found = model.get_text_features(**{k: v for k, v in tokens.items() if k in ("input_ids", "attention_mask")})
    vectors = found if isinstance(found, torch.Tensor) else found.pooler_output  # transformers 4, 5
    bias = getattr(model, "logit_bias", None)  # SigLIP has one, CLIP has none
    return Text(vectors[0], model.logit_scale.exp().item(), 0.0 if bias is None else bias.item())


def export_vision_tower(model_name: str, bundle: Path) -> None:
    """Write the model's vision tower as a bundle, as `python -m export similarity --hf` does."""
    tower = load_hf(model_name)
    if tower.preprocessing is None:
        raise OptionError(f"{model_name} has no preprocessor_config.json: save its processor there too")
    export_similarity(TorchSource(tower.module), tower.preprocessing(), bundle, metric="cosine", origin=tower.origin)


def in_logits(explanation: Explanation, text: Text) -> Explanation:
    """Change the similarity, and the map with its error, from cosines to the model's logits."""
    error = explanation.saliency_error
    return dataclasses.replace(
        explanation,
        similarity=text.scale * explanation.similarity + text.bias,
        saliency=text.scale * explanation.saliency,  # what showing a pixel adds: the bias adds nothing
        saliency_error=None if error is None else text.scale * error,
    )


def explain(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or Path(folder) / "clip"
        if not bundle.exists():
            export_vision_tower(options.model, bundle)
        text = embed_text(options.model, options.text)
        explanation = Explainer(bundle).explain(options.picture, text.vector)
    if options.logits:
        explanation = in_logits(explanation, text)
    explanation.save(options.out, (options.picture, None) if options.out.suffix in (".png", ".html") else None)
    say(f"{'logit' if options.logits else 'similarity'} {explanation.similarity:.3f}\nwrote {options.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Explain what in a picture matches a text.")
    add = parser.add_argument
    add("model", metavar="MODEL", help="a CLIP or SigLIP model of transformers: a folder, or a name on the hub")
    add("picture", type=Path, metavar="PICTURE")
    add("text", metavar="TEXT", help="such as 'a photo of a cat'")
    add("--bundle", type=Path, metavar="DIR", help="where the vision tower is kept; made if it is not there")
    add("--logits", action="store_true", help="the similarity and the map in the model's logits, instead of cosines")
    add(
        "--out",
        type=Path,
        default=Path("clip.png"),
        metavar="FILE",
        help=".png, .html, .json or .npz (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    return run_command(lambda: explain(options))


if __name__ == "__main__":
    sys.exit(main())
