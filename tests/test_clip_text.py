"""`examples/clip_text.py` on tiny random CLIP and SigLIP models: its numbers are those of the whole model."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CAT, ROOT

from engine import Explainer, Explanation
from engine.pictures.loading import load_picture

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TOWER: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**TOWER, "image_size": 32, "patch_size": 8}
TEXT = {**TOWER, "vocab_size": 12, "max_position_embeddings": 8, "eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1}


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("clip_text", ROOT / "examples" / "clip_text.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save_tiny(folder: Path, kind: str) -> Any:
    """Save a random model with its tokenizer and preprocessing; returns it."""
    torch.manual_seed(0)
    if kind == "CLIP":
        made = transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8))
    else:
        made = transformers.SiglipModel(transformers.SiglipConfig(text_config=TEXT, vision_config=VISION))
        torch.nn.init.constant_(made.logit_bias, -3.5)
    torch.nn.init.constant_(made.logit_scale, 2.25)
    made.eval().save_pretrained(folder)
    words = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", "a", "photo", "of", "cat"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **named).save_pretrained(folder)
    processing = {"image_processor_type": f"{kind}ImageProcessor", "size": {"height": 32, "width": 32}}
    processing |= {"do_resize": True, "resample": 3, "do_center_crop": False, "do_rescale": True, "do_normalize": True}
    processing |= {"rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processing))
    return made


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_the_map_is_of_the_text_and_in_logits_if_asked(
    example: ModuleType, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, bundle = tmp_path / "model", tmp_path / "bundle"
    model = save_tiny(folder, kind)
    asked = [str(folder), str(CAT[0]), "a photo of a cat", "--bundle", str(bundle), "--out"]
    assert example.main([*asked, str(tmp_path / "cosine.npz")]) == 0
    assert example.main([*asked, str(tmp_path / "logits.npz"), "--logits"]) == 0
    assert example.main([*asked, str(tmp_path / "clip.png")]) == 0
    cosine, logits = (Explanation.load(tmp_path / f"{name}.npz") for name in ("cosine", "logits"))
    assert f"logit {logits.similarity:.3f}" in capsys.readouterr().out

    preprocessing = Explainer(bundle).model.preprocessing
    pixels = torch.tensor(preprocessing.normalised(preprocessing.fitted(load_picture(CAT[0]))[0])[None])
    tokens = torch.tensor([[4, 5, 6, 4, 7, 2, 0, 0]])
    mask = {"attention_mask": torch.tensor([[1] * 6 + [0] * 2])}
    with torch.inference_mode():
        whole = model(input_ids=tokens, pixel_values=pixels, **mask)
    assert logits.similarity == pytest.approx(whole.logits_per_image.item(), abs=1e-4)
    scale = float(np.exp(2.25))
    bias = 0 if kind == "CLIP" else -3.5
    assert logits.similarity == pytest.approx(scale * cosine.similarity + bias, abs=1e-6)
    np.testing.assert_allclose(logits.saliency, scale * cosine.saliency, rtol=1e-5)
    assert logits.saliency_error is not None
    assert cosine.saliency_error is not None
    np.testing.assert_allclose(logits.saliency_error, scale * cosine.saliency_error, rtol=1e-5)


def test_a_folder_without_its_processor_ends_in_one_line(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny(tmp_path, "CLIP")
    (tmp_path / "preprocessor_config.json").unlink()
    assert example.main([str(tmp_path), str(CAT[0]), "a cat"]) == 2
    assert "has no preprocessor_config.json: save its processor there too" in capsys.readouterr().err
    (tmp_path / "tokenizer_config.json").unlink()  # without it, transformers makes one that knows no word
    with pytest.raises(example.OptionError, match="has no tokenizer beside its weights"):
        example.embed_text(str(tmp_path), "a cat")
