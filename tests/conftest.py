"""Golden values, bundles and explainers that several test files share. What is not a fixture is in `helpers.py`."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from helpers import DATA, IMAGENET, copy_bundle, seal
from index_pictures import write_catalogue

from engine import Explainer, Rise
from engine.bundle import ATTRIBUTES, demo_bundle
from engine.bundle.manifest import Conditions, attributes_from_json, attributes_to_json
from engine.index import Index
from export import OnnxSource, export_similarity

# how long an example takes says nothing on a busy machine
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


@pytest.fixture(scope="session", autouse=True)
def calibrations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Batches are measured once per run of the tests, and the user's own cache is left alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("engine.auto.cpu_runtimes", lambda: ["cpu"])  # what is faster today must not decide; see test_auto.py
        yield


@pytest.fixture(scope="session")
def demo_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes copies of the demo bundle with something else in its attribute table."""

    def made(**changes: object) -> Path:
        folder = copy_bundle(demo_bundle(), tmp_path_factory.mktemp("changed") / "bundle")
        table = attributes_from_json((folder / ATTRIBUTES).read_text())
        text = attributes_to_json(dataclasses.replace(table, **changes))  # type: ignore[arg-type]
        (folder / ATTRIBUTES).write_text(text, errors="backslashreplace")  # JSON's escape of half a character
        seal(folder)
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


@pytest.fixture(scope="module")
def explainer(tiny_bundle: Path) -> Explainer:
    """The golden network in fp32."""
    return Explainer(tiny_bundle, precision="fp32")


@pytest.fixture(scope="module")
def demo() -> Explainer:
    """The demo network in fp32."""
    return Explainer(precision="fp32")


@pytest.fixture(scope="module")
def demo_index(demo: Explainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the demo's eight pictures, with thumbnails. Not to be changed."""
    path = tmp_path_factory.mktemp("indexes") / "demo"
    Index.build(path, demo, write_catalogue(tmp_path_factory.mktemp("pictures")), method=Rise(masks=256), thumbnails=True)
    return path
