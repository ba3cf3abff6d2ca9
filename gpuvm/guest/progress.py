"""Progress of a transfer: bytes, rate and remaining time."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import override

REPORT_EVERY_S = 0.25


@dataclass(frozen=True)
class TransferProgress:
    """``already_there`` of the ``total`` bytes need not be sent; ``done`` includes them."""

    done: int
    total: int
    already_there: int
    seconds: float

    @property
    def fraction(self) -> float:
        return self.done / self.total if self.total else 1.0

    @property
    def rate(self) -> float | None:
        """Bytes per second; None before anything has moved."""
        moved = self.done - self.already_there
        return moved / self.seconds if moved and self.seconds else None

    @property
    def eta_s(self) -> float | None:
        return (self.total - self.done) / self.rate if self.rate else None

    @override
    def __str__(self) -> str:
        words = [f"{size(self.done)} of {size(self.total)}"]
        if self.rate is not None and self.eta_s is not None:
            words.append(f"{size(round(self.rate))}/s")
            if self.done < self.total:
                words.append(f"{_duration(self.eta_s)} left")
        return ", ".join(words)


OnProgress = Callable[[TransferProgress], None]


class Meter:
    """Counts bytes and reports them four times a second, at the beginning and at the end."""

    def __init__(self, on_progress: OnProgress | None, total: int, already_there: int) -> None:
        self._on_progress = on_progress or (lambda _: None)
        self._total, self._already_there, self._done = total, already_there, already_there
        self._begun = self._reported = time.monotonic()
        self._report()

    def count(self, moved: int) -> None:
        self._done += moved
        if time.monotonic() - self._reported >= REPORT_EVERY_S:
            self._report()

    def finish(self) -> None:
        self._done = self._total
        self._report()

    def _report(self) -> None:
        self._reported = time.monotonic()
        seconds = self._reported - self._begun
        self._on_progress(TransferProgress(self._done, self._total, self._already_there, seconds))


def size(count: float) -> str:
    """Formats bytes, such as ``3.2 GiB``."""
    power = min(4, max(0, (int(count).bit_length() - 1) // 10))
    unit = ("bytes", "KiB", "MiB", "GiB", "TiB")[power]
    scaled = count / 1024**power
    return f"{scaled:.0f} {unit}" if power == 0 or scaled >= 100 else f"{scaled:.1f} {unit}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
