"""The main path in seconds: if this fails, nothing else is worth reading."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from engine import Explainer, Rise

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "engine" / "data" / "pictures"
NOT_IMPORTED = {"torch", "scipy", "sklearn", "skimage", "matplotlib", "onnx", "tqdm"}


def test_the_demo_pair_matches_because_of_the_cats_face() -> None:
    explanation = Explainer().explain(PICTURES / "cat-noto.png", PICTURES / "cat-twemoji.png", Rise(masks=300))
    assert explanation.similarity > 0.9
    assert [a.name for a in explanation.attributes][:4] == ["mostly yellow", "Smileys & Emotion", "face", "yellow above"]
    assert min(a.match for a in explanation.attributes) > 0.3
    row, column = np.unravel_index(explanation.saliency.argmax(), explanation.saliency.shape)
    assert 16 <= row < 56
    assert 8 <= column < 56


def test_every_demo_picture_finds_its_other_drawing() -> None:
    names = ["bandage", "cat", "couple", "gesture"]
    noto, twemoji = (Explainer().embed([PICTURES / f"{n}-{v}.png" for n in names]) for v in ("noto", "twemoji"))
    unit = [e / np.linalg.norm(e, axis=1, keepdims=True) for e in (noto, twemoji)]
    assert (unit[0] @ unit[1].T).argmax(1).tolist() == [0, 1, 2, 3]


def test_importing_the_engine_is_lean() -> None:
    code = "import engine, sys; print('\\n'.join(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert not NOT_IMPORTED & {name.split(".")[0] for name in modules.stdout.split()}
