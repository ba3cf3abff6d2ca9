"""Charts of how GPUs were used while the program ran, a line for each GPU."""

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gpuvm.report.charts import MAX_COLOURED, STEPS, Chart, drawn, legend_of, whole
from gpuvm.report.drawing import PAGE, style_axes
from gpuvm.report.format import number
from gpuvm.report.model import GPUUsage, RunReport, UsagePoint

Value = Callable[[UsagePoint], float | None]

_CHARTS: tuple[tuple[str, str, Value, float], ...] = (
    ("Utilisation", "%", lambda point: point.utilization, 100.0),
    (
        "Memory in use",
        "GiB",
        lambda point: None if point.memory_mib is None else point.memory_mib / 1024,
        1.0,
    ),
    ("Power", "W", lambda point: point.power_w, 1.0),
)
"""Heading, unit, value, and the least that its axis shows."""


def usage_figures(run: RunReport, position: int) -> tuple[Chart, ...]:
    """Those of which something was reported; ``position`` makes ids unique in the page."""
    lines = [gpu for gpu in run.gpu_usage if len(gpu.points) > 1]
    return tuple(
        _chart(run, heading, unit, value, least, f"r{position}-u{number}")
        for number, (heading, unit, value, least) in enumerate(_CHARTS)
        if any(value(point) is not None for gpu in lines for point in gpu.points)
    )


def _chart(
    run: RunReport, heading: str, unit: str, value: Value, least: float, chart_id: str
) -> Chart:
    gpus = [gpu for gpu in run.gpu_usage if any(value(p) is not None for p in gpu.points)]
    coloured = len(gpus) <= MAX_COLOURED
    names = gpu_names(run)
    colours = {names[gpu]: i if coloured or i == 0 else None for i, gpu in enumerate(gpus)}

    def draw(figure: Figure, width_in: float) -> None:
        axes = whole(figure)
        for gpu in reversed(gpus):
            _line(axes, gpu, value, PAGE.colour(colours[names[gpu]]))
        axes.set_ylim(0, max(least, axes.get_ylim()[1]))
        axes.set_xlim(left=0)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axes.xaxis.set_major_locator(MaxNLocator(8 if width_in > 4 else 4, steps=STEPS))
        axes.set_xlabel("seconds")
        style_axes(axes, grid="y")

    values = [v for gpu in gpus for point in gpu.points if (v := value(point)) is not None]
    about = f"{unit}, {number(min(values))} to {number(max(values))}"
    alt = f"{heading} of {len(gpus)} GPU{'' if len(gpus) == 1 else 's'}: {about}"
    wide, narrow = drawn(draw, alt, chart_id, (2.0, 1.9))
    return Chart(heading, about, alt, legend_of(colours), wide, narrow)


def gpu_names(run: RunReport) -> dict[GPUUsage, str]:
    """The VM's, and which GPU where it has several."""
    several = {gpu.vm for gpu in run.gpu_usage if gpu.gpu > 0}
    return {g: f"{g.vm} GPU {g.gpu}" if g.vm in several else g.vm for g in run.gpu_usage}


def _line(axes: Axes, gpu: GPUUsage, value: Value, shade: str) -> None:
    """Broken where there is a gap, or where nothing was reported."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for point in gpu.points:
        shown = value(point)
        if point.begins or shown is None:
            pieces.append([])
        if shown is not None:
            pieces[-1].append((point.at_s, shown))
    for piece in filter(None, pieces):
        marker = "o" if len(piece) < 2 else ""
        axes.plot(*zip(*piece, strict=True), color=shade, linewidth=1.4, marker=marker)
