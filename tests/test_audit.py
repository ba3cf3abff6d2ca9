"""requirements/audit.py tells a list that cannot be read apart from a vulnerability."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "requirements/audit.py"


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def _package(name: str, *known: str, fixed: tuple[str, ...] = ()) -> dict[str, Any]:
    found = [{"id": one, "fix_versions": list(fixed), "aliases": []} for one in known]
    return {"name": name, "version": "1.0", "vulns": found}


def _skipped(name: str) -> dict[str, str]:
    return {"name": name, "skip_reason": "Dependency not found on PyPI"}


def test_without_a_network_it_says_so_and_does_not_fail() -> None:
    nowhere = dict.fromkeys(("https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:1")
    environment = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "requirements/light.txt"],
        env=environment | nowhere,
        cwd=SCRIPT.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    python, go = done.stdout.splitlines()
    assert python.startswith("audit of Python: not done, the package index")
    assert go.startswith("audit of Go: not done, https://vuln.go.dev does not answer")


def test_a_vulnerable_package_fails(audit: Any) -> None:
    report = {"dependencies": [_package("sound"), _package("old", "PYSEC-1", fixed=("1.1",))]}
    verdict = audit.python_verdict(report)
    assert verdict.failed
    assert verdict.text == "old 1.0: PYSEC-1 (fixed in 1.1)"


def test_packages_that_nobody_looked_at_are_not_sound(audit: Any) -> None:
    assert audit.python_verdict({"dependencies": []}).failed
    assert audit.python_verdict({"dependencies": [_skipped("private")]}).failed
    mixed = audit.python_verdict({"dependencies": [_package("sound"), _skipped("private")]})
    assert not mixed.failed
    assert mixed.text == "no known vulnerability in 1 packages; not on the index: private"


def test_what_govulncheck_finds_fails(audit: Any) -> None:
    assert not audit.go_verdict(0, "No vulnerabilities found.", "").failed
    found = audit.go_verdict(1, "Vulnerability #1: GO-2026-1\n", "exit status 3\n")
    assert found.failed
    assert found.text == "Vulnerability #1: GO-2026-1"
    broken = audit.go_verdict(1, "", "govulncheck: loading packages: no\nexit status 1\n")
    assert broken.failed
    assert "loading packages" in broken.text
