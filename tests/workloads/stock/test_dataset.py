"""The paper's CSV: rows in time, as spreadsheets save them; and which of them are the last day."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.errors import BadInput
from stock import dataset

HEADER = "DATE,SP500,NASDAQ.A,NASDAQ.B\n"
OPENS = datetime(2017, 8, 30, 13, 30, tzinfo=UTC)
ROWS = 40


def _file(folder: Path, dates: list[str], *, before: str = "", after: str = "") -> Path:
    lines = (f"{date},{2000 + n},{10 + n},{20 + n % 7}\n" for n, date in enumerate(dates))
    file = folder / "data.csv"
    file.write_text(before + HEADER + "".join(lines) + after, encoding="utf-8")
    return file


def _minutes() -> list[datetime]:
    """Thirty of one day, ten of the next."""
    return [OPENS + timedelta(days=n // 30, minutes=n % 30) for n in range(ROWS)]


@pytest.mark.parametrize(
    ("position", "date", "message"),
    [
        (7, "6", "data.csv:9: DATE 6 is not after that of the previous row"),
        (7, "3", "data.csv:9: DATE 3 is not after"),
        (7, "yesterday", "data.csv:9: DATE 'yesterday' is neither a number"),
        (7, "nan", "data.csv:9: DATE 'nan' is neither a number"),
        (0, "", "data.csv:2: DATE '' is neither a number"),
    ],
)
def test_rows_that_are_not_in_time_are_refused(
    tmp_path: Path, position: int, date: str, message: str
) -> None:
    dates = [str(n) for n in range(ROWS)]
    dates[position] = date
    with pytest.raises(BadInput, match=message):
        dataset.read_csv(_file(tmp_path, dates))


def test_byte_order_mark_and_blank_lines_are_accepted(tmp_path: Path) -> None:
    dates = [str(n) for n in range(ROWS)]
    found = dataset.read_csv(_file(tmp_path, dates, before="\ufeff", after="\n  \n"))
    assert len(found.index) == ROWS


@pytest.mark.parametrize("scale", [1, 1000, 1_000_000_000])
def test_the_last_day_is_that_of_the_last_date(tmp_path: Path, scale: int) -> None:
    unix = [str(int(minute.timestamp()) * scale) for minute in _minutes()]
    assert dataset.read_csv(_file(tmp_path, unix)).last_day == 10


def test_dates_may_be_written_out(tmp_path: Path) -> None:
    written = [f"{minute:%Y-%m-%d %H:%M}" for minute in _minutes()]
    assert dataset.read_csv(_file(tmp_path, written)).last_day == 10


def test_numbered_rows_are_split_into_trading_days(tmp_path: Path) -> None:
    assert dataset.read_csv(_file(tmp_path, [str(n) for n in range(ROWS)])).last_day == 390
    assert dataset.generate(1000, 3).last_day == 390


def test_too_few_minutes_are_refused() -> None:
    with pytest.raises(BadInput, match="--minutes: 1 rows are too few"):
        dataset.generate(1, 3)
