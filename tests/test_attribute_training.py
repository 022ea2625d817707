"""Attribute networks learn, resume exactly, and take saliency maps that the engine made."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine import Explainer, Rise
from engine.attributes.ranking import area_means
from engine.bundle.manifest import Conditions
from engine.errors import OptionError
from engine.pictures.preprocessing import Preprocessing
from engine.pictures.reading import AS_USUAL
from export import TorchSource, export_similarity
from export.architectures import AttributeNet, PublishedAttributeNet, SimilarityNet
from training import attributes, loop
from training.attributes import Teacher, map_size, start_published, started_from, table_of, train_attributes
from training.augment import normalise
from training.datasets.protocol import Pairs
from training.loop import PublishedSchedule, Randomness, Schedule
from training.losses import HEATMAP_WEIGHT
from training.saliency import Maps, saliency_maps
from training.similarity import trained_similarity

WIDTH, SIZE = 8, 32
STRAIGHT = Schedule(4, 3e-3)


class Squares:
    """Twelve pictures of one red or blue square on grey: two of each colour and place match. No augmentation."""

    attributes = ("red", "blue", "left")
    conditions: tuple[str, ...] = ()
    size = SIZE
    reading = AS_USUAL

    def __init__(self) -> None:
        self.drawn = np.full((12, SIZE, SIZE, 3), 128, np.uint8)
        self.truth = np.zeros((12, 3), bool)
        for i in range(12):
            red, left, twin = i % 2 == 0, i % 4 < 2, i >= 6
            x = (2 if left else 18) + twin
            self.drawn[i, 8 + i % 3 : 20 + i % 3, x : x + 12] = (220, 30, 30) if red else (30, 30, 220)
            self.truth[i] = red, not red, left

    def split(self, name: str) -> np.ndarray:
        return np.array({"train": [0, 1, 2, 3, 6, 7, 8, 9], "valid": [4, 10], "test": [5, 11]}[name])

    def pairs(self, name: str) -> Pairs:
        left = np.array([i for i in self.split(name) if i < 6 and i != 3])  # picture 3 matches nothing
        return Pairs(left, left + 6, left, np.zeros(len(left), np.int64))

    def picture(self, index: int) -> np.ndarray:
        return self.drawn[index]

    def plain(self, indices: np.ndarray) -> Tensor:
        return normalise(torch.from_numpy(self.drawn[indices]).permute(0, 3, 1, 2).float() / 255)

    def augmented(self, indices: np.ndarray, randomness: Randomness) -> Tensor:
        return self.plain(indices) + 0.05 * torch.randn(1, generator=randomness.torch)

    def views(self, pairs: Pairs, randomness: Randomness) -> Tensor:
        return self.augmented(np.concatenate([pairs.left, pairs.right]), randomness)


@pytest.fixture(scope="module")
def data() -> Squares:
    return Squares()


@pytest.fixture(scope="module")
def bundle(data: Squares, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = SimilarityNet(WIDTH, 16).eval()
    return export_similarity(TorchSource(network), Preprocessing(SIZE, SIZE), tmp_path_factory.mktemp("squares") / "bundle")


@pytest.fixture(scope="module")
def maps(data: Squares, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Maps:
    return saliency_maps(data, bundle, tmp_path_factory.mktemp("maps") / "maps.npy", masks=32, threads=1)


def fresh(data: Squares) -> AttributeNet:
    torch.manual_seed(1)
    return AttributeNet(len(data.attributes), WIDTH)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("loss", ["cross-entropy", "sane"])
def test_loss_falls_and_the_heatmap_loss_counts(loss: str, data: Squares, maps: Maps, tmp_path: Path) -> None:
    schedule = Schedule(8, 3e-3)
    train_attributes(fresh(data), data, 0, tmp_path / "with", schedule, loss, Teacher(maps, 1.0), batch=4)
    train_attributes(fresh(data), data, 0, tmp_path / "without", schedule, loss, batch=4)
    both, alone = losses(tmp_path / "with"), losses(tmp_path / "without")
    assert both[-1] < both[0] and alone[-1] < alone[0]
    assert both[0] > alone[0] + 0.1


def test_two_epochs_resumed_equal_two_straight(data: Squares, maps: Maps, tmp_path: Path) -> None:
    straight, resumed = fresh(data), fresh(data)
    train_attributes(straight, data, 0, tmp_path / "straight", Schedule(2, 1e-3), teacher=Teacher(maps, 1.0), batch=4)
    stopped = fresh(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attributes, "train", lambda *given: loop.train(*given, until=1))
        train_attributes(stopped, data, 0, tmp_path / "resumed", Schedule(2, 1e-3), teacher=Teacher(maps, 1.0), batch=4)
    train_attributes(resumed, data, 0, tmp_path / "resumed", Schedule(2, 1e-3), teacher=Teacher(maps, 1.0), batch=4)
    assert len(losses(tmp_path / "resumed")) == 2
    for a, b in zip(straight.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_run_of_another_loss_or_other_maps_is_not_continued(data: Squares, maps: Maps, tmp_path: Path) -> None:
    once = Schedule(1, 1e-3)
    train_attributes(fresh(data), data, 0, tmp_path, once, teacher=Teacher(maps, 1.0), batch=4)
    for changed, told in (
        ({"loss": "sane", "teacher": Teacher(maps, 1.0)}, "loss was cross-entropy, is sane"),
        ({"teacher": Teacher(maps, 2.0)}, "heatmap_weight was 1.0, is 2.0"),
        ({"teacher": Teacher(maps.shuffled(0), 1.0)}, r"maps was \w+, is \w+"),
        ({}, "heatmap_weight was 1.0, is 0.0"),
    ):
        with pytest.raises(OptionError, match=told):
            train_attributes(fresh(data), data, 0, tmp_path, once, batch=4, **changed)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="start"):
        train_attributes(AttributeNet(3, 4), data, 0, tmp_path, once, teacher=Teacher(maps, 1.0), batch=4)


def test_stored_maps_are_the_engines_at_the_scale_of_2000_masks(data: Squares, bundle: Path, maps: Maps) -> None:
    explainer = Explainer(bundle, threads=1)
    told = explainer.explain(data.picture(1), explainer.embed([data.picture(7)])[0], Rise(masks=32, seed=0))
    row = maps.pictures.tolist().index(1)
    np.testing.assert_allclose(maps.stored[row, 0], 2000 * area_means(told.saliency[None], 28, 28)[0], rtol=1e-4, atol=1e-3)
    saliency, valid = maps.resized(data.split("train"), (2, 2))
    assert saliency.shape == (8, 1, 4)
    assert valid[:, 0].tolist() == [1, 1, 1, 0, 1, 1, 1, 0]  # picture 3 and its twin 9 match nothing
    corners = maps.stored[row, 0][[0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_allclose(saliency[1, 0], corners, rtol=1e-6)  # corners aligned


def test_maps_go_on_where_they_were_stopped(data: Squares, bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "maps.npy"
    whole = np.array(saliency_maps(data, bundle, path, masks=32, threads=1).stored)
    stored = np.lib.format.open_memmap(path, mode="r+")
    stored[0] += 1  # done: must not be made again
    stored[4:] = np.nan
    stored.flush()
    again = saliency_maps(data, bundle, path, masks=32, threads=1).stored
    np.testing.assert_array_equal(again[1:], whole[1:])
    np.testing.assert_array_equal(again[0], whole[0] + 1)
    with pytest.raises(OptionError, match="other settings"):
        saliency_maps(data, bundle, path, masks=64, threads=1)


def test_nearest_references_come_beside_the_labelled_ones(data: Squares, bundle: Path, tmp_path: Path) -> None:
    maps = saliency_maps(data, bundle, tmp_path / "maps.npy", masks=32, nearest=2, threads=1)
    counts = (~np.isnan(maps.stored[:, :, 0, 0])).sum(1)
    assert counts.tolist() == [3, 3, 3, 2, 3, 3, 3, 2]


def test_shuffled_maps_are_the_same_maps_elsewhere(maps: Maps) -> None:
    mixed = maps.shuffled(0)
    assert sorted(map(bytes, mixed.stored)) == sorted(map(bytes, np.asarray(maps.stored)))
    assert not np.array_equal(mixed.stored, maps.stored, equal_nan=True)


def test_pictures_without_maps_and_too_many_masks_are_refused(
    data: Squares, bundle: Path, maps: Maps, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="another split"):
        maps.resized(np.array([4]), (2, 2))
    with pytest.raises(OptionError, match="32 to 512"):
        saliency_maps(data, bundle, tmp_path / "maps.npy", masks=2000)


def test_maps_of_typed_pairs_are_under_their_condition(tmp_path: Path) -> None:
    class Typed(Squares):
        conditions = ("a,b", "c,d")

        def pairs(self, name: str) -> Pairs:
            plain = super().pairs(name)
            return Pairs(plain.left, plain.right, plain.groups, np.ones(len(plain), np.int64))

    torch.manual_seed(0)
    weights = np.zeros((2, 16), np.float32)
    weights[0, :8] = weights[1, 8:] = 1
    conditions = Conditions(Typed.conditions, weights)
    network = TorchSource(SimilarityNet(WIDTH, 16).eval())
    bundle = export_similarity(network, Preprocessing(SIZE, SIZE), tmp_path / "bundle", conditions=conditions)
    data, explainer = Typed(), Explainer(bundle, threads=1)
    maps = saliency_maps(data, bundle, tmp_path / "maps.npy", masks=32, threads=1)
    told = explainer.explain(data.picture(0), data.picture(6), Rise(masks=32), condition="c,d")
    expected = 2000 * area_means(told.saliency[None], 28, 28)[0]
    np.testing.assert_allclose(maps.stored[0, 0], expected, rtol=1e-4, atol=1e-2)


def test_other_references_or_a_damaged_record_mean_other_maps(data: Squares, bundle: Path, tmp_path: Path) -> None:
    class Others(Squares):
        def pairs(self, name: str) -> Pairs:
            return super().pairs(name)[np.array([0, 1])]

    path = tmp_path / "maps.npy"
    saliency_maps(data, bundle, path, masks=32, threads=1)
    with pytest.raises(OptionError, match="other settings"):
        saliency_maps(Others(), bundle, path, masks=32, threads=1)
    path.with_suffix(".json").write_text("")
    with pytest.raises(OptionError, match="other settings"):
        saliency_maps(data, bundle, path, masks=32, threads=1)


def test_without_pairs_there_is_nothing_to_learn(bundle: Path, tmp_path: Path) -> None:
    class Alone(Squares):
        def pairs(self, name: str) -> Pairs:
            return super().pairs(name)[np.array([], int)]

    with pytest.raises(OptionError, match="nothing to learn from"):
        trained_similarity(Alone(), 0, tmp_path, WIDTH, Schedule(1, 1e-2))
    with pytest.raises(OptionError, match="nothing to explain"):
        saliency_maps(Alone(), bundle, tmp_path / "maps.npy", masks=32, threads=1)


def test_an_attribute_of_every_picture_keeps_a_finite_weight(data: Squares) -> None:
    class Common(Squares):
        def __init__(self) -> None:
            super().__init__()
            self.truth[:, 2] = True

    assert np.isfinite(table_of(Common()).bias).all()


def test_the_trunk_starts_as_the_similarity_networks(data: Squares) -> None:
    similarity = SimilarityNet(WIDTH, 16)
    network = started_from(similarity, 3, WIDTH, 0)
    assert torch.equal(network.layer3[1].conv2.weight, similarity.layer3[1].conv2.weight)
    assert map_size(network, SIZE) == (2, 2)


def test_the_published_network_takes_resnet50s_weights(tmp_path: Path) -> None:
    network = PublishedAttributeNet(5)
    assert map_size(network, 112) == (4, 4)
    assert sum(p.numel() for p in network.parameters()) == 23_508_032 + 2048 * 9 * 5  # torchvision's ResNet-50 without fc
    state = {k: v + 1 if v.is_floating_point() else v for k, v in network.state_dict().items() if k != "head.weight"}
    torch.save({**state, "fc.weight": torch.zeros(3), "fc.bias": torch.zeros(3)}, tmp_path / "resnet50.pt")
    start_published(network, tmp_path / "resnet50.pt")
    assert torch.equal(network.layer4[2].conv3.weight, state["layer4.2.conv3.weight"])
    part = {k: v for k, v in state.items() if not k.startswith("layer4")}
    for wrong in (part, {**state, "conv1.weight": torch.zeros(64, 3, 3, 3)}):
        torch.save(wrong, tmp_path / "wrong.pt")
        with pytest.raises(OptionError, match="ResNet-50"):
            start_published(network, tmp_path / "wrong.pt")


def test_the_published_network_trains_as_published(data: Squares, maps: Maps, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, schedule = PublishedAttributeNet(3), PublishedSchedule(epochs=2)
    before = network.head.weight.detach().clone()
    train_attributes(network, data, 0, tmp_path, schedule, "sane", Teacher(maps, HEATMAP_WEIGHT), batch=4)
    rates = [json.loads(line)["rate"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rates == [pytest.approx(5e-4 * 0.985), pytest.approx(5e-4 * 0.985**2)]
    assert np.isfinite(losses(tmp_path)).all() and not torch.equal(network.head.weight, before)


def test_types_of_pairs_get_weights_of_their_own(data: Squares, tmp_path: Path) -> None:
    class Typed(Squares):
        conditions = ("a,b", "c,d")

        def pairs(self, name: str) -> Pairs:
            plain = super().pairs(name)
            return Pairs(plain.left, plain.right, plain.groups, np.arange(len(plain)) % 2)

    _, conditions = trained_similarity(Typed(), 0, tmp_path, WIDTH, Schedule(2, 1e-2))
    assert conditions is not None and conditions.names == ("a,b", "c,d") and conditions.weights.shape == (2, 64)
    assert np.abs(conditions.weights - 1).max() > 0.1 or np.ptp(conditions.weights[0] - conditions.weights[1]) > 0
    assert trained_similarity(data, 0, tmp_path / "plain", WIDTH, Schedule(1, 1e-2))[1] is None


def test_the_table_takes_back_the_weight_of_positives(data: Squares) -> None:
    table = table_of(data)
    share = data.truth[data.split("train")].mean(0)
    np.testing.assert_allclose(table.bias, -np.log(np.minimum((1 - share) / share, 20)), rtol=1e-6)
    assert table.confidence == "sigmoid" and table_of(data, "sane").confidence == "softmax"
