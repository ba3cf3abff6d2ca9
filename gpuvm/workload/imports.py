"""What a program imports: everything, and what it cannot do without.

An import inside a function counts as one at the top does: a program that finds out after all its
training that it cannot score would have trained for nothing.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from gpuvm.errors import BadInput

_CATCHES = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
_ASKS = {"TYPE_CHECKING", "sys", "os", "platform"}
"""An ``if`` that asks these decides by where it runs, which cannot be known here."""


def named(file: Path) -> set[str]:
    """Every module, by the first part of its name; raises BadInput with file and line."""
    return {name for node in ast.walk(_parsed(file)) for name in _of(node)}


def needed(file: Path) -> set[str]:
    """Without those that the program says it can do without; raises BadInput."""
    return {name for node in _certain(_parsed(file)) for name in _of(node)}


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise BadInput(f"{file}:{line}: not a Python program: {error}") from None


def _of(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return {node.module.split(".")[0]}
    return set()


def _certain(tree: ast.Module) -> Iterator[ast.AST]:
    """Its nodes, but not those that a missing module or a question decides about."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        todo += _children(node)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Try) and any(map(_catches, node.handlers)):
        yield from (*node.orelse, *node.finalbody)
    elif not (isinstance(node, ast.If) and _asks(node.test)):
        yield from ast.iter_child_nodes(node)


def _catches(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or bool(_names(handler.type) & _CATCHES)


def _asks(test: ast.expr) -> bool:
    return bool(_names(test) & _ASKS)


def _names(expression: ast.expr) -> set[str]:
    found = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
    return found | {n.attr for n in ast.walk(expression) if isinstance(n, ast.Attribute)}
