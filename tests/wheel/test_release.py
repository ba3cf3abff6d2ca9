"""A release: built again elsewhere it is the same, byte by byte, and its SBOM has what it needs."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import gpuvm

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.wheel


def _release(checkout: Path, into: Path, umask: int, **environment: str) -> dict[str, bytes]:
    tools = {"BIN": str(Path(sys.executable).parent)}
    subprocess.run(
        [checkout / ".ci/release", into],
        check=True,
        umask=umask,
        env=os.environ | tools | environment,
        cwd=into.parent,
    )
    return {file.name: file.read_bytes() for file in into.iterdir()}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return _release(ROOT, tmp_path_factory.mktemp("first") / "dist", 0o022, TZ="UTC")


def test_another_checkout_gives_the_same_bytes(release: dict[str, bytes], tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    subprocess.run(["git", "clone", "--quiet", ROOT, other], check=True)
    (other / "gpuvm" / "of_no_commit.py").write_text("")
    again = _release(other, tmp_path / "dist", 0o077, TZ="Asia/Tokyo", LC_ALL="C")
    assert set(again) == set(release)
    assert {name for name in release if again[name] != release[name]} == set()


def test_what_a_release_has(release: dict[str, bytes], tmp_path: Path) -> None:
    name = f"gpuvm-{gpuvm.__version__}"
    parts = {f"{name}.tar.gz", f"{name}-py3-none-any.whl", f"{name}.cdx.json"}
    assert set(release) == parts | {"SHA256SUMS"}
    sums = dict(line.split("  ")[::-1] for line in release["SHA256SUMS"].decode().splitlines())
    assert sums == {part: hashlib.sha256(release[part]).hexdigest() for part in parts}
    wheel = tmp_path / "wheel.whl"
    wheel.write_bytes(release[f"{name}-py3-none-any.whl"])
    with zipfile.ZipFile(wheel) as opened:
        files = set(opened.namelist())
    assert {"gpuvm/cli/main.py", "gpuvm/_resources/vcsim/main.go"} <= files
    assert not [file for file in files if "__pycache__" in file or "tests/" in file]


def test_its_sbom(release: dict[str, bytes]) -> None:
    text = release[f"gpuvm-{gpuvm.__version__}.cdx.json"].decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    sbom = json.loads(text)
    about = sbom["metadata"]["component"]
    assert (about["name"], about["version"]) == ("gpuvm", gpuvm.__version__)
    locked = (ROOT / "requirements/runtime.txt").read_text()
    pinned = set(re.findall(r"^([a-z0-9-]+)==(\S+)", locked, re.MULTILINE))
    assert {(one["name"], one["version"]) for one in sbom["components"]} == pinned
    assert {"keyring", "paramiko", "pyvmomi"} <= {name for name, _ in pinned}
    assert all(one["externalReferences"][0]["hashes"] for one in sbom["components"])
