"""The training loop resumes exactly, and the losses are what they say."""

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.errors import OptionError, OutputError
from training import attributes, similarity
from training.emoji_report import retrieval
from training.loop import PublishedSchedule, Randomness, Schedule, train
from training.losses import attribute_loss, contrastive_loss, heatmap_loss


def small_run(epochs: int, total: int, run: Path) -> nn.Module:
    """Fit a line, stopping after `epochs` of a schedule of `total`."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))

    def batches(randomness: Randomness) -> Iterable[Callable[[], Tensor]]:
        for _ in range(3):
            yield lambda: network(torch.randn(8, 3, generator=randomness.torch) + randomness.numpy.random()).square().mean()

    train(network, batches, Schedule(total, 1e-2), 7, run, until=epochs)
    return network


def test_two_epochs_resumed_equal_two_straight(tmp_path: Path) -> None:
    straight = small_run(2, 2, tmp_path / "straight")
    small_run(1, 2, tmp_path / "resumed")
    resumed = small_run(2, 2, tmp_path / "resumed")
    for a, b in zip(straight.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert len((tmp_path / "resumed" / "log.jsonl").read_text().splitlines()) == 2


def test_a_run_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    small_run(1, 2, tmp_path)
    with pytest.raises(OptionError, match="epochs was 2, is 3"):
        small_run(2, 3, tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"?")
    with pytest.raises(OptionError, match="not a checkpoint"):
        small_run(2, 2, tmp_path)


def test_retrieval_counts_better_matches_but_not_twins() -> None:
    """Three emoji held out of four: one found, one beaten by another, one beaten only by its twin."""
    data = SimpleNamespace(
        bases=lambda name: np.array({"valid": [0], "test": [1, 2]}[name]),
        pair=SimpleNamespace(same=np.array([0, 1, 2, 2]), base=np.arange(4)),
        truth=np.array([[False], [False], [True], [True]] * 2),
        attributes=("Flags",),
    )
    noto = np.array([[1.0, 0], [0, 1], [1, 1], [1, 1]])
    twemoji = np.array([[1.0, 0.1], [1, 0.2], [1, 0.9], [1, 1]])
    found = retrieval(data, noto, twemoji)  # type: ignore[arg-type]
    assert found["recall_at_1_all"] == pytest.approx(2 / 3)
    assert found["recall_at_1_without_flags"] == pytest.approx(1 / 2)
    assert found["recall_at_5_all"] == 1


def test_contrastive_loss_equals_the_sum_written_out() -> None:
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    groups = torch.tensor([0, 1, 0])  # the first and the third share a drawing
    u = (z / z.norm(dim=1, keepdim=True)).numpy()
    losses = []
    for i in range(6):
        positive = (i + 3) % 6
        others = [j for j in range(6) if j == positive or groups[j % 3] != groups[i % 3]]
        terms = {j: np.exp(u[i] @ u[j] / 0.1) for j in others}
        losses.append(-np.log(terms[positive] / sum(terms.values())))
    assert np.isclose(contrastive_loss(z, groups, torch.arange(6)).item(), np.mean(losses), rtol=1e-5)


def test_a_pair_is_compared_under_its_own_condition() -> None:
    z, weights = (
        torch.randn(6, 4, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[1.0, 2, 0, 1], [0, 1, 1, 0.5], [1, 1, 1, 1]]),
    )
    losses = []
    for i in range(6):
        u = F.normalize(z * weights[i % 3]).numpy()
        terms = [np.exp(u[i] @ u[j] / 0.1) for j in range(6) if j != i]
        losses.append(-np.log(np.exp(u[i] @ u[(i + 3) % 6] / 0.1) / sum(terms)))
    assert np.isclose(contrastive_loss(z, torch.arange(3), torch.arange(6), weights).item(), np.mean(losses), rtol=1e-5)


def test_a_picture_in_two_pairs_is_not_its_own_negative() -> None:
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    z[1] = z[0]  # one picture, in the first pair and in the second
    u = F.normalize(z).numpy()
    losses = []
    for i in range(6):
        terms = {j: np.exp(u[i] @ u[j] / 0.1) for j in range(6) if j != i and {i, j} != {0, 1}}
        losses.append(-np.log(terms[(i + 3) % 6] / sum(terms.values())))
    found = contrastive_loss(z, torch.arange(3), torch.tensor([0, 0, 2, 3, 4, 5]))
    assert np.isclose(found.item(), np.mean(losses), rtol=1e-5)


def test_a_loss_that_is_not_a_number_ends_the_run(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    with pytest.raises(OptionError, match="loss is nan in epoch 1"):
        train(network, lambda _: [lambda: network(torch.full((1, 1), torch.nan)).sum()], Schedule(1, 1e-2), 0, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        train(network, lambda _: [], Schedule(1, 1e-2), 0, tmp_path / "file")


def test_a_run_from_other_weights_is_not_continued(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = nn.Linear(1, 1)
    steps = lambda _: [lambda: network(torch.ones(1, 1)).square().sum()]  # noqa: E731
    train(network, steps, Schedule(1, 1e-2), 0, tmp_path)
    with pytest.raises(OptionError, match=r"start was \w+, is \w+"):
        train(network, steps, Schedule(1, 1e-2), 0, tmp_path)  # it is trained by now


@pytest.mark.parametrize("wrong", [["--threads", "0"], ["--seed", "-1"], ["--epochs", "0"], ["--seed", str(2**64)]])
@pytest.mark.parametrize("command", [similarity.main, attributes.main])
def test_numbers_that_cannot_be_used_are_one_line(
    wrong: list[str], command: Callable[[list[str]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["--data", "awa2", "--root", str(tmp_path), "--out", str(tmp_path / "run"), *wrong]) == 2
    assert wrong[0].removeprefix("--") in (told := capsys.readouterr().err) and told.count("\n") == 1


def test_attribute_losses_equal_the_published_ones(golden: dict[str, np.ndarray]) -> None:
    g = {k: torch.from_numpy(v).double() for k, v in golden.items() if k.startswith("loss_")}
    truth = g["loss_labels"] > 0
    assert attribute_loss(g["loss_scores"], truth).item() == pytest.approx(float(golden["loss_attribute"]), abs=1e-6)
    found = heatmap_loss(g["loss_activations"], truth, g["loss_saliency"], g["loss_saliency_valid"])
    assert found.item() == pytest.approx(float(golden["loss_heatmap"]), abs=1e-6)


def test_the_heatmap_loss_takes_the_nearest_true_attribute() -> None:
    """Attribute 0 looks where the saliency is, attribute 1 elsewhere; gradients are finite where the two are equal."""
    saliency, activations = torch.zeros(1, 1, 4), torch.zeros(1, 2, 2, 2)
    saliency[0, 0, 0] = activations[0, 0, 0, 0] = activations[0, 1, 1, 1] = 50.0
    activations.requires_grad_()
    near = heatmap_loss(activations, torch.tensor([[True, True]]), saliency, torch.ones(1, 1))
    assert near.item() == pytest.approx(0, abs=1e-6)
    near.backward()
    assert activations.grad is not None and activations.grad.isfinite().all()
    assert heatmap_loss(activations, torch.tensor([[False, True]]), saliency, torch.ones(1, 1)).item() == 1  # at most
    assert heatmap_loss(activations, torch.tensor([[True, True]]), saliency, torch.zeros(1, 1)).item() == 0


def test_the_published_schedule_decays_from_the_first_epoch() -> None:
    schedule = PublishedSchedule()
    assert [schedule.rate_at(e, 0.5) for e in (0, 1)] == [pytest.approx(5e-4 * 0.985), pytest.approx(5e-4 * 0.985**2)]
    optimiser = schedule.optimiser(nn.Linear(2, 2))
    assert type(optimiser) is torch.optim.Adam and optimiser.defaults["weight_decay"] == 0
