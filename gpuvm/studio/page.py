"""The page itself; the only module that knows Gradio.

Three tabs: pictures in another one's style, captions, and the cluster at a glance. All of what it
shows is read again each time: from the queue, from the records of runs, from the vCenter.
"""

import importlib.util
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import gradio as gr
from fastapi import FastAPI
from gradio.utils import get_upload_folder

from gpuvm import results, runs
from gpuvm.errors import BadInput, GpuvmError
from gpuvm.runs import here
from gpuvm.studio import cards, gallery, uploads
from gpuvm.studio.access import App, Message, Receive, Scope, Send
from gpuvm.studio.jobs import Job, Queue, Wanted
from gpuvm.studio.makers import trained_network
from gpuvm.studio.site import Site

TICK_S: Final = 1.0
SIZES: Final = (64, 128, 224, 384, 512, 768, 1024)
GRIDS: Final = {"3 by 3": 3, "5 by 5, as in the paper": 5}
SHOWN: Final = 60
"""Pictures in the gallery, the latest."""
BESIDE: Final = 4
"""Pictures side by side."""
RECENT: Final = 5
"""Ended jobs that stay in view."""
CLICK: Final = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-%s]');
  if (button) { trigger('click', { %s: button.dataset.%s }); }
});
"""
"""A click on one of the buttons in a piece of HTML becomes an event with its data."""
EVENT: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE: Final[dict[str, Any]] = EVENT | {"queue": False}
"""Without Gradio's queue; messages for the user need it."""

Upload = dict[str, Any] | None
"""Gradio's description of an uploaded file."""
Complete = Callable[[str], str]
"""Adds to the commands in a text what they need to work on the same VMs."""


def application(queue: Queue, site: Site | None, folder: Path, complete: Complete) -> App:
    """The page as an ASGI application. ``folder`` is for files that it shows, and for uploads."""
    studio = _Studio(queue, site, folder, complete)
    with gr.Blocks(title="Studio", analytics_enabled=False) as blocks:
        studio.build()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    mounted = gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=False,
        max_file_size=uploads.MAX_BYTES,
        theme=gr.themes.Base(
            primary_hue="teal",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ).set(body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400"),
        css_paths=Path(__file__).with_name("page.css"),
    )
    return _QuickUploads(mounted)


@dataclass(frozen=True)
class _QuickUploads:
    """Gradio answers 404 to a browser that asks for the progress of an upload after its end, and
    the browser logs an error; here the answer is that it has ended.
    """

    app: App

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") != "/gradio_api/upload_progress":
            await self.app(scope, receive, send)
            return
        unknown = False

        async def answer(message: Message) -> None:
            nonlocal unknown
            if message.get("status") == 404:
                unknown = True
                headers = [(b"content-type", b"text/event-stream")]
                message = {"type": "http.response.start", "status": 200, "headers": headers}
            elif unknown:
                message = {"type": "http.response.body", "body": b'data: {"msg": "done"}\n\n'}
            await send(message)

        await self.app(scope, receive, answer)


@dataclass(frozen=True)
class _Studio:
    queue: Queue
    site: Site | None
    folder: Path
    complete: Complete

    def build(self) -> None:
        where = f"Pictures are made on the VMs of {self.site.name}." if self.site else LOCAL
        gr.HTML(f"<h1>Studio</h1><p>{escape(where)}</p>", elem_id="heading")
        with gr.Tabs():
            with gr.Tab("Style"):
                self._style_tab()
            with gr.Tab("Captions") as captions:
                self._caption_tab(captions)
            with gr.Tab("Cluster") as cluster:
                self._cluster_tab(cluster)

    # One picture's content in another one's style.

    def _style_tab(self) -> None:
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                with gr.Row():
                    content, style = _picture("Content"), _picture("Style")
                content_weight = gr.Slider(0, 2, 1, step=0.1, label="Content weight")
                style_weight = gr.Slider(0, 10, 5, step=0.5, label="Style weight")
                with gr.Row():
                    size = gr.Dropdown(SIZES, value=224, label="Longer side, pixels")
                    rounds = gr.Slider(1, 50, 1, step=1, label="Rounds")
                make = gr.Button("Make the picture", variant="primary")
                with gr.Row():
                    grid = gr.Dropdown([*GRIDS.items()], value=3, label="Grid")
                    sweep = gr.Button("Make the grid")
                gr.Markdown(self.complete(_network_note()))
            with gr.Column(scale=3, min_width=320):
                gr.Markdown("### In progress")
                progress = gr.HTML(self._progress, js_on_load=_click("job"), elem_id="progress")
        inputs = [content, style, content_weight, style_weight, size, rounds]
        make.click(self._make, inputs, progress, preprocess=False, **EVENT)
        sweep.click(self._sweep, [*inputs, grid], progress, preprocess=False, **EVENT)
        progress.click(self._cancel, None, progress, **EVENT)
        self._gallery(progress)

    def _gallery(self, progress: gr.HTML) -> None:
        chosen, seen = gr.State([]), gr.State("")
        beside = gr.HTML(elem_id="beside")
        gr.Markdown("### Made so far")
        made = gr.HTML(cards.NONE_MADE, js_on_load=_click("picture"), elem_id="made")
        made.click(self._choose, chosen, [chosen, made, beside], **EVENT)
        timer = gr.Timer(TICK_S)
        timer.tick(self._tick, [seen, chosen], [progress, seen, made], **AT_ONCE)

    def _make(self, *given: Any) -> str:
        with self._told():
            self.queue.submit(_wanted(*given))
        return self._progress()

    def _sweep(self, *given: Any) -> str:
        with self._told():
            *picture, grid = given
            if grid not in GRIDS.values():
                raise BadInput("no such grid")
            self.queue.submit(replace(_wanted(*picture), grid=grid))
        return self._progress()

    def _cancel(self, event: gr.EventData) -> str:
        number = str(getattr(event, "job", ""))
        if number.isdecimal():
            self.queue.cancel(int(number))
        return self._progress()

    def _tick(self, seen: str, chosen: list[str]) -> tuple[Any, ...]:
        """The gallery is read again only when a job has changed its state."""
        states = " ".join(f"{job.number}{job.state}" for job in self.queue.jobs()) or "none"
        if states == seen:
            return self._progress(), seen, gr.skip()
        return self._progress(), states, self._made(gallery.made(SHOWN), chosen)

    def _choose(self, chosen: list[str], event: gr.EventData) -> tuple[Any, ...]:
        """A second click takes it away again; the oldest leaves when there is no room."""
        key = str(getattr(event, "picture", ""))
        others = [other for other in chosen if other != key]
        chosen = others if len(others) < len(chosen) else [*others, key][-BESIDE:]
        made = gallery.made(SHOWN)
        by_key = {one.key: one for one in made}
        beside = [by_key[one] for one in chosen if one in by_key]
        return chosen, self._made(made, chosen), cards.beside(beside, self._link)

    def _made(self, made: Sequence[gallery.Made], chosen: Sequence[str]) -> str:
        return cards.made(made, chosen, self._link)

    def _link(self, one: gallery.Made) -> str:
        return _address(self._published(one.file, f"{one.run_id}/{one.vm}", one.download_name))

    def _published(self, file: Path, run: str, name: str | None = None) -> Path:
        """A copy where the page may show it: nothing else of a run can be opened through it."""
        version = f"{file.stat().st_mtime_ns:x}"
        copy = self.folder / "pictures" / run / version / (name or f"{run}-{file.name}")
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            partial = copy.with_name(f".{secrets.token_hex(4)}")
            shutil.copyfile(file, partial)
            partial.replace(copy)
        return copy

    def _progress(self) -> str:
        jobs = self.queue.jobs()
        ended = [job.number for job in jobs if job.ended][:-RECENT]
        shown = [self._card(job) for job in reversed(jobs) if job.number not in ended]
        return "".join(shown) or '<p class="note">Nothing yet: what you make appears here.</p>'

    def _card(self, job: Job) -> str:
        job = replace(job, note=self.complete(job.note))
        if job.run is None:
            return cards.card(job, [], [], self._link)
        try:
            run = results.load(job.run.run_id)
            pictures, progress = gallery.pictures(run), gallery.progress(run)
        except BadInput:  # the record of a run that was refused has gone
            return cards.card(job, [], [], self._link)
        sheet = gallery.sheet(run)
        address = _address(self._published(sheet, run.run_id)) if sheet else None
        return cards.card(job, pictures, progress, self._link, address)

    # Captions.

    def _caption_tab(self, tab: gr.Tab) -> None:
        with gr.Row():
            with gr.Column(min_width=320):
                picture = _picture("Picture")
                run = gr.Dropdown([], label="Trained run")
                with gr.Row():
                    beam = gr.Slider(1, 10, 3, step=1, label="Beam width")
                    on = gr.Dropdown([here.NAME], value=here.NAME, label="Where")
                ask = gr.Button("Caption", variant="primary")
            with gr.Column(min_width=320):
                knows = gr.HTML(elem_id="knows")
                said = gr.HTML(elem_id="caption")
        tab.select(self._caption_choices, [run, on], [run, on, knows], **EVENT)
        run.change(self._knows, run, knows, **EVENT)
        picture.change(lambda _: "", picture, said, preprocess=False, **EVENT)
        ask.click(
            self._caption,
            [picture, run, beam, on],
            said,
            preprocess=False,
            concurrency_limit=1,
            api_visibility="private",
        )

    def _caption_choices(self, run: str | None, on: str) -> tuple[Any, ...]:
        known = [record.run_id for record in runs.caption.trained_runs()]
        chosen = run if run in known else next(iter(known), None)
        places = [here.NAME, *self._vms()]
        place = on if on in places[1:] or HAS_TENSORFLOW else places[-1]
        return (
            gr.update(choices=known, value=chosen),
            gr.update(choices=places, value=place),
            self._knows(chosen),
        )

    def _vms(self) -> list[str]:
        try:
            return [member.name for member in self.site.read()[1]] if self.site else []
        except GpuvmError:  # the cluster's tab says why
            return []

    def _caption(self, upload: Upload, run: str | None, beam: int, on: str) -> Any:
        with self._told():
            picture = _file(upload)
            if picture is None:
                raise BadInput("there is no picture to caption: drop one first")
            record = results.load(run) if run else runs.caption.latest()
            captioner = runs.caption.captioner(record)
            if on == here.NAME or self.site is None:
                said = captioner.here([picture], int(beam))
            else:
                member = next((m for m in self.site.read()[1] if m.name == on), None)
                if member is None:
                    raise BadInput(f"{on} is not running")
                said = captioner.on(member.endpoint, self.site.guest, [picture], int(beam))
            return f'<p id="caption-text">{escape(said[0])}</p>'
        return gr.skip()

    def _knows(self, run: str | None) -> str:
        if run is None:
            text = "No trained run is here: 'gpuvm run captioning --distributed' trains one."
        else:
            try:
                captioner = runs.caption.captioner(results.load(run))
                text = f"This run was {captioner.knows()}"
            except BadInput as error:
                text = str(error)
        return cards.notes([self.complete(text)])

    # The cluster, read only.

    def _cluster_tab(self, tab: gr.Tab) -> None:
        if self.site is None:
            gr.Markdown("There is no cluster: this studio was started with `--local`.")
            return
        tables = gr.HTML(elem_id="cluster")
        again = gr.Button("Read again", size="sm", scale=0)
        for read in (tab.select, again.click):
            read(self._cluster, None, tables, concurrency_limit=1, api_visibility="private")

    def _cluster(self) -> Any:
        assert self.site is not None  # noqa: S101 - the tab has no table without it
        with self._told():
            glance = self.site.glance()
            return "".join(map(cards.table, glance.tables)) + cards.notes(glance.notes)
        return gr.skip()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """An error of gpuvm's becomes a message on the page, with its hint, and ends the block.

        Not gr.Error, which browsers log as an error of the page.
        """
        try:
            yield
        except GpuvmError as error:
            lines = (str(error), error.hint or "")
            text = "<br>".join(escape(self.complete(line)) for line in lines if line)
            gr.Warning(text, title="Not done")


LOCAL: Final = "Pictures are made on this machine, on its CPU, one at a time (--local)."
HAS_TENSORFLOW: Final = importlib.util.find_spec("tensorflow") is not None


def _picture(label: str) -> gr.Image:
    """A place to drop one; what is refused leaves it at once, with a sentence that says why."""
    picture = gr.Image(
        label=label,
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=200,
        buttons=[],
        elem_id=f"picture-{label.lower()}",
    )
    picture.upload(_checked, picture, picture, preprocess=False, **EVENT)
    return picture


def _checked(upload: Upload) -> Any:
    try:
        _file(upload)
    except BadInput as error:
        gr.Warning(escape(str(error)), title="Refused")
        return None
    return gr.skip()


def _file(upload: Upload) -> Path | None:
    """The uploaded file. Gradio would open a picture without limits, so events leave it unopened
    (``preprocess=False``), and what it is and where is checked here. Raises BadInput.
    """
    if upload is None:
        return None
    file = Path(str(upload["path"])).resolve()
    if not file.is_relative_to(Path(get_upload_folder()).resolve()) or not file.is_file():
        raise BadInput("that is not a file that was uploaded here")
    uploads.check(file)
    return file


def _wanted(
    content: Upload,
    style: Upload,
    content_weight: float,
    style_weight: float,
    size: int,
    rounds: int,
) -> Wanted:
    """The browser is not trusted with the limits. Raises BadInput."""
    if not (0 <= content_weight <= 2 and 0 <= style_weight <= 10):
        raise BadInput("content weights are from 0 to 2, style weights from 0 to 10")
    if size not in SIZES or not 1 <= rounds <= 50:
        raise BadInput("no such size, or number of rounds")
    return Wanted(
        _file(content),
        _file(style),
        float(content_weight),
        float(style_weight),
        int(size),
        int(rounds),
    )


def _address(file: Path) -> str:
    return f"/gradio_api/file={quote(str(file))}"


def _click(name: str) -> str:
    return CLICK.replace("%s", name)


def _network_note() -> str:
    if trained_network() is not None:
        return "Features: VGG19's, trained on ImageNet."
    return (
        "Features: VGG19's with **random weights**: colours and strokes are transferred, the "
        "content only roughly. 'gpuvm data fetch vgg19' brings the trained ones."
    )
