"""Finds ``templates/``, ``playbooks/`` and ``workloads/``: the checkout first, the wheel second.

An editable install may otherwise leave a stale copy unseen.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource(relative: str) -> Path:
    """The path of a shipped file or folder, such as ``templates/report.html.j2``.

    Raises FileNotFoundError when neither the checkout nor the wheel has it.
    """
    for root in (_PACKAGE.parent, _PACKAGE / "_resources"):
        if _is_root(root) and (root / relative).exists():
            return root / relative
    raise FileNotFoundError(f"gpuvm's own file {relative} is missing from this installation")


def _is_root(root: Path) -> bool:
    """A site-packages folder may hold somebody else's ``templates``: ask for our own marks."""
    return root.name == "_resources" or (root / "pyproject.toml").exists()
