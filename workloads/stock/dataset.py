"""Minute prices of an index and its stocks, from a CSV file or generated in the same format.

The layout is the paper's: a header, then per minute ``DATE``, the index, and one column per stock.
The three header rows of yfinance's ``download(…)["Close"]`` and the like are read as well.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import numpy as np

from common.errors import BadInput
from common.files import sha256

ROWS, STOCKS = 41_266, 500
SECTORS = 11
DAY = 390  # minutes that the New York exchange is open
FEWEST_ROWS = 20
FIRST_SECOND = 1e8  # in 1973: a smaller DATE is a row number, not Unix seconds
_DATES = ("DATE", "DATETIME", "TIMESTAMP")
_GAPS = ("", "-", "na", "n/a", "nan", "none", "null")
_LOCAL_DATE = re.compile(r"\d{1,2}[./]\d{1,2}[./]\d{2,4}\b|\d{1,2}-\d{1,2}-\d{4}\b")
_MONEY = re.compile(r"[^\d\s,.-]*\s?-?[\d,]+(\.\d+)?\s?[^\d\s,.]*")
_DECIMAL_COMMA = re.compile(r"-?\d[\d.]*,(\d{1,2}|\d{4,})")
LAST_SECOND = 1e11  # in 5138: a larger one is milliseconds or smaller


@dataclass(frozen=True)
class Prices:
    """``index`` [rows] and ``stocks`` [rows, stocks], in their own units, float64.

    ``last_day`` is the number of rows of the last day.
    """

    index: np.ndarray
    stocks: np.ndarray
    origin: str
    last_day: int = DAY


@dataclass(frozen=True)
class Split:
    """Scaled to -1..1 by the range of the training set, the first 80 % in time; float32."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    low: float
    high: float

    def price(self, scaled: np.ndarray) -> np.ndarray:
        """The index in its own units."""
        index = (np.asarray(scaled, np.float64) + 1) / 2 * (self.high - self.low) + self.low
        return np.asarray(index)

    def sha256(self) -> str:
        return sha256((self.train_x, self.train_y, self.test_x, self.test_y))


def load(
    data: Path | None, *, minutes: int, stocks: int, seed: int, batch_size: int, gaps: str = "fail"
) -> tuple[Prices, Split]:
    """The prices of a file, or generated ones of ``minutes`` and ``stocks``, and their split.

    Gaps ``fail``, or are filled with the price of the row before: ``previous``. Raises BadInput,
    also when there are fewer rows to train on than ``batch_size``.
    """
    prices = read_csv(data, gaps) if data else generate(minutes, stocks, seed)
    parts = split(prices)
    if len(parts.train_y) < batch_size:
        raise BadInput(
            f"--batch-size {batch_size} is more than there are rows to train on: "
            f"{len(parts.train_y)}"
        )
    return prices, parts


def generate(rows: int = ROWS, stocks: int = STOCKS, seed: int = 1) -> Prices:
    """Random walks with market, sector and individual components, and a weighted index.

    Raises BadInput for too few rows.
    """
    _check_length("--minutes", rows)
    draw = np.random.default_rng(seed)
    market = draw.normal(0, 2.5e-4, (rows, 1))
    sectors = draw.normal(0, 1.5e-4, (rows, SECTORS))
    member = draw.integers(0, SECTORS, stocks)
    moves = market * draw.uniform(0.5, 1.5, stocks) + sectors[:, member]
    moves += draw.normal(0, 3e-4, (rows, stocks))
    start = draw.lognormal(4.2, 0.6, stocks)
    prices = np.round(start * np.exp(np.cumsum(moves, 0)), 4)
    weights = draw.pareto(1.2, stocks) + 0.2
    value = prices / start @ (weights / weights.sum())
    return Prices(np.round(2364.0 * value / value[0], 4), prices, f"generated, seed {seed}")


def read_csv(file: Path, gaps: str = "fail") -> Prices:
    """Raises BadInput with file and line: gaps, wrong columns, no number, dates that do not rise.

    A byte order mark and blank lines, as spreadsheets write them, are accepted.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            return _parsed(file, text, gaps)
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{file}: not a CSV file: {error}") from None


def split(prices: Prices, share: float = 0.8) -> Split:
    """Scaled as in appendix C, by the range of the training set."""
    both = np.column_stack([prices.index, prices.stocks])
    border = int(len(both) * share)
    low, high = both[:border].min(0), both[:border].max(0)
    spread = np.where(high > low, high - low, 1)
    scaled = ((both - low) / spread * 2 - 1).astype(np.float32)
    train, test = scaled[:border], scaled[border:]
    return Split(
        np.ascontiguousarray(train[:, 1:]),
        np.ascontiguousarray(train[:, 0]),
        np.ascontiguousarray(test[:, 1:]),
        np.ascontiguousarray(test[:, 0]),
        float(low[0]),
        float(low[0] + spread[0]),
    )


def _parsed(file: Path, text: TextIO, gaps: str) -> Prices:
    rows = csv.reader(text)
    header = _header(file, rows)
    values: list[np.ndarray] = []
    moments: list[float] = []
    filled = 0
    for row in rows:
        if len(row) > 1 or "".join(row).strip():
            where = f"{file}:{rows.line_num}"
            if gaps == "previous":
                filled += _fill(where, header, row, values)
            values.append(_numbers(where, header, row))
            moments.append(_moment(where, row[0], moments))
    _check_length(str(file), len(values))
    table = np.array(values)
    origin = f"{file}, gaps filled with the price before: {filled}" if filled else str(file)
    return Prices(table[:, 0], table[:, 1:], origin, _last_day(moments))


def _header(file: Path, rows: Iterator[list[str]]) -> list[str]:
    """The columns' names; of yfinance's three rows the second, which has the tickers."""
    header = next(rows, None)
    if header is None:
        raise BadInput(f"{file}: it is empty")
    for sign, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) < 3 and sign in "".join(header):
            raise BadInput(f"{file}:1: its columns are separated by {name}: write it with commas")
    if header[0].strip() == "Price" and len(header) > 2:
        kinds = sorted(set(header[1:]))
        if len(kinds) > 1:
            raise BadInput(
                f"{file}:1: several prices of each ticker ({', '.join(kinds)}), as yfinance writes "
                "them: keep one, such as data['Close'].to_csv(…)"
            )
        header = next(rows, [])
        dates = next(rows, [])
        header = [*dates[:1], *header[1:]]
    if len(header) < 3 or header[0].strip().upper() not in _DATES:
        raise BadInput(f"{file}:1: the columns must be DATE, the index, then one for each stock")
    return header


def _fill(where: str, header: list[str], row: list[str], before: Sequence[np.ndarray]) -> int:
    """Puts the price of the row before into each gap, and returns how many there were."""
    gaps = [n for n, text in enumerate(row) if n and _is_gap(text)]
    if gaps and not before:
        raise BadInput(f"{where}: a gap in column {header[gaps[0]]} and no row before it")
    for n in gaps if len(row) == len(header) else ():
        row[n] = repr(float(before[-1][n - 1]))
    return len(gaps)


def _is_gap(text: str) -> bool:
    return text.strip().lower() in _GAPS


def _check_length(where: str, rows: int) -> None:
    if rows < FEWEST_ROWS:
        raise BadInput(f"{where}: too few rows to train and test on: {rows}")


def _moment(where: str, text: str, before: Sequence[float]) -> float:
    """Seconds, or a row number; later than all ``before``, since the split is by time."""
    moment = _seconds(where, text.strip())
    if before and moment <= before[-1]:
        newest = ": the newest come first, turn it round" if len(before) == 1 else ""
        raise BadInput(f"{where}: DATE {text} is not after that of the previous row{newest}")
    return moment


def _seconds(where: str, text: str) -> float:
    if _is_number(text):
        moment = float(text)
        while moment > LAST_SECOND:
            moment /= 1000
        return moment
    if _LOCAL_DATE.match(text):
        raise BadInput(
            f"{where}: DATE '{text}' is a local date, of which nobody can tell day and month: "
            "write 2017-08-30 (ISO 8601)"
        )
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(
            f"{where}: DATE '{text}' is neither a number, as Unix seconds are, nor ISO 8601"
        ) from None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _last_day(moments: Sequence[float]) -> int:
    """The number of rows with the last row's date; DAY when DATE is a row number."""
    if moments[0] < FIRST_SECOND:
        return DAY
    days = np.floor(np.array(moments) / 86400)
    return int((days == days[-1]).sum())


def _numbers(where: str, header: list[str], row: list[str]) -> np.ndarray:
    if len(row) != len(header):
        raise BadInput(f"{where}: columns: {len(row)} instead of {len(header)}")
    try:
        values = np.array(row[1:], np.float64)
    except ValueError:
        values = np.array([])
    if len(values) and np.isfinite(values).all():
        return values
    wrong = next(n for n, text in enumerate(row[1:], 1) if not _is_number(text))
    problem = f"'{row[wrong]}' is not a number"
    if _is_gap(row[wrong]):
        problem = "a gap, which --gaps previous fills,"
    elif _DECIMAL_COMMA.fullmatch(row[wrong].strip()):
        problem += ": it has a decimal comma"
    elif _MONEY.fullmatch(row[wrong].strip()):
        problem += ": write 3000.57, without currency and thousands separators,"
    raise BadInput(f"{where}: {problem} in column {header[wrong]}")


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
