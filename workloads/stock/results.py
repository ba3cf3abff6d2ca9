"""stock's results.json and its charts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.results import sample, write_results
from stock.charts import line_chart
from stock.options import NAME

POINTS = 400

Curve = list[list[float]]


@dataclass(frozen=True)
class Results:
    """``curve`` has step, train and test MSE; ``real`` and ``predicted`` are the test set's index,
    whose last ``last_day`` minutes are the last day.
    """

    origin: str
    scores: dict[str, float]
    curve: Curve
    real: np.ndarray
    predicted: np.ndarray
    last_day: int

    def write(self, out: Path) -> None:
        """results.json and samples/."""
        (out / "samples").mkdir(exist_ok=True)
        minutes = np.linspace(0, len(self.real) - 1, min(POINTS, len(self.real))).astype(int)
        day = np.arange(len(self.real))[-self.last_day :]
        self._draw_error(out / "samples" / "error.png")
        self._draw(out / "samples" / "prediction.png", minutes, "The index over the test set")
        self._draw(
            out / "samples" / "last_day.png",
            day,
            f"The index on the last day ({self._last_text()})",
        )
        write_results(
            out,
            NAME,
            self.scores,
            self._samples(),
            self._notes(day),
            curve=[{"step": s, "mse_train": a, "mse_test": b} for s, a, b in self.curve],
            prediction={"minute": minutes.tolist(), **self._both(minutes)},
            last_day={"minutes": len(day), **self._both(day), "last": self._last()},
        )

    def _draw_error(self, file: Path) -> None:
        steps = [point[0] for point in self.curve]
        line_chart(
            file,
            {
                "training set": (steps, [point[1] for point in self.curve]),
                "test set": (steps, [point[2] for point in self.curve]),
            },
            "Mean squared error of the whole sets by step (scaled prices)",
            log=True,
        )

    def _draw(self, file: Path, minutes: np.ndarray, title: str) -> None:
        shown = {name: (minutes.tolist(), values) for name, values in self._both(minutes).items()}
        line_chart(file, shown, f"{title}, by minute of the test set")

    def _both(self, minutes: np.ndarray) -> dict[str, list[float]]:
        return {"real": self.real[minutes].tolist(), "predicted": self.predicted[minutes].tolist()}

    def _last(self) -> dict[str, float]:
        return {"real": float(self.real[-1]), "predicted": float(self.predicted[-1])}

    def _last_text(self) -> str:
        return f"its last minute: predicted {self.predicted[-1]:.2f}, real {self.real[-1]:.2f}"

    def _samples(self) -> list[dict[str, Any]]:
        captions = {
            "error": f"error at the end: {self.scores['mse_test']:.3g} on the test set",
            "prediction": "the test set, real and predicted",
            "last_day": f"the last day; {self._last_text()}",
        }
        return [sample(f"samples/{name}.png", text) for name, text in captions.items()]

    def _notes(self, day: np.ndarray) -> list[str]:
        error, naive, mean = (self.scores[f"mse_{name}"] for name in ("test", "naive", "mean"))
        than = "below" if error < naive else "above"
        off = float(np.abs(self.predicted[day] - self.real[day]).mean())
        return [
            f"prices: {self.origin}",
            f"test error {error:.3g}; predicting the training mean has {mean:.3g}",
            f"that is {than} repeating the previous minute ({naive:.3g}), which knows the index",
            f"the last day, {len(day)} minutes: off by {off:.2f} on average",
            self._last_text(),
        ]
