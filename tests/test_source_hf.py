"""Models of transformers from folders that save_pretrained wrote: the library's own embedding, or one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import PICTURES, error_line, exit_status
from PIL import Image

from engine import Explainer
from engine.bundle import load_bundle
from engine.errors import OptionError
from export import ExportError
from export.commands import main
from export.hf import load_hf
from export.runtime import silence
from export.sources import hf_model
from export.torchvision_absence import hidden, works

with hidden(not works()):  # a torchvision that does not import would break transformers itself
    transformers = pytest.importorskip("transformers")
    transformers.utils.is_torchvision_available()  # which is remembered
VIT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32}
PATCHES = {**VIT, "patch_size": 8}
TEXT = {**VIT, "vocab_size": 50}
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 40},
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "resample": 3,
}
pytestmark = pytest.mark.filterwarnings("ignore")


def clip() -> Any:
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=PATCHES, projection_dim=24)
    return transformers.CLIPModel(config)


def siglip() -> Any:
    config = transformers.SiglipConfig(text_config={**TEXT, "projection_size": 32}, vision_config=PATCHES)
    return transformers.SiglipModel(config)


def vit(kind: str = "ViTModel", **more: Any) -> Any:
    return getattr(transformers, kind)(transformers.ViTConfig(**PATCHES, **more))


def dinov2(kind: str = "Dinov2Model") -> Any:
    return getattr(transformers, kind)(transformers.Dinov2Config(**PATCHES))


def registers() -> Any:
    config = transformers.Dinov2WithRegistersConfig(**PATCHES, num_register_tokens=2)
    return transformers.Dinov2WithRegistersModel(config)


def resnet() -> Any:
    return transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))


def projected() -> Any:
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**PATCHES, projection_dim=24))


def saved(folder: Path, make: Callable[[], Any], processor: dict[str, Any] | None = PROCESSOR) -> Any:
    """Save a model with random weights and its processor; returns the model."""
    torch.manual_seed(0)
    with silence():
        model = make().eval()
        model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


def pixels() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32))


def assert_gives(folder: Path, expected: torch.Tensor, taken: str, pool: str | None = None) -> None:
    found = load_hf(str(folder), pool)
    assert found.taken == taken
    with torch.inference_mode():
        torch.testing.assert_close(found.module(pixels()), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "taken"),
    [
        (clip, "image_embeds of CLIPModel"),
        (siglip, "image_embeds of SiglipModel"),
        (projected, "image_embeds of CLIPVisionModelWithProjection"),
        (vit, "pooler_output of ViTModel"),
        (dinov2, "pooler_output of Dinov2Model"),
        (resnet, "pooler_output of ResNetModel"),
    ],
)
def test_the_configuration_decides_what_the_embedding_is(make: Callable[[], Any], taken: str, tmp_path: Path) -> None:
    model = saved(tmp_path, make)
    with torch.inference_mode():
        run = model.get_image_features if hasattr(model, "get_image_features") else model
        found = run(pixel_values=pixels())
    expected = found.image_embeds if "Projection" in taken else found.pooler_output
    assert_gives(tmp_path, expected.flatten(1), taken)


def test_the_pooler_of_a_classifier_is_untrained(tmp_path: Path) -> None:
    """A classifier's files have no weights of the pooler, which transformers would fill with random numbers."""
    model = saved(tmp_path, lambda: vit("ViTForImageClassification"))
    with torch.inference_mode():
        expected = model.vit(pixel_values=pixels()).last_hidden_state[:, 0]
    assert_gives(tmp_path, expected, "the class token of ViTModel")


def test_pool_asks_for_the_class_token_or_the_patches(tmp_path: Path) -> None:
    for name, make in (("registers", registers), ("clip", clip)):
        model = saved(tmp_path / name, make)
        vision = model.vision_model if name == "clip" else model
        with torch.inference_mode():
            tokens = vision(pixel_values=pixels()).last_hidden_state
        kind = type(model).__name__
        patches = tokens[:, 3 if name == "registers" else 1 :].mean(1)
        assert_gives(tmp_path / name, tokens[:, 0], f"the class token of {kind}", "cls")
        assert_gives(tmp_path / name, patches, f"the mean of the patches of {kind}", "mean")


def test_clip_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Equal to the library's own processor and model; its names, `embedding` among them, do not clash with ours."""
    model = saved(tmp_path / "clip", clip)
    words = ["similarity", "--hf", str(tmp_path / "clip"), "--metric", "cosine", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert capsys.readouterr().out == f"took image_embeds of CLIPModel as the embedding\nwrote {tmp_path / 'out'}\n"
    processor = transformers.CLIPImageProcessorPil.from_pretrained(tmp_path / "clip")
    pictures = [Image.open(path).convert("RGB").resize((70, 50)) for path in sorted(PICTURES.glob("*.png"))]
    with torch.inference_mode():
        batch = processor(images=pictures, return_tensors="pt")["pixel_values"]
        expected = model.get_image_features(pixel_values=batch).pooler_output.numpy()
    got = Explainer(tmp_path / "out").embed(pictures)
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())
    assert load_bundle(tmp_path / "out").manifest.origin == ""


def test_options_change_what_the_processor_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "vit", vit)
    words = ["similarity", "--hf", str(tmp_path / "vit"), "--out", str(tmp_path / "out")]
    assert main([*words, "--interpolation", "lanczos"]) == 0
    preprocessing = load_bundle(tmp_path / "out").manifest.preprocessing
    assert (preprocessing.interpolation, preprocessing.resize, preprocessing.mean) == ("lanczos", (40,), (0.5, 0.4, 0.3))
    (tmp_path / "vit" / "preprocessor_config.json").unlink()
    capsys.readouterr()
    assert exit_status(main, words) == 2
    assert "which has no preprocessor_config.json: give height" in error_line(capsys)
    assert main([*words, "--size", "32"]) == 0


def test_a_processor_that_cannot_be_followed_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "vit", vit, {**PROCESSOR, "do_something_else": True})
    assert exit_status(main, ["similarity", "--hf", str(tmp_path / "vit"), "--out", str(tmp_path / "out")]) == 2
    assert "preprocessor_config.json: do_something_else" in error_line(capsys)


def test_folders_that_hold_no_vision_model(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"has no config\.json: give a folder that save_pretrained wrote"):
        load_hf(str(tmp_path))
    bert = transformers.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    saved(tmp_path / "bert", lambda: transformers.BertModel(bert), None)
    with pytest.raises(ExportError, match="holds a BertModel, which takes input_ids: choose a model of pictures"):
        load_hf(str(tmp_path / "bert"))
    saved(tmp_path / "vit", vit)
    (tmp_path / "vit" / "model.safetensors").unlink()
    with pytest.raises(ExportError, match=r"transformers cannot load .*; save the model there again"):
        load_hf(str(tmp_path / "vit"))
    config = json.loads((tmp_path / "vit" / "config.json").read_text())
    (tmp_path / "vit" / "config.json").write_text(json.dumps({**config, "model_type": "unheard of"}))
    with pytest.raises(ExportError, match="transformers cannot load"):
        load_hf(str(tmp_path / "vit"))


def test_weights_that_are_not_whole_are_named(tmp_path: Path) -> None:
    saved(tmp_path, vit)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(ExportError, match=r"lack .*layer.* and \d+ more: save the whole model again"):
        load_hf(str(tmp_path))


def test_naflex_says_which_models_to_use(tmp_path: Path) -> None:
    config = transformers.Siglip2Config(text_config=TEXT, vision_config={**VIT, "num_patches": 16, "patch_size": 8})
    saved(tmp_path, lambda: transformers.Siglip2Model(config), None)
    with pytest.raises(ExportError, match=r"is a NaFlex model, .*such as google/siglip2-base-patch16-224"):
        load_hf(str(tmp_path))


def test_no_class_token(tmp_path: Path) -> None:
    saved(tmp_path, siglip)
    with pytest.raises(ExportError, match="a SiglipModel has no class token for --pool cls: use --pool mean"):
        load_hf(str(tmp_path), "cls")


def test_a_name_on_the_hub_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files\nCheck your connection")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
    message = "cannot load some/model: OSError: We couldn't connect .* download it elsewhere, and give the folder"
    with pytest.raises(ExportError, match=message) as caught:
        load_hf("some/model")
    assert "\n" not in str(caught.value)


def test_the_revision_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the folder had been fetched from the hub."""
    saved(tmp_path, vit)
    asked = []
    for loader in (transformers.AutoConfig, transformers.AutoModel):
        load = loader.from_pretrained

        def fetched(where: str, *, _load: Any = load, **options: Any) -> Any:
            asked.append((where, options.pop("revision")))
            found = _load(tmp_path, **options)
            (found[0].config if isinstance(found, tuple) else found)._commit_hash = "0123abc"
            return found

        monkeypatch.setattr(loader, "from_pretrained", fetched)
    import huggingface_hub  # noqa: PLC0415

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda where, name, revision: str(tmp_path / name))
    model = hf_model("some/model@v2")
    assert asked == [("some/model", "v2"), ("some/model", "v2")]
    assert model.origin == "some/model@0123abc"
    assert model.note == "took pooler_output of ViTModel as the embedding, from some/model@0123abc"
    assert model.preprocessing is not None
    assert model.preprocessing().resize == (40,)


def test_without_transformers_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(OptionError, match=r"pip install 'sane-engine\[cpu,export,hf\]'"):
        load_hf("some/model")
