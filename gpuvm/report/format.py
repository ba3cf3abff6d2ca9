"""Formats numbers for the page and the terminal."""

from datetime import datetime


def duration(seconds: float | None) -> str:
    """``0.42 s``, ``12.3 s``, ``2 min 51 s``, ``1 h 02 min``; an em dash for None."""
    if seconds is None:
        return "—"
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds >= 1 or seconds == 0 else f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float | None) -> str:
    """Three significant digits, thousands in groups; an em dash for None."""
    if value is None:
        return "—"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def data_size(count: int) -> str:
    """``512 B``, ``1.5 MB``; decimal, as ``gpuvm fetch`` says it."""
    units = ("B", "kB", "MB", "GB", "TB")
    place = min(len(units) - 1, max(0, len(str(count)) - 1) // 3)
    return f"{number(count / 1000**place)} {units[place]}"


def energy(watt_hours: float) -> str:
    """``0.041 Wh``, ``12.3 Wh``, ``1.25 kWh``."""
    if watt_hours >= 1000:
        return f"{number(watt_hours / 1000)} kWh"
    return f"{number(watt_hours)} Wh"


def percent(value: float | None) -> str:
    return "—" if value is None else f"{value:.0f} %"


def when(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S %Z").strip() if moment else "not recorded"


def milliseconds(seconds: float | None) -> str:
    return "—" if seconds is None else f"{1000 * seconds:.1f} ms"


def times(speed_up: float | None) -> str:
    """``1.42x``; an em dash for None."""
    return "—" if speed_up is None else f"{speed_up:.2f}x"


def figure(value: float) -> str:
    """A score: three decimals, or as many digits as a small one needs."""
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.01 else f"{value:.2g}"
