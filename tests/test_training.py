"""The training loop resumes exactly, and the losses are what they say."""

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.emoji import contrastive_loss
from training.emoji_report import calibration_error, mean_average_precision, retrieval
from training.loop import Randomness, Schedule, train


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
    with pytest.raises(ValueError, match="choose another folder"):
        small_run(2, 3, tmp_path)


def test_retrieval_counts_better_matches_but_not_twins() -> None:
    """Three emoji held out of four: one found, one beaten by another, one beaten only by its twin."""
    data = SimpleNamespace(
        held_out=np.array([0, 1, 2]),
        same=np.array([0, 1, 2, 2]),
        truth=np.array([[False], [False], [True], [True]]),
        attributes=["Flags"],
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
    assert np.isclose(contrastive_loss(z, groups).item(), np.mean(losses), rtol=1e-5)


def test_metrics_on_cases_worked_by_hand() -> None:
    truth = np.array([[True, False], [False, False], [True, False]])
    assert mean_average_precision(truth, np.array([[0.9, 0], [0.8, 0], [0.7, 0]])) == (1 + 2 / 3) / 2
    confidences = np.array([[0.95, 0.05], [0.95, 0.05], [0.95, 0.05]])
    assert np.isclose(calibration_error(truth, confidences), 0.5 * abs(2 / 3 - 0.95) + 0.5 * 0.05)
