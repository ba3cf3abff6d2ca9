"""Prints results on stdout, as text or as one JSON envelope, and errors on stderr.

The envelope is ``{"schema", "command", "status", "exit_code", "vcenter", "data", "errors"}``,
documented in docs/json-output.md.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Group

from gpuvm.cli import console, hints, tables
from gpuvm.cli.console import cell, continued, text
from gpuvm.cli.tables import Prose
from gpuvm.errors import (
    BadInput,
    ExitCode,
    GpuvmError,
    Interrupted,
    Mistakes,
    SeveralRefused,
    TaskFailed,
    Unplaceable,
    WorkerDied,
)
from gpuvm.text import printable

SCHEMA = 1

stdout, stderr = console.stdout, console.stderr

MOST_ROWS = 50
"""Of the table under an error."""


@dataclass
class State:
    json: bool = False
    debug: bool = False
    command: str = ""
    vcenter: str | None = None
    """Set as soon as it is known, for the JSON envelope."""
    typed: typer.Context | None = None
    """The command as it was typed: what it was given goes into the commands that hints name."""
    context: str | None = None
    """The context that the command works on, once it is known."""
    default_context: str | None = None
    """The one that a command works on which is given none."""
    if_it_fails: str = ""
    """The next step then, unless the error has a hint or was in what was typed."""


_running = State()


def command_words(context: Any) -> list[str]:
    """Return the words after the program's name, such as ``lab up``."""
    if context.parent is None:
        return []
    return [*command_words(context.parent), context.info_name]


@dataclass(frozen=True)
class Result:
    """``data`` can be serialised to JSON; ``errors`` are those of single VMs."""

    command: str
    data: dict[str, Any]
    exit_code: ExitCode = ExitCode.DONE
    errors: tuple[GpuvmError, ...] = ()
    next_step: str = ""
    """What to type next; ``next`` in ``data``."""


def finish(ctx: typer.Context, result: Result) -> None:
    """Print the envelope with --json; exit with the result's exit code if it is not 0."""
    state = ctx.ensure_object(State)
    if state.json:
        _envelope(result, state)
    else:
        _print_errors(result.errors)
        if result.next_step:
            line(f"next: {result.next_step}")
    if result.exit_code is not ExitCode.DONE:
        raise typer.Exit(result.exit_code)


def declined(ctx: typer.Context, command: str) -> None:
    """End a command after the user answered no."""
    if not ctx.ensure_object(State).json:
        line("nothing was changed")
    finish(ctx, Result(command, {"changed": False}))


def error(problem: GpuvmError, state: State) -> None:
    """Print an error that ended a command, or several mistakes or refusals."""
    problems = problem.errors if isinstance(problem, (Mistakes, SeveralRefused)) else (problem,)
    nothing_done = isinstance(problem, BadInput) or any(one.hint for one in problems)
    next_step = "" if nothing_done else state.if_it_fails
    if state.json:
        _envelope(Result("", {}, problem.exit_code, problems, next_step), state)
        return
    _print_errors(problems)
    if next_step:
        _say("next:", "dim", next_step)


def line(message: str) -> None:
    """Print one line of plain text, with control characters escaped."""
    stdout.print(continued(completed(message)))


def styled(*parts: str | tuple[str, str]) -> None:
    """Print a line of plain parts, and of pairs of a part and its style."""
    stdout.print(text(*parts))


def marked(mark: tuple[str, str], message: str, hint: str | None) -> None:
    """Print a line after a coloured mark, and the hint below it."""
    stdout.print(text(mark, f" {continued(message, by=5)}"))
    if hint:
        stdout.print(text((f"     {continued(completed(hint), by=5)}", "dim")))


def note(message: str) -> None:
    """Print a line beside the output, such as why nothing happens yet."""
    stderr.print(text((continued(completed(message)), "dim")))


def warn(message: str) -> None:
    _say("warning:", "yellow", message)


def data(content: str) -> None:
    """Write a document to standard output as it is: whoever made it has escaped what is in it."""
    sys.stdout.write(content)
    sys.stdout.flush()


def completed(text: str) -> str:
    """With the commands that it names as they must be typed (gpuvm.cli.hints)."""
    return hints.complete(text, _running.typed, _running.context, _running.default_context)


def begin_on(state: State, context: str, default: str | None) -> None:
    """Called once the vCenter is known: commands in hints name it unless they find it anyway."""
    state.context, state.default_context = context, default


def begin(state: State) -> None:
    """Called as soon as the command is known: messages are about it from now on."""
    global _running  # noqa: PLW0603 - a process runs one command; messages come from its threads too
    _running = state


def table(
    columns: Sequence[str], rows: tables.Rows, *, styles: Mapping[int, str] | None = None
) -> None:
    """Print a table on stdout that fits the terminal; the cells are plain text.

    Headings are tables.Prose for text that may be folded, tables.Number, or plain for names.
    """
    stdout.print(_table(columns, rows, stdout.width, styles))


def _table(
    columns: Sequence[str],
    rows: tables.Rows,
    width: int,
    styles: Mapping[int, str] | None = None,
) -> Group:
    return Group(*tables.draw(columns, rows, width, styles))


def _print_errors(problems: Sequence[GpuvmError]) -> None:
    """A hint that is the same for several, such as all VMs, is printed once, below them."""
    for number, problem in enumerate(problems, 1):
        _print_error(problem)
        below = problems[number].hint if number < len(problems) else None
        if problem.hint and problem.hint != below:
            _say("hint:", "dim", problem.hint)


def _print_error(problem: GpuvmError) -> None:
    _say("error:", "bold red", str(problem))
    if isinstance(problem, Unplaceable) and problem.table:
        columns = ("HOST", "GPU", Prose("MODEL"), Prose("STATE"))
        stderr.print(_table(columns, problem.table[:MOST_ROWS], stderr.width))
        if len(problem.table) > MOST_ROWS:
            more = f"and {len(problem.table) - MOST_ROWS} more: 'gpuvm gpus' lists them all"
            stderr.print(completed(more))
    if isinstance(problem, WorkerDied):
        for last in problem.tail:
            tail = continued(printable(last))
            stderr.print(text((f"  {cell(problem.vm)} |", "dim"), f" {tail}"))


def _say(what: str, style: str, message: str) -> None:
    stderr.print(text((what, style), f" {continued(completed(message))}"))


def _envelope(result: Result, state: State) -> None:
    envelope = {
        "schema": SCHEMA,
        "command": result.command or state.command,
        "status": _status(result.exit_code),
        "exit_code": int(result.exit_code),
        "vcenter": state.vcenter,
        "data": _hints_completed(
            result.data | ({"next": result.next_step} if result.next_step else {})
        ),
        "errors": [_error_json(one) for one in result.errors],
    }
    sys.stdout.write(json.dumps(envelope, indent=2, default=str) + "\n")
    sys.stdout.flush()


def _hints_completed(data: Any) -> Any:
    """Only where a hint is: other texts are those of guests and of the vCenter."""
    if isinstance(data, dict):
        return {
            key: completed(value)
            if key in ("hint", "next") and isinstance(value, str)
            else _hints_completed(value)
            for key, value in data.items()
        }
    return [_hints_completed(one) for one in data] if isinstance(data, (list, tuple)) else data


def _status(code: ExitCode) -> str:
    if code in (ExitCode.DONE, ExitCode.CHANGES_PENDING):
        return "success"
    return "partial" if code is ExitCode.PARTLY_DONE else "error"


def _error_json(problem: GpuvmError) -> dict[str, Any]:
    data: dict[str, Any] = {
        "type": type(problem).__name__,
        "message": completed(str(problem)),
        "hint": problem.hint and completed(problem.hint),
    }
    if isinstance(problem, TaskFailed):
        data |= {"fault": problem.fault, "messages": problem.messages, "vm": problem.vm}
    if isinstance(problem, Unplaceable):
        data["gpus"] = [
            dict(zip(("host", "pci_address", "model", "state"), row, strict=True))
            for row in problem.table
        ]
    if isinstance(problem, WorkerDied):
        data |= {"vm": problem.vm, "exit_status": problem.exit_status, "tail": problem.tail}
    if isinstance(problem, Interrupted):
        data["left"] = problem.left
    return data
