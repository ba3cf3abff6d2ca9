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


@pytest.mark.parametrize("gap", ["", " ", "null", "NaN", "N/A", "-"])
def test_gaps_fail_or_are_the_price_before(tmp_path: Path, gap: str) -> None:
    whole = _file(tmp_path, [str(n) for n in range(ROWS)])
    whole.write_text(whole.read_text().replace("7,2007,17,20\n", f"7,2007,{gap},20\n"))
    with pytest.raises(BadInput, match=r"csv:9: a gap, which --gaps previous fills, in column N"):
        dataset.read_csv(whole)
    found = dataset.read_csv(whole, "previous")
    assert found.stocks[6:9, 0].tolist() == [16, 16, 18]
    assert found.origin.endswith("gaps filled with the price before: 1")


def test_a_gap_in_the_first_row_has_nothing_before_it(tmp_path: Path) -> None:
    whole = _file(tmp_path, [str(n) for n in range(ROWS)])
    whole.write_text(whole.read_text().replace("\n0,2000,10", "\n0,,10"))
    with pytest.raises(BadInput, match=r"csv:2: a gap in column SP500 and no row before it"):
        dataset.read_csv(whole, "previous")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",", ";", "csv:1: its columns are separated by semicolons: write it with commas"),
        (",", "\t", "csv:1: its columns are separated by tabs"),
        ("2003", '"2003,5"', "'2003,5' is not a number: it has a decimal comma in column SP500"),
        ("2003", '"$2,003.57"', r"'\$2,003.57' is not a number: write 3000.57, without currency"),
        ("2003", "far", "'far' is not a number in column SP500"),
    ],
)
def test_what_other_programs_write_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = _file(tmp_path, [str(n) for n in range(ROWS)])
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(BadInput, match=said):
        dataset.read_csv(file)


@pytest.mark.parametrize("date", ["03/08/2024", "8.3.2024 09:30", "08.03.24", "08-03-2024"])
def test_a_local_date_is_named_as_such(tmp_path: Path, date: str) -> None:
    with pytest.raises(BadInput, match=r"csv:2: DATE '.*' is a local date, of which nobody"):
        dataset.read_csv(_file(tmp_path, [date] * ROWS))


def test_the_newest_first_is_said(tmp_path: Path) -> None:
    newest_first = [f"{minute:%Y-%m-%d %H:%M}" for minute in reversed(_minutes())]
    with pytest.raises(BadInput, match=r"csv:3: .*: the newest come first, turn it round"):
        dataset.read_csv(_file(tmp_path, newest_first))


def test_the_header_of_yfinance(tmp_path: Path) -> None:
    plain = _file(tmp_path, [f"{minute:%Y-%m-%d %H:%M:%S}-05:00" for minute in _minutes()])
    body = plain.read_text().removeprefix(HEADER)
    expected = dataset.read_csv(plain)
    several = tmp_path / "several.csv"
    for head in (
        HEADER.replace("DATE", "Datetime"),
        "Price,Close,Close,Close\nTicker,SP500,NASDAQ.A,NASDAQ.B\nDate,,,\n",
    ):
        several.write_text(head + body)
        assert (dataset.read_csv(several).stocks == expected.stocks).all()
    several.write_text("Price,Close,High,Close\nTicker,A,A,B\nDate,,,\n" + body)
    with pytest.raises(BadInput, match=r"several prices of each ticker \(Close, High\)"):
        dataset.read_csv(several)


def test_too_few_minutes_are_refused() -> None:
    with pytest.raises(BadInput, match="--minutes: too few rows to train and test on: 1"):
        dataset.generate(1, 3)
