"""What a guest or a vCenter says is printed as data: as it is, without control characters."""

import functools
import io
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence

import pytest
import untrusted
from typer.testing import CliRunner

from gpuvm import runs
from gpuvm.cli import guest_output, main, output, progress
from gpuvm.cli.console import PlainConsole
from gpuvm.errors import (
    CommandFailed,
    GpuvmError,
    NotFound,
    NotReady,
    PoweredOff,
    TaskFailed,
    Unplaceable,
    WorkerDied,
)
from gpuvm.events import Events
from gpuvm.text import LONGEST_WORD, typed_word

OWN_OF_RICH = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
"""Colours and cursor movements of the progress bars."""


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., io.StringIO]:
    """Replaces the consoles and streams; what the caller then prints is in the returned buffer."""

    def replaced(*, terminal: bool = False) -> io.StringIO:
        out = io.StringIO()
        console = PlainConsole(file=out, force_terminal=terminal, width=200)
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(output, name, console)
            monkeypatch.setattr(f"sys.{name}", out)
        return out

    return replaced


def printers(name: str) -> Iterator[Callable[[], object]]:
    """Each way to the terminal, with ``name`` wherever a foreign text may stand."""
    yield lambda: output.line(f"made {name} on {name}")
    yield lambda: output.warn(name)
    yield lambda: output.marked(("ok", "green"), f"{name}: {name}", f"remove {name}")
    yield lambda: output.table(("VM", name), [(name, "x"), ("y", name)])
    for error in errors(name):
        yield functools.partial(output.error, error, output.State())
    yield lambda: guest_output.show_line(f"{name}: ", name)
    yield lambda: guest_output.show_line(f"{name}: ", name, stderr=True)


def errors(name: str) -> Sequence[GpuvmError]:
    return (
        GpuvmError(name, hint=f"'gpuvm start {typed_word(name)}'"),
        NotFound("VM", name, [name, "other"]),
        TaskFailed("power on", name, name, [name, "", name], hint=None),
        PoweredOff(name, "its address", name, [name]),
        CommandFailed(name, name, 1, name),
        NotReady(name, "SSH", name, hint=name),
        WorkerDied(name, 1, [name, name]),
        Unplaceable(name, table=[(name, name, name, name)], hint=name),
    )


def check(shown: str, *, terminal: bool = False) -> None:
    if terminal:
        assert not [one for one in ("\x1b]", "\x1bP", "\x1bc", "\x1b[2J", "\x1b[H") if one in shown]
        shown = OWN_OF_RICH.sub("", shown)
    assert untrusted.unprintable(shown) == set()
    shown.encode("utf-8")


Printed = Callable[..., io.StringIO]


@pytest.mark.parametrize("examples", untrusted.EXAMPLES)
def test_every_printer(printed: Printed, examples: int) -> None:
    def check_each(name: str) -> None:
        for number, print_it in enumerate(printers(name)):
            out = printed()
            print_it()
            check(out.getvalue())
            if number < 4:  # an error can have several names, and a program's line may be long
                assert untrusted.longest_word(out.getvalue()) <= LONGEST_WORD + 20

    untrusted.tried(examples, check_each, untrusted.names)


@pytest.mark.parametrize("name", untrusted.MARKUP)
def test_names_are_shown_as_they_are(printed: Printed, name: str) -> None:
    for print_it in printers(name):
        out = printed()
        print_it()
        assert name in out.getvalue()


def test_a_foreign_text_begins_no_line(printed: Printed) -> None:
    """It could be taken for a line of gpuvm's own."""
    for print_it in printers("x\nhint: forged"):
        out = printed()
        print_it()
        assert "hint: forged" in out.getvalue()
        assert not re.search("^hint: forged", out.getvalue(), re.MULTILINE)


@pytest.mark.parametrize("examples", untrusted.EXAMPLES)
@pytest.mark.parametrize("terminal", [False, True])
def test_progress(printed: Printed, terminal: bool, examples: int) -> None:
    def check_both(name: str, text: str) -> None:
        out = printed(terminal=terminal)
        events = Events()
        with progress.shown(events, output.State()):
            events.progress(name, "clone", 0.5, text)
            events.note(text, name)
            events.warning(text, name)
        check(out.getvalue(), terminal=terminal)
        out = printed(terminal=terminal)
        with progress.RunWatch(events, output.State(), []) as watch:
            watch.step(runs.Progress(name, text, step=1, steps=2, text=text))
            watch.output(name, False, text)
            events.note(text, name)
            for step in range(5):
                events.progress(name, "push_inputs", step / 4, text)
        check(out.getvalue(), terminal=terminal)

    untrusted.tried(examples, check_both, untrusted.names, untrusted.names)


@pytest.mark.parametrize("examples", untrusted.EXAMPLES)
def test_json_says_what_was_said(printed: Printed, examples: int) -> None:
    def check_json(name: str) -> None:
        for error in errors(name):
            out = printed()
            output.error(error, output.State(json=True))
            assert out.getvalue().isascii()
            assert json.loads(out.getvalue())["errors"][0]["message"] == str(error)

    untrusted.tried(examples, check_json, untrusted.names)


@pytest.mark.parametrize("examples", untrusted.EXAMPLES)
def test_a_name_in_a_command_to_type_is_one_word(examples: int) -> None:
    def check_word(name: str) -> None:
        word = name.encode("utf-8", "ignore").replace(b"\0", b"").decode()
        typed = subprocess.run(
            ["bash", "-c", f"printf %s {typed_word(word)}"], capture_output=True, check=True
        )
        assert typed.stdout.decode() == word

    untrusted.tried(examples, check_word, untrusted.names)


@pytest.mark.parametrize("examples", untrusted.EXAMPLES)
def test_usage_errors_too(examples: int) -> None:
    """A shell completes names of files, which somebody else may have chosen."""

    def check_usage(name: str) -> None:
        for line in ([name], ["plan", f"--{name}"], ["plan", name], ["stop", "--name", name]):
            check(CliRunner().invoke(main.app, line).output, terminal=True)

    untrusted.tried(examples, check_usage, untrusted.names)
