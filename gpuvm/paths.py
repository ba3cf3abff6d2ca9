"""Where gpuvm keeps things on the operator's machine, and where its own shipped files are.

Each of the three roots can be moved by an environment variable, which is how two labs or two tests
stay apart: GPUVM_CONFIG_DIR (contexts), GPUVM_STATE_DIR (keys, host keys, labs), GPUVM_CACHE_DIR
(built programs). Results go to ``runs/`` in the project's folder, or to GPUVM_RUNS_DIR.
"""

import os
import stat
from pathlib import Path

import platformdirs


def config_dir() -> Path:
    return _root("GPUVM_CONFIG_DIR", platformdirs.user_config_path("gpuvm"))


def state_dir() -> Path:
    return _root("GPUVM_STATE_DIR", platformdirs.user_state_path("gpuvm"))


def cache_dir() -> Path:
    return _root("GPUVM_CACHE_DIR", platformdirs.user_cache_path("gpuvm"))


def runs_dir() -> Path:
    return _root("GPUVM_RUNS_DIR", project_dir() / "runs")


def project_dir() -> Path:
    """The nearest folder with a gpuvm.yaml or with records of runs, from the working directory up.

    Without one it is the working directory. The search does not go above the home folder, and what
    anybody may have put into a folder such as /tmp does not count.
    """
    here, home = Path.cwd(), Path.home()
    for folder in (here, *here.parents):
        if _is_project(folder, trusted=folder == here):
            return folder
        if folder == home:
            break
    return here


def _is_project(folder: Path, *, trusted: bool) -> bool:
    try:
        if not trusted and folder.stat().st_mode & stat.S_IWOTH:
            return False
        return (folder / "gpuvm.yaml").is_file() or any((folder / "runs").glob("*/manifest.json"))
    except OSError:  # a folder that this user may not read
        return False


def shown(path: Path) -> str:
    """The path as a reader would type it here: relative to the working directory where shorter."""
    absolute = str(path.absolute())
    relative = os.path.relpath(absolute)
    return relative if len(relative) < len(absolute) else absolute


def _root(variable: str, default: Path) -> Path:
    value = os.environ.get(variable)
    return Path(value).expanduser() if value else default


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
