"""Two ways to find the picture of least loss; both keep its pixels between 0 and 1.

``memory`` is what has to be kept beside the pixels to go on later as if there had been no stop.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Evaluate = Callable[[np.ndarray], tuple[float, np.ndarray]]
After = Callable[[float], bool]

# The gradient of one pixel of so many is soon below scipy's own limit of 1e-5.
LIMITS = {"maxcor": 10, "gtol": 0.0}


def go_on(_: float) -> bool:
    return False


class LBFGS:
    """scipy's L-BFGS-B; each ``run`` begins anew from the pixels that the last one found."""

    def __init__(
        self,
        evaluate: Evaluate,
        start: np.ndarray,
        memory: Mapping[str, np.ndarray] | None = None,  # noqa: ARG002 - as Adam
    ) -> None:
        self._evaluate, self.pixels, self.evaluations = evaluate, start, 0

    @property
    def memory(self) -> dict[str, np.ndarray]:
        """None: scipy does not give away what it has learned of the curvature."""
        return {}

    def run(self, iterations: int, enough: After = go_on) -> float:
        """The loss that was reached; ``enough`` is asked after each iteration."""
        from scipy.optimize import minimize

        def look(intermediate_result: Any) -> None:
            self._take(intermediate_result.x)
            if enough(float(intermediate_result.fun)):
                raise StopIteration

        found = minimize(
            self._flat,
            self.pixels.astype(np.float64).ravel(),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, 1.0)] * self.pixels.size,
            callback=look,
            options=LIMITS | {"maxiter": iterations, "maxfun": 21 * iterations},
        )
        self._take(found.x)
        return float(found.fun)

    def _take(self, flat: np.ndarray) -> None:
        self.pixels = flat.reshape(self.pixels.shape).astype(np.float32)

    def _flat(self, pixels: np.ndarray) -> tuple[float, np.ndarray]:
        self.evaluations += 1
        loss, gradient = self._evaluate(pixels.reshape(self.pixels.shape))
        return loss, gradient.astype(np.float64).ravel()


class Adam:
    """With the usual constants and a rate of 0.02 of the range of a pixel."""

    RATE, BETA_1, BETA_2, EPSILON = 0.02, 0.9, 0.999, 1e-8

    def __init__(
        self,
        evaluate: Evaluate,
        start: np.ndarray,
        memory: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._evaluate, self.pixels, self.evaluations = evaluate, start, 0
        kept = memory or {"first": np.zeros_like(start), "second": np.zeros_like(start), "moves": 0}
        self._first, self._second = kept["first"], kept["second"]
        self._moves = int(kept["moves"])

    @property
    def memory(self) -> dict[str, np.ndarray]:
        return {"first": self._first, "second": self._second, "moves": np.array(self._moves)}

    def run(self, iterations: int, enough: After = go_on) -> float:
        """The loss before the last move; ``enough`` is asked after each iteration."""
        loss = 0.0
        for _ in range(iterations):
            loss = self._move()
            if enough(loss):
                break
        return loss

    def _move(self) -> float:
        loss, gradient = self._evaluate(self.pixels)
        self.evaluations += 1
        self._moves += 1
        self._first = self.BETA_1 * self._first + (1 - self.BETA_1) * gradient
        self._second = self.BETA_2 * self._second + (1 - self.BETA_2) * gradient**2
        first = self._first / (1 - self.BETA_1**self._moves)
        second = self._second / (1 - self.BETA_2**self._moves)
        moved = self.pixels - self.RATE * first / (np.sqrt(second) + self.EPSILON)
        self.pixels = np.clip(moved, 0, 1).astype(np.float32)
        return loss
