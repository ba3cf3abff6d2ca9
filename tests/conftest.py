"""Fixtures of all tests, and ``--light``.

Nothing of the operator's own machine is read or written by a test.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulated_vcenter import QUICK, Rig, rig_of

from gpuvm import paths, variables
from gpuvm.lab import build
from gpuvm.lab.description import VMDescription, describe

NEED_THE_LAB_EXTRA = {"engines", "guest", "lab", "runs", "wheel", "workloads"}
"""Folders whose tests need what only the extra ``lab`` installs, or install it themselves."""


def pytest_configure() -> None:
    """Programs are built into the operator's own cache: a second test run builds nothing.

    The operator's own keyring is not asked.
    """
    os.environ["GPUVM_CACHE_DIR"] = str(paths.cache_dir())
    os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--light",
        action="store_true",
        help="only the tests that need no simulator, no SSH server and no TensorFlow",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    here = Path(__file__).parent
    heavy = collection_path.parent == here and collection_path.name in NEED_THE_LAB_EXTRA
    return True if config.getoption("light") and heavy else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("light"):
        return
    heavy = {item for item in items if _is_heavy(item)}
    config.hook.pytest_deselected(items=list(heavy))
    items[:] = [item for item in items if item not in heavy]


def _is_heavy(item: pytest.Item) -> bool:
    needs_simulator = isinstance(item, pytest.Function) and "simulator" in item.fixturenames
    return needs_simulator or item.get_closest_marker("tensorflow") is not None


@pytest.fixture(scope="session")
def simulator() -> None:
    """The simulated vCenter's program is built. Every fixture that starts one asks for this one."""
    build.vcsim_binary()


@pytest.fixture(scope="session", autouse=True)
def sigint_is_delivered() -> None:
    """A shell starts its background jobs with SIGINT ignored, and every process inherits that.

    A test that interrupts itself or a command would then wait forever.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_directories(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contexts, state and runs of the test's own; a test with a ``rig`` has those of its home."""
    with_home = "home" in request.fixturenames
    folder: Path = request.getfixturevalue("home") if with_home else tmp_path
    for name in ("CONFIG", "STATE"):
        monkeypatch.setenv(f"GPUVM_{name}_DIR", str(folder / name.lower()))
    monkeypatch.setenv("GPUVM_RUNS_DIR", str(tmp_path / "runs"))
    for name in ("GPUVM_CONTEXT", "GPUVM_PASSWORD", "SSH_AUTH_SOCK", *variables.NAMES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, simulator: None) -> Iterator[Path]:
    """Where the module's simulated vCenters have their contexts and their state."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPUVM_CONFIG_DIR", str(folder / "config"))
        patch.setenv("GPUVM_STATE_DIR", str(folder / "state"))
        yield folder


@pytest.fixture(scope="module")
def rig(home: Path) -> Iterator[Rig]:
    """A simulated vCenter with two unrelated VMs that hold a GPU, and quick operations."""
    held = (
        VMDescription(name="trainer", host="esx-05.lab.local", gpu="0000:3b:00.0"),
        VMDescription(name="sleeper", power="off", host="esx-06.lab.local", gpu="0000:3b:00.0"),
    )
    shape = describe(hosts=6).model_copy(update={"vms": held, "timings": QUICK})
    with rig_of(home, "vsphere", shape) as made:
        yield made
