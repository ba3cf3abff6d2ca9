"""Two ways to find the picture of least loss; both keep its pixels between 0 and 1."""

from collections.abc import Callable

import numpy as np

Evaluate = Callable[[np.ndarray], tuple[float, np.ndarray]]


class LBFGS:
    """scipy's L-BFGS-B; each ``run`` begins anew from the pixels that the last one found."""

    def __init__(self, evaluate: Evaluate, start: np.ndarray) -> None:
        self._evaluate, self.pixels, self.evaluations = evaluate, start, 0

    def run(self, iterations: int) -> float:
        """The loss that was reached."""
        from scipy.optimize import minimize

        found = minimize(
            self._flat,
            self.pixels.astype(np.float64).ravel(),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, 1.0)] * self.pixels.size,
            options={"maxiter": iterations, "maxcor": 10},
        )
        self.pixels = found.x.reshape(self.pixels.shape).astype(np.float32)
        return float(found.fun)

    def _flat(self, pixels: np.ndarray) -> tuple[float, np.ndarray]:
        self.evaluations += 1
        loss, gradient = self._evaluate(pixels.reshape(self.pixels.shape))
        return loss, gradient.astype(np.float64).ravel()


class Adam:
    """With the usual constants and a rate of 0.02 of the range of a pixel."""

    RATE, BETA_1, BETA_2, EPSILON = 0.02, 0.9, 0.999, 1e-8

    def __init__(self, evaluate: Evaluate, start: np.ndarray) -> None:
        self._evaluate, self.pixels, self.evaluations = evaluate, start, 0
        self._first, self._second = np.zeros_like(start), np.zeros_like(start)

    def run(self, iterations: int) -> float:
        loss = 0.0
        for _ in range(iterations):
            loss, gradient = self._evaluate(self.pixels)
            self.evaluations += 1
            self._first = self.BETA_1 * self._first + (1 - self.BETA_1) * gradient
            self._second = self.BETA_2 * self._second + (1 - self.BETA_2) * gradient**2
            first = self._first / (1 - self.BETA_1**self.evaluations)
            second = self._second / (1 - self.BETA_2**self.evaluations)
            moved = self.pixels - self.RATE * first / (np.sqrt(second) + self.EPSILON)
            self.pixels = np.clip(moved, 0, 1).astype(np.float32)
        return loss
