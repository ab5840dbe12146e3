"""A Gaussian process whose function is a sum over products of a few features."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

#: Products of up to so many features.
ORDER = 4
#: Rows from which the kernel's parameters are found, and steps of L-BFGS that this takes at most.
_ROWS, _STEPS = 400, 40
#: Least variance of the noise, in units of the target's variance.
_LEAST_NOISE = 1e-6
#: Entries of the kernel that are computed at a time.
_ENTRIES = 2_000_000


class Interactions:
    """Gaussian process with the additive kernel of Duvenaud et al. 2011 (*Additive Gaussian Processes*, section 3).

    The kernel is Σ_q s_q e_q(z_1, …, z_d), where z_j is the kernel of feature j (squared exponential of a number,
    equality of a category) times its weight, and e_q the elementary symmetric polynomial: the sum over all products of
    q features. What features add by themselves, in pairs and in threes is so learned from few rows. The parameters
    maximise the marginal likelihood with a prior on their logarithms.

    Args:
        order: most features in a product.
    """

    def __init__(self, order: int = ORDER) -> None:
        self.order = order

    def fit(
        self,
        rows: np.ndarray,
        is_code: np.ndarray,
        target: np.ndarray,
        seed: int,
        parameters: Sequence[float] | None = None,
    ) -> Interactions:
        """Learn.

        Args:
            rows: features, numbers within 0 and 1 and codes of categories, float [n, d].
            is_code: which features are codes, bool [d].
            target: float [n].
            seed: of the rows from which the parameters are found.
            parameters: that an earlier one found for these rows, :attr:`parameters`; None to find them.

        Raises:
            ValueError: the given parameters are not those of so many features, or are no numbers.
            torch.linalg.LinAlgError: with them the kernel has no inverse.
        """
        self._mean, self._deviation = float(target.mean()), float(target.std()) or 1.0
        x = torch.as_tensor(rows, dtype=torch.float64)
        y = torch.as_tensor((target - self._mean) / self._deviation, dtype=torch.float64)
        self._is_code = torch.as_tensor(is_code)
        few = np.sort(np.random.default_rng(seed).permutation(len(rows))[:_ROWS])
        self._parameters = self._learned(x[few], y[few]) if parameters is None else self._given(parameters)
        self._seen = x
        with torch.no_grad():
            factor = self._cholesky(x, self._parameters)
            self._weights = torch.cholesky_solve(y[:, None], factor)[:, 0]
        return self

    @property
    def parameters(self) -> list[float]:
        """Of the kernel, for a later fit of the same rows."""
        found: list[float] = self._parameters.tolist()
        return found

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return float [m]."""
        x = torch.as_tensor(rows, dtype=torch.float64)
        step = max(1, _ENTRIES // len(self._seen))
        with torch.no_grad():
            parts = [
                self._kernel(x[at : at + step], self._seen, self._parameters) @ self._weights
                for at in range(0, len(x), step)
            ]
        return torch.cat([*parts, torch.zeros(0, dtype=torch.float64)]).numpy() * self._deviation + self._mean

    def _given(self, parameters: Sequence[float]) -> Tensor:
        given = torch.as_tensor(parameters, dtype=torch.float64)
        expected = 2 * len(self._is_code) + self.order + 1
        if given.shape != (expected,) or not bool(given.isfinite().all()):
            raise ValueError(f"the parameters are not {expected} numbers")
        return given

    def _learned(self, x: Tensor, y: Tensor) -> Tensor:
        """The parameters: logarithms of [d] widths, [d] weights, [order] variances, and of the noise's variance."""
        features = x.shape[1]
        start = torch.zeros(2 * features + self.order + 1, dtype=torch.float64)
        start[features : 2 * features] = -math.log(features)
        start[-1] = -6.0
        parameters = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([parameters], max_iter=_STEPS, line_search_fn="strong_wolfe")
        best = (math.inf, start)

        def closure() -> Tensor:
            nonlocal best
            optimizer.zero_grad()
            factor = self._cholesky(x, parameters)
            solved = torch.cholesky_solve(y[:, None], factor)[:, 0]
            likelihood = 0.5 * y @ solved + factor.diagonal().log().sum()
            loss: Tensor = likelihood + 0.25 * ((parameters - start) ** 2)[:-1].sum()
            loss.backward()
            found = float(loss.detach())
            if found < best[0]:
                best = (found, parameters.detach().clone())
            return loss

        # A step may leave the kernel without an inverse: then it is the best before it.
        with contextlib.suppress(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            optimizer.step(closure)
        return best[1]

    def _cholesky(self, x: Tensor, parameters: Tensor) -> Tensor:
        noise = parameters[-1].exp() + _LEAST_NOISE
        kernel = self._kernel(x, x, parameters) + noise * torch.eye(len(x), dtype=torch.float64)
        factor: Tensor = torch.linalg.cholesky(kernel)
        return factor

    def _kernel(self, left: Tensor, right: Tensor, parameters: Tensor) -> Tensor:
        """Return [n, m]; the sums over products by the recursion over features."""
        features = left.shape[1]
        widths = parameters[:features].exp()
        weights = parameters[features : 2 * features].exp()
        variances = parameters[2 * features : 2 * features + self.order].exp()
        sums: list[Tensor | None] = [None] * self.order
        for at in range(features):
            gap = left[:, at, None] - right[None, :, at]
            if self._is_code[at]:
                one = torch.where(gap == 0, 1.0, torch.exp(-0.5 / widths[at] ** 2))
            else:
                one = torch.exp(-0.5 * (gap / widths[at]) ** 2)
            one = weights[at] * one
            for q in range(min(self.order, at + 1) - 1, -1, -1):
                lower = sums[q - 1] if q else None
                product = one if q == 0 else one * lower if lower is not None else None
                old = sums[q]
                if product is not None:
                    sums[q] = product if old is None else old + product
        total = torch.ones(len(left), len(right), dtype=torch.float64)
        for variance, found in zip(variances, sums, strict=True):
            if found is not None:
                total = total + variance * found
        return total
