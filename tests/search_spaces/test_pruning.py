"""Data pruning: what an epoch leaves out, and that it changes no expected gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.pruning import InfoBatch


def noted(count: int = 400, share: float = 0.5, seed: int = 0) -> InfoBatch:
    """The first half of the images is easy."""
    pruning = InfoBatch(count, share, seed=seed)
    losses = torch.where(torch.arange(count) < count // 2, 0.1, 2.0)
    pruning.note(torch.arange(count), losses)
    return pruning


def test_easy_images_come_more_rarely_and_count_more() -> None:
    rows, weights = noted().epoch(0.3)
    easy = rows < 200
    assert 70 < int(easy.sum()) < 130 and int((~easy).sum()) == 200
    assert set(weights[easy].tolist()) == {2.0} and set(weights[~easy].tolist()) == {1.0}
    assert len(set(rows.tolist())) == len(rows)
    assert rows.tolist() != sorted(rows.tolist())


@settings(deadline=None, max_examples=20)
@given(share=st.floats(0, 0.9), seed=st.integers(0, 1000))
def test_the_expected_weight_of_every_image_is_one(share: float, seed: int) -> None:
    pruning, total = noted(60, share, seed), torch.zeros(60)
    for _ in range(400):
        rows, weights = pruning.epoch(0.0)
        total[rows] += weights
    spread = (share / (1 - share) / 400) ** 0.5
    assert (total / 400 - 1).abs().max() <= 5 * spread + 1e-6


@pytest.mark.parametrize("progress", [0.9, 1.0, 1.2])
def test_the_last_epochs_see_all_images(progress: float) -> None:
    rows, weights = noted().epoch(progress)
    assert sorted(rows.tolist()) == list(range(400)) and set(weights.tolist()) == {1.0}


def test_images_that_were_never_seen_are_not_left_out() -> None:
    rows, _ = InfoBatch(50).epoch(0.0)
    assert sorted(rows.tolist()) == list(range(50))
    pruning = InfoBatch(50, 0.9)
    pruning.note(torch.arange(10), torch.linspace(0, 1, 10))
    rows, weights = pruning.epoch(0.0)
    assert set(range(10, 50)) <= set(rows.tolist())
    assert set(weights[rows >= 10].tolist()) == {1.0}


def test_how_hard_an_image_is_is_relative_to_its_batch() -> None:
    pruning = InfoBatch(4, 0.9)
    pruning.note(torch.tensor([0, 1]), torch.tensor([5.0, 7.0]))  # of a small subnet
    pruning.note(torch.tensor([2, 3]), torch.tensor([0.1, 0.3]))  # of a large one
    seen = [0] * 4
    for _ in range(100):
        for row in pruning.epoch(0.0)[0].tolist():
            seen[row] += 1
    assert seen[1] == seen[3] == 100 and seen[0] < 40 and seen[2] < 40


@pytest.mark.parametrize("wrong", [{"share": 1.0}, {"share": -0.1}, {"whole": 1.5}])
def test_shares_out_of_range_are_an_error(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        InfoBatch(3, **wrong)
