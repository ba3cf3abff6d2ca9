"""A command that a message names is safe to type as it stands: it works on the same target."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import gpuvm
from gpuvm import settings
from gpuvm.cli import hints, main, output
from gpuvm.cli.output import State
from gpuvm.errors import GpuvmError, PreflightRefused, SeveralRefused
from gpuvm.settings import Context

PACKAGE = Path(gpuvm.__file__).parent
VALUES = {"verb": "enable"}
"""What a message puts into a command by that name; anything else becomes a number."""
SPEC = "my specs/cpu.yaml"
TARGET = {"--context": "other", "--file": SPEC, "--name": "cpu"}
EXAMPLES = {"data/catalogue.py", "cli/demo.py", "export.py"}
"""Files with commands that are examples or comments in other tools' files."""


def parsed(*words: str) -> typer.Context:
    """The context of the command after the real parser has read the words."""
    root: Any = typer.main.get_command(main.app)
    context = root.make_context("gpuvm", list(words))
    name, command, rest = root.resolve_command(context, list(words))
    while True:
        context = command.make_context(name, rest, parent=context)
        below = [*context._protected_args, *context.args]
        if not hasattr(command, "resolve_command") or not below:
            return context  # type: ignore[no-any-return]
        name, command, rest = command.resolve_command(context, below)


def target(context: typer.Context) -> dict[str, str]:
    """By long option: which vCenter, file and deployment."""
    found = {}
    for parameter in context.command.params:
        for option in TARGET.keys() & set(parameter.opts):
            value = context.params[str(parameter.name)]
            if option != "--name" or "context" in context.params:
                found[option] = None if value is None else str(value)
    return found  # type: ignore[return-value]


def _docstrings(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (one.value for one in node.body if isinstance(one, ast.Expr))
        if isinstance(node, ast.keyword) and node.arg == "help":
            yield node.value


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.JoinedStr)
    parts = []
    for part in node.values:
        if isinstance(part, ast.FormattedValue):
            parts.append(VALUES.get(ast.unparse(part.value), "1"))
        else:
            parts.append(_text(part))
    return "".join(parts)


def messages() -> Iterator[tuple[str, str]]:
    """Every string of the sources that names a command, but for docstrings and --help."""
    known = "|".join(main.COMMANDS)
    for file in sorted(PACKAGE.rglob("*.py")):
        where = str(file.relative_to(PACKAGE))
        if where in EXAMPLES:
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        skipped = {id(below) for one in _docstrings(tree) for below in ast.walk(one)}
        for node in ast.walk(tree):
            if id(node) in skipped or not isinstance(node, ast.Constant | ast.JoinedStr):
                continue
            if isinstance(node, ast.JoinedStr):
                skipped |= {id(below) for below in ast.walk(node)}
            text = _text(node)
            if re.search(rf"\bgpuvm ({known})\b", text) and "[bold]Example" not in text:
                yield f"{where}:{getattr(node, 'lineno', 0)}", text


MESSAGES = list(messages())
SHOWS_HELP = {"passthrough", "run --help"}
NAMED = sorted(
    {command for _, text in MESSAGES for command in hints.NAMED.findall(text)} - SHOWS_HELP
)


def test_messages_were_found() -> None:
    assert len(NAMED) > 30
    assert "teardown" in NAMED


@pytest.mark.parametrize(("where", "text"), MESSAGES, ids=[where for where, _ in MESSAGES])
def test_a_command_stands_in_quotes(where: str, text: str) -> None:
    """Without them it is not completed, and nobody can see where it ends."""
    known = "|".join(main.COMMANDS)
    assert not re.search(
        rf"\bgpuvm ({known})\b", hints.NAMED.sub("", text).replace("gpuvm lab:", "")
    )


@pytest.fixture
def contexts(tmp_path: Path) -> None:
    for name in ("other", "lab"):
        settings.save(Context(name=name, vcenter="vc.example", user="a"))
    assert settings.current() == "lab"


def typed_commands() -> Iterator[list[str]]:
    """Each command that has a target, with all of it typed."""
    needed = {
        "attach": ["1"],
        "logs": ["1"],
        "fetch": ["1"],
        "cancel": ["1"],
        "ssh": ["1"],
        "forward": ["1", "2"],
        "cp": ["1", "2"],
        "exec": ["1"],
        "export": ["ssh"],
        "caption": ["1"],
        "run": ["mnist"],
    }
    for name in main.COMMANDS:
        command = main._load(name)
        options = {opt for parameter in command.params for opt in parameter.opts}
        if "--context" in options:
            given = [
                word for one, value in TARGET.items() if one in options for word in (one, value)
            ]
            yield [name, *given, *needed.get(name, [])]
    yield ["passthrough", "enable", "--context", "other", "--file", SPEC, "1"]


@pytest.mark.parametrize("words", list(typed_commands()), ids=lambda words: " ".join(words[:2]))
def test_every_hint_has_the_target_of_the_command_that_shows_it(
    words: list[str], contexts: None
) -> None:
    typed = parsed(*words)
    for command in NAMED:
        shown = hints.complete(f"do '{command_line(command)}' then", typed)
        (completed,) = hints.NAMED.findall(shown)
        named = parsed(*shlex.split(completed))
        meant = target(typed)
        own = target(parsed(*shlex.split(command)))
        for option, value in target(named).items():
            assert value == (own[option] or meant.get(option)), (shown, option)
        for consent in ("--yes", "-y"):
            assert consent not in completed


def command_line(command: str) -> str:
    return f"gpuvm {command}"


def test_a_command_that_names_itself_is_repeated(contexts: None) -> None:
    typed = parsed("stop", "-c", "other", "gpuvm-02", "--now", "--yes")
    said = hints.complete("run 'gpuvm stop' again, or 'gpuvm teardown'", typed)
    assert said == ("run 'gpuvm stop -c other --now gpuvm-02' again, or 'gpuvm teardown -c other'")


def test_what_the_hint_says_itself_is_not_said_twice(contexts: None) -> None:
    typed = parsed("plan", "--hosts", "4", "--accelerator", "none", "--name", "cpu")
    assert hints.complete("'gpuvm provision --hosts 2'", typed) == (
        "'gpuvm provision --accelerator none --name cpu --hosts 2'"
    )


def test_an_option_of_the_same_name_may_be_another_one(contexts: None) -> None:
    typed = parsed("provision", "--name", "cpu", "-c", "other")
    assert hints.complete("'gpuvm lab up', 'gpuvm logs run1', 'gpuvm report'", typed) == (
        "'gpuvm lab up', 'gpuvm logs -c other --name cpu run1', 'gpuvm report'"
    )
    named = parsed("lab", "status", "--name", "big")
    assert hints.complete("'gpuvm lab up'; 'gpuvm status'", named) == (
        "'gpuvm lab up --name big'; 'gpuvm status'"
    )


def test_logs_has_another_f(contexts: None) -> None:
    typed = parsed("status", "-f", "a.yaml")
    shown = hints.complete("'gpuvm logs run1' or 'gpuvm stop'", typed)
    assert shown == "'gpuvm logs --file a.yaml run1' or 'gpuvm stop -f a.yaml'"


@pytest.mark.parametrize(
    ("variable", "works_on", "hint"),
    [
        (None, "lab", "'gpuvm teardown'"),
        (None, "other", "'gpuvm teardown -c other'"),
        ("other", "other", "'gpuvm teardown -c other'"),
        ("lab", "lab", "'gpuvm teardown'"),
        ("other", "lab", "'gpuvm teardown -c lab'"),
    ],
)
def test_the_context_is_named_unless_a_plain_command_finds_it(
    variable: str | None,
    works_on: str,
    hint: str,
    contexts: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In this shell and in the next one, which may not have the variable."""
    if variable is not None:
        monkeypatch.setenv("GPUVM_CONTEXT", variable)
    assert hints.complete("'gpuvm teardown'", parsed("provision"), works_on) == hint


def test_the_next_step_after_a_failure_is_for_errors_without_a_hint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = State(if_it_fails="'gpuvm doctor' shows what stands in the way")
    output.error(GpuvmError("it failed"), state)
    assert "next: 'gpuvm doctor'" in capsys.readouterr().err
    output.error(GpuvmError("it failed", hint="do that"), state)
    assert "next:" not in capsys.readouterr().err
    output.error(GpuvmError("it failed"), State(json=True, if_it_fails="'gpuvm doctor'"))
    assert json.loads(capsys.readouterr().out)["data"] == {"next": "'gpuvm doctor'"}


def test_a_hint_for_several_errors_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    both = [PreflightRefused(f"vm-{n} differs", hint="teardown") for n in (1, 2)]
    output.error(SeveralRefused([*both, PreflightRefused("full", hint="wait")]), State())
    assert capsys.readouterr().err.splitlines() == [
        "error: vm-1 differs",
        "error: vm-2 differs",
        "hint: teardown",
        "error: full",
        "hint: wait",
    ]
