"""The progress display of a transfer."""

import pytest

from gpuvm.guest import TransferProgress
from gpuvm.guest.progress import size

GIB = 1 << 30


def test_rate_counts_transferred_bytes_only() -> None:
    """What was there already makes nothing faster."""
    progress = TransferProgress(done=3 * GIB, total=11 * GIB, already_there=1 * GIB, seconds=20.0)
    assert progress.rate == pytest.approx(GIB / 10)
    assert progress.eta_s == pytest.approx(80)
    assert progress.fraction == pytest.approx(3 / 11)
    assert str(progress) == "3.0 GiB of 11.0 GiB, 102 MiB/s, 80 s left"


def test_no_time_left_is_shown_before_data_was_sent() -> None:
    assert str(TransferProgress(GIB, 2 * GIB, GIB, 5.0)) == "1.0 GiB of 2.0 GiB"
    assert str(TransferProgress(0, 0, 0, 0.0)) == "0 bytes of 0 bytes"
    assert TransferProgress(0, 0, 0, 0.0).fraction == 1


def test_long_waits_are_in_minutes_and_hours() -> None:
    assert str(TransferProgress(GIB, 2 * GIB, 0, 600.0)).endswith("1.7 MiB/s, 10 min left")
    assert str(TransferProgress(GIB, 20 * GIB, 0, 600.0)).endswith("3 h 10 min left")
    assert str(TransferProgress(GIB, GIB, 0, 10.0)).endswith("102 MiB/s")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (150 * 1024, "150 KiB"),
        (GIB - 1, "1024 MiB"),
        (5 << 50, "5120 TiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
