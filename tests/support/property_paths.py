"""The property paths that gpuvm reads, found in its source.

They are wherever a managed object type and a tuple of names stand side by side.
"""

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyVmomi import VmomiSupport

from gpuvm import vsphere


def asked() -> Iterator[tuple[str, Any, str]]:
    for name, node, loaded in nodes():
        if isinstance(node, ast.Call):
            yield from beside_a_kind(node.args, loaded, name)
        elif isinstance(node, ast.Tuple):
            yield from beside_a_kind(node.elts, loaded, name)


def nodes() -> Iterator[tuple[str, ast.AST, Any]]:
    for module in pkgutil.iter_modules(vsphere.__path__, "gpuvm.vsphere."):
        loaded = importlib.import_module(module.name)
        for node in ast.walk(ast.parse(Path(str(loaded.__file__)).read_text())):
            yield module.name, node, loaded


def beside_a_kind(
    expressions: list[ast.expr], module: Any, name: str
) -> Iterator[tuple[str, Any, str]]:
    values = [known(node, module) for node in expressions]
    kinds = [v for v in values if isinstance(v, type) and issubclass(v, VmomiSupport.ManagedObject)]
    for value in values:
        if len(kinds) == 1 and isinstance(value, tuple) and all(isinstance(v, str) for v in value):
            yield from ((name, kinds[0], path) for path in value)


def known(node: ast.expr, module: Any) -> Any:
    """What the expression is, if it is made of the module's own constants."""
    if isinstance(node, ast.Name | ast.Attribute | ast.Tuple):
        try:
            return eval(compile(ast.Expression(node), "", "eval"), vars(module))  # noqa: S307
        except (AttributeError, NameError, TypeError, ValueError):
            return None
    return None
