"""Completes the commands that a message names, so that they are safe to type as they stand.

A message names a command in single quotes and in its short form: ``'gpuvm teardown'``. What the
running command was told about its target is added here, in one place, before the message is shown:
``gpuvm provision -c other --name cpu`` says ``'gpuvm teardown -c other --name cpu'``.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

import typer

from gpuvm.text import typed_word

NAMED = re.compile(r"'gpuvm ([a-z][^']*)'")
"""A command as messages name it."""
_CARRIED = {
    "--file",
    "--name",
    "--cluster",
    "--hosts",
    "--per-host",
    "--accelerator",
    "--placement",
    "--clone-mode",
    "--template",
    "--datastore",
    "--network",
    "--scale-down",
}
"""Beside ``--context``: what says which VMs are meant, and what they should be."""
_NEVER = {"--context", "--yes", "--wait", "--json", "--debug"}
"""Not repeated with the command that was typed: no hint may take a question away."""


def complete(
    text: str,
    typed: typer.Context | None,
    target: str | None = None,
    default: str | None = None,
) -> str:
    """Return ``text`` with the options of the ``typed`` command added to the commands it names.

    A named command gets the context, and the options that say which VMs are meant, where it has
    them too. The command that was typed, named without options or arguments, is repeated with what
    it was given, but for ``--yes``. ``target`` is the context that it works on,
    and ``default`` the one of a command that is given none.
    """
    if typed is None or NAMED.search(text) is None:
        return text
    return NAMED.sub(lambda found: f"'gpuvm {_completed(found[1], typed, target, default)}'", text)


def _completed(command: str, typed: typer.Context, target: str | None, default: str | None) -> str:
    try:
        words = shlex.split(command)
        named, path = _find(words, typed.find_root())
    except ValueError:  # a quote that is not closed
        return command
    if named is None:
        return command
    head, rest = " ".join(path), words[len(path) :]
    own = {word.partition("=")[0] for word in rest}
    same = not rest and path == _path(typed)
    added: list[str] = []
    for parameter, value in _given(typed):
        twin = _repeated(parameter) if same else _twin(parameter, named)
        if twin is not None and not own.intersection(twin.opts):
            added += _as_typed(twin, value, named)
    context = _option("--context", named)
    if context is not None and not own.intersection(context.opts):
        name = _context_to_name(typed, target, default)
        if name is not None:
            added = [*_as_typed(context, name, named), *added]
    return " ".join([head, *map(typed_word, added)]) + command[len(head) :]


def _find(words: Sequence[str], root: Any) -> tuple[Any, list[str]]:
    """The command that the words name, and which of them are its name; None for no command."""
    group: Any = root.command
    if not words or group.get_command(root, words[0]) is None:
        return None, []
    _, command, _ = group.resolve_command(root, [words[0]])
    path = [words[0]]
    for word in words[1:]:
        below = command.get_command(root, word) if hasattr(command, "get_command") else None
        if below is None:
            break
        command = below
        path.append(word)
    return command, path


def _path(context: Any) -> list[str]:
    if context.parent is None:
        return []
    return [*_path(context.parent), str(context.info_name)]


def _given(typed: typer.Context) -> Iterator[tuple[Any, Any]]:
    """What stood on the command line, the options before the arguments."""
    parameters = sorted(typed.command.params, key=_is_argument)
    for parameter in parameters:
        name = str(parameter.name)
        source = typed.get_parameter_source(name)
        if (
            source is not None
            and source.name == "COMMANDLINE"
            and typed.params.get(name) is not None
        ):
            yield parameter, typed.params[name]


def _repeated(parameter: Any) -> Any | None:
    return None if _NEVER.intersection(parameter.opts) else parameter


def _twin(parameter: Any, named: Any) -> Any | None:
    """The same option of the other command: ``--name`` of a lab is not that of a deployment."""
    if not _CARRIED.intersection(parameter.opts):
        return None
    alike = (other for other in named.params if other.opts == parameter.opts)
    return next((other for other in alike if other.help == parameter.help), None)


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _option(name: str, command: Any) -> Any | None:
    return next((one for one in command.params if name in one.opts), None)


def _context_to_name(typed: typer.Context, target: str | None, default: str | None) -> str | None:
    """None where a plain command finds the context by itself."""
    from gpuvm import settings  # noqa: PLC0415 - not needed for --help

    if typed.params.get("context"):
        return str(typed.params["context"])
    from_environment = settings.Environment().context
    meant = target or from_environment
    if meant is None:
        return None
    if meant == (from_environment or meant) == (default or settings.default_name()):
        return None
    return meant


def _as_typed(parameter: Any, value: Any, command: Any) -> list[str]:
    if isinstance(value, (list, tuple)):
        return [word for one in value for word in _as_typed(parameter, one, command)]
    text = str(value.value if isinstance(value, Enum) else value)
    if _is_argument(parameter):
        return [text]
    if isinstance(value, bool):
        return [(parameter.opts if value else parameter.secondary_opts or [""])[0]]
    taken = {opt for one in command.params if one.opts != parameter.opts for opt in one.opts}
    return [min((opt for opt in parameter.opts if opt not in taken), key=len), text]
