"""Two optimizers of the pixels, which they keep between 0 and 1.

``memory`` is the state to save with the pixels, so that a resume has the same result.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Evaluate = Callable[[np.ndarray], tuple[float, np.ndarray]]
Stop = Callable[[float], bool]
"""Called with the loss after each iteration; True ends the run."""

# The gradient of a single pixel is soon below scipy's default limit of 1e-5.
LIMITS = {"maxcor": 10, "gtol": 0.0}


def never(_: float) -> bool:
    return False


class LBFGS:
    """scipy's L-BFGS-B; each ``run`` starts from the pixels of the last one, without its memory."""

    def __init__(
        self,
        evaluate: Evaluate,
        start: np.ndarray,
        memory: Mapping[str, np.ndarray] | None = None,  # noqa: ARG002 - as Adam
    ) -> None:
        self._evaluate, self.pixels, self.evaluations = evaluate, start, 0

    @property
    def memory(self) -> dict[str, np.ndarray]:
        """Empty: scipy does not expose its estimate of the curvature."""
        return {}

    def run(self, iterations: int, stop: Stop = never) -> float:
        """Returns the final loss."""
        from scipy.optimize import minimize

        def after(intermediate_result: Any) -> None:
            self._set_pixels(intermediate_result.x)
            if stop(float(intermediate_result.fun)):
                raise StopIteration

        found = minimize(
            self._flat,
            self.pixels.astype(np.float64).ravel(),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, 1.0)] * self.pixels.size,
            callback=after,
            options=LIMITS | {"maxiter": iterations, "maxfun": 21 * iterations},
        )
        self._set_pixels(found.x)
        return float(found.fun)

    def _set_pixels(self, flat: np.ndarray) -> None:
        self.pixels = flat.reshape(self.pixels.shape).astype(np.float32)

    def _flat(self, pixels: np.ndarray) -> tuple[float, np.ndarray]:
        self.evaluations += 1
        loss, gradient = self._evaluate(pixels.reshape(self.pixels.shape))
        return loss, gradient.astype(np.float64).ravel()


class Adam:
    """With the usual constants and a learning rate of 0.02."""

    RATE, BETA_1, BETA_2, EPSILON = 0.02, 0.9, 0.999, 1e-8

    def __init__(
        self,
        evaluate: Evaluate,
        start: np.ndarray,
        memory: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._evaluate, self.pixels, self.evaluations = evaluate, start, 0
        if memory:
            self._first, self._second = memory["first"], memory["second"]
            self._moves = int(memory["moves"])
        else:
            self._first, self._second = np.zeros_like(start), np.zeros_like(start)
            self._moves = 0

    @property
    def memory(self) -> dict[str, np.ndarray]:
        return {"first": self._first, "second": self._second, "moves": np.array(self._moves)}

    def run(self, iterations: int, stop: Stop = never) -> float:
        """Returns the loss before the last step."""
        loss = 0.0
        for _ in range(iterations):
            loss = self._move()
            if stop(loss):
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


OPTIMIZERS: dict[str, type[LBFGS | Adam]] = {"lbfgs": LBFGS, "adam": Adam}
