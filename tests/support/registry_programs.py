"""Programs of others, from a package registry, for tests that are marked `engines`."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROVIDER = "github.com/hashicorp/terraform-provider-vsphere@v1.26.0"
"""The newest release of Terraform's vSphere provider that is a Go module under its own name."""


def environment_with(folder: Path, *packages: str) -> str:
    """A virtual environment with these packages from PyPI; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin/python")
    pip(python, "install", *packages)
    return python


def pip(python: str, *arguments: str) -> None:
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


def vsphere_provider(target: Path) -> Path:
    """Builds it from its own sources and its own go.sum; takes minutes the first time."""
    fetched = subprocess.run(
        ["go", "mod", "download", "-json", PROVIDER],
        cwd=target.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    subprocess.run(
        ["go", "build", "-o", str(target), "."],
        cwd=json.loads(fetched.stdout)["Dir"],
        env={**os.environ, "GOFLAGS": "-mod=readonly -buildvcs=false", "GOWORK": "off"},
        check=True,
    )
    return target
