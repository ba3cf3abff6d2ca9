"""The parts of the page that Gradio has no component for, as HTML: jobs, and tables.

Everything that comes from elsewhere is escaped.
"""

from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from gpuvm.studio.gallery import Made, Progress
from gpuvm.studio.jobs import Job
from gpuvm.studio.site import Table

Link = Callable[[Made], str]
"""The address of a picture on the page."""
NONE_MADE: Final = '<p class="note">No picture yet.</p>'

STATES: Final = {
    "queued": "waiting",
    "running": "being made",
    "cancelling": "being cancelled",
    "succeeded": "done",
    "failed": "failed",
    "cancelled": "cancelled",
}
WIDTH, HEIGHT = 160, 36
"""Of the curve of the loss."""


def card(
    job: Job,
    pictures: Sequence[Made],
    progress: Sequence[Progress],
    link: Link,
    sheet: str | None = None,
) -> str:
    """A picture, or a grid, as far as it is; ``sheet`` is the address of its contact sheet."""
    lines = "".join(_progress(one) for one in progress) if job.run is not None else ""
    shown = "".join(_image(one, link) for one in pictures)
    button = (
        ""
        if job.ended or job.state == "cancelling"
        else f'<button type="button" data-job="{job.number}">Cancel</button>'
    )
    note = f'<p class="note">{escape(job.note)}</p>' if job.note else ""
    where = f" on {escape(', '.join(job.workers))}" if job.workers else ""
    return (
        f'<article class="job {job.state}" data-number="{job.number}">'
        f"<header><strong>{escape(_title(job))}</strong>"
        f'<span class="state">{STATES[job.state]}{where}</span>{button}</header>'
        f"{note}{_arranged(job, shown)}{lines}{_sheet(sheet)}</article>"
    )


def made(pictures: Sequence[Made], chosen: Sequence[str], link: Link) -> str:
    """The gallery: a click puts a picture beside others, a link downloads it."""
    if not pictures:
        return NONE_MADE
    shown = "".join(_thumbnail(one, one.key in chosen, link) for one in pictures)
    return f'<p class="note">Select pictures to see them side by side.</p><ul>{shown}</ul>'


def beside(pictures: Sequence[Made], link: Link) -> str:
    """The selected pictures in one row, as large as fits; nothing without any."""
    if not pictures:
        return ""
    shown = "".join(
        f"<figure>{_image(one, link)}{_caption(one, link)}</figure>" for one in pictures
    )
    return f'<h3>Side by side</h3><div class="row">{shown}</div>'


def table(one: Table) -> str:
    if not one.rows:
        return f"<h3>{escape(one.title)}</h3><p>{escape(one.empty)}</p>"
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in one.columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in one.rows
    )
    return (
        f'<h3>{escape(one.title)}</h3><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def notes(texts: Sequence[str]) -> str:
    return "".join(f'<p class="note">{escape(text)}</p>' for text in texts)


def _title(job: Job) -> str:
    wanted = job.wanted
    if wanted.grid:
        return f"{wanted.grid} by {wanted.grid} pictures, content 0 to 2, style 0 to 10"
    return f"content {wanted.content_weight:g}, style {wanted.style_weight:g}"


def _arranged(job: Job, pictures: str) -> str:
    """A grid has the content weights down and the style weights across, as in the paper."""
    if not job.wanted.grid:
        return f'<div class="pictures">{pictures}</div>'
    columns = f"grid-template-columns: repeat({job.wanted.grid}, minmax(0, 1fr))"
    return f'<div class="pictures grid" style="{columns}">{pictures}</div>'


def _sheet(address: str | None) -> str:
    return f'<a href="{escape(address)}" download>Contact sheet</a>' if address else ""


def _thumbnail(one: Made, chosen: bool, link: Link) -> str:
    pressed = "true" if chosen else "false"
    return (
        f'<li><button type="button" data-picture="{escape(one.key)}" aria-pressed="{pressed}">'
        f"{_image(one, link)}</button>{_caption(one, link)}</li>"
    )


def _caption(one: Made, link: Link) -> str:
    return (
        f"<figcaption><strong>{escape(one.title)}</strong><br><small>{escape(one.details)}</small>"
        f'<br><a href="{escape(link(one))}" download="{escape(one.download_name)}">Download</a>'
        "</figcaption>"
    )


def _image(one: Made, link: Link) -> str:
    return f'<img src="{escape(link(one))}" alt="{escape(one.title)}" title="{escape(one.title)}">'


def _progress(one: Progress) -> str:
    if not one.steps:
        return f'<p class="progress">{escape(one.vm)}: starting ({escape(one.phase)})</p>'
    loss = f"loss {one.losses[-1]:.3g}" if one.losses else ""
    return (
        f'<div class="progress"><span>{escape(one.vm)}: step {one.step} of {one.steps}</span>'
        f'<progress max="{one.steps}" value="{one.step}" '
        f'aria-label="steps of {escape(one.vm)}"></progress>'
        f'<span class="loss">{loss}</span>{_curve(one.losses)}</div>'
    )


def _curve(losses: Sequence[float]) -> str:
    """The losses from the first to the last, between their extremes."""
    if len(losses) < 2:
        return ""
    low, high = min(losses), max(losses)
    span = (high - low) or 1.0
    points = " ".join(
        f"{n * WIDTH / (len(losses) - 1):.1f},{HEIGHT - (loss - low) / span * HEIGHT:.1f}"
        for n, loss in enumerate(losses)
    )
    label = f"the loss fell from {losses[0]:.3g} to {losses[-1]:.3g}"
    return (
        f'<svg viewBox="-2 -2 {WIDTH + 4} {HEIGHT + 4}" role="img" aria-label="{label}">'
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="2"/></svg>'
    )
