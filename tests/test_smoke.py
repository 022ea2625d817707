"""The main path in seconds: if this fails, nothing else is worth reading."""

import numpy as np
from helpers import CAT, NAMES, PICTURES, VENDORS, python

from engine import Explainer, Rise

NOT_IMPORTED = {"torch", "scipy", "sklearn", "skimage", "matplotlib", "onnx", "tqdm"}


def test_the_demo_pair_matches_because_of_the_cats_face() -> None:
    explanation = Explainer().explain(*CAT, Rise(masks=300))
    assert explanation.similarity > 0.9
    assert [a.name for a in explanation.attributes][:4] == ["mostly yellow", "Smileys & Emotion", "yellow above", "face"]
    assert min(a.match for a in explanation.attributes) > 0.3
    row, column = np.unravel_index(explanation.saliency.argmax(), explanation.saliency.shape)
    assert 16 <= row < 56
    assert 8 <= column < 56


def test_every_demo_picture_finds_its_other_drawing() -> None:
    drawn = (Explainer().embed([PICTURES / f"{name}-{vendor}.png" for name in NAMES]) for vendor in VENDORS)
    unit = [e / np.linalg.norm(e, axis=1, keepdims=True) for e in drawn]
    assert (unit[0] @ unit[1].T).argmax(1).tolist() == [0, 1, 2, 3]


def test_importing_the_engine_is_lean() -> None:
    done = python("-c", "import engine, sys; print('\\n'.join(sys.modules))")
    assert done.returncode == 0, done.stderr
    assert not NOT_IMPORTED & {name.split(".")[0] for name in done.stdout.split()}
