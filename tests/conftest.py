"""Golden values, pictures and bundles that several tests share."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.bundle import ATTRIBUTES, SUMS, checksums, demo_bundle
from engine.bundle.manifest import Conditions, attributes_from_json, attributes_to_json
from engine.pictures.preprocessing import Preprocessing
from export import OnnxSource, export_similarity

DATA = Path(__file__).parent / "data"
IMAGENET = Preprocessing(112, 112, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.fixture(scope="session", autouse=True)
def calibrations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Batches are measured once per run of the tests, and the user's own cache is left alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def demo_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes copies of the demo bundle with something else in its attribute table."""

    def made(**changes: object) -> Path:
        folder = tmp_path_factory.mktemp("changed") / "bundle"
        shutil.copytree(demo_bundle(), folder)
        table = attributes_from_json((folder / ATTRIBUTES).read_text())
        (folder / ATTRIBUTES).write_text(attributes_to_json(dataclasses.replace(table, **changes)))  # type: ignore[arg-type]
        (folder / SUMS).write_text(checksums(folder))
        return folder

    return made


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """What the published procedures gave on a tiny network and two pictures."""
    with np.load(DATA / "sane_reference.npz") as data:
        return {name: data[name] for name in data}


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, golden: dict[str, np.ndarray]) -> Path:
    """The golden network as a bundle, with its three conditions; 112 x 112, 16-d, cosine. Not to be changed."""
    conditions = Conditions(("top", "shoe", "bag"), golden["condition_weights"])
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    return export_similarity(OnnxSource(DATA / "tiny_general.onnx"), IMAGENET, out, conditions=conditions)
