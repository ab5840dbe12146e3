"""Images that are learned already, left out of some epochs: training costs less and learns the same on average."""

from __future__ import annotations

import torch
from torch import Tensor


class InfoBatch:
    """Which images an epoch learns from, and how much each counts (Qin et al. 2024, *InfoBatch*, section 3).

    An image that is easier than the mean is left out of an epoch with a probability and counts for the ones left out
    otherwise, so that the expected gradient is that of all images. The last epochs see all of them. How hard an image is,
    is compared with the others of its batch, as small subnets find all of them hard.

    Args:
        count: images.
        share: probability with which an easy image is left out, 0 to below 1; 0 leaves out none.
        whole: share of the training, at its end, that sees all images.
        seed: of what is left out, and of the order.
        device: where the rows are wanted.

    Raises:
        ValueError: a share is out of range.
    """

    def __init__(
        self,
        count: int,
        share: float = 0.5,
        *,
        whole: float = 0.125,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if not (0 <= share < 1 and 0 <= whole <= 1):
            raise ValueError(f"shares of {share} and {whole}: they lie between 0 and 1")
        self._share, self._whole = share, whole
        self._generator = torch.Generator().manual_seed(seed)
        self._hard = torch.full((count,), torch.inf, device=device)

    def epoch(self, progress: float) -> tuple[Tensor, Tensor]:
        """Draw an epoch.

        Args:
            progress: share of the training that is done.

        Returns:
            rows in random order, int64 ``[n]``, and what each counts, float ``[n]``.
        """
        count, device = len(self._hard), self._hard.device
        order = torch.randperm(count, generator=self._generator).to(device)
        weights = torch.ones(count, device=device)
        known = self._hard.isfinite()
        if not self._share or progress >= 1 - self._whole or not known.any():
            return order, weights
        easy = self._hard < self._hard[known].mean()
        left_out = easy & (torch.rand(count, generator=self._generator).to(device) < self._share)
        weights[easy] = 1 / (1 - self._share)
        order = order[~left_out[order]]
        return order, weights[order]

    def note(self, rows: Tensor, losses: Tensor) -> None:
        """Take in how wrong a batch was: rows and their losses, both ``[n]``."""
        self._hard[rows] = (losses - losses.mean()).to(self._hard.dtype)
