"""Known vulnerabilities of what gpuvm is made of: Python packages by pip-audit, Go by govulncheck.

    python requirements/audit.py requirements/dev.txt    # part of `make check`

Where the list of vulnerabilities cannot be read (no network, a mirror that has none), nothing can
be said: that is one line and no failure. A vulnerability is a failure, and so is a tool that ends
in any other way.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ANSWER_S = 4.0
KNOWN = "jinja2==2.10"
"""An old release with well-known vulnerabilities: an index that has none of them has no list."""
GOVULNCHECK = "golang.org/x/vuln/cmd/govulncheck@v1.9.0"
FOUND = 3
"""The exit status of govulncheck for vulnerabilities."""


@dataclass(frozen=True)
class Verdict:
    text: str
    failed: bool = False


def main() -> None:
    verdicts = {"Python": of_python(Path(sys.argv[1])), "Go": of_go(ROOT / "vcsim")}
    for what, verdict in verdicts.items():
        print(f"audit of {what}: {verdict.text}")
    sys.exit(any(verdict.failed for verdict in verdicts.values()))


def of_python(locked: Path) -> Verdict:
    """Of the locked packages, of this platform or another."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as known:
        known.write(f"{KNOWN}\n")
        known.flush()
        report, problem = _pip_audit(known.name, "--no-deps", "--timeout", f"{ANSWER_S:.0f}")
    if report is None:
        return Verdict(f"not done, the package index does not answer ({problem})")
    if not any(package.get("vulns") for package in report["dependencies"]):
        return Verdict("not done, the package index has no list of vulnerabilities")
    report, problem = _pip_audit(str(locked), "--require-hashes")
    if report is None:
        return Verdict(f"pip-audit failed: {problem}", failed=True)
    return python_verdict(report)


def _pip_audit(requirements: str, *options: str) -> tuple[Any, str]:
    """Its report, or None and the last line that it says instead."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", requirements, "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout), ""
    except ValueError:
        return None, " ".join(done.stderr.strip().splitlines()[-1:])[:200]


def python_verdict(report: Mapping[str, Any]) -> Verdict:
    """What a report of pip-audit's (``--format json``) says."""
    packages = report["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    found = [
        f"{package['name']} {package['version']}: {known['id']}"
        + (f" (fixed in {', '.join(known['fix_versions'])})" if known["fix_versions"] else "")
        for package in packages
        for known in package.get("vulns", ())
    ]
    if found:
        return Verdict("; ".join(found), failed=True)
    if not packages or len(skipped) == len(packages):
        return Verdict("pip-audit looked at none of the packages", failed=True)
    rest = f"; not on the index: {', '.join(skipped)}" if skipped else ""
    return Verdict(f"no known vulnerability in {len(packages) - len(skipped)} packages{rest}")


def of_go(module: Path) -> Verdict:
    """Of the simulated vCenter, where it calls what is vulnerable."""
    database = os.environ.get("GOVULNDB", "https://vuln.go.dev")
    try:
        _answer(f"{database}/index/db.json")
    except (OSError, ValueError) as error:
        return Verdict(f"not done, {database} does not answer ({_short(error)})")
    try:
        done = subprocess.run(
            [_go(), "run", GOVULNCHECK, "./..."],
            cwd=module,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        return Verdict(f"not done, there is no Go toolchain ({_short(error)})")
    return go_verdict(done.returncode, done.stdout, done.stderr)


def go_verdict(status: int, stdout: str, stderr: str) -> Verdict:
    """``go run`` ends with 1 whatever its program ended with, which it prints."""
    if status == 0:
        return Verdict("no known vulnerability is called")
    if f"exit status {FOUND}" in stderr:
        return Verdict(stdout.strip(), failed=True)
    return Verdict(f"govulncheck failed: {' '.join(stderr.split())}", failed=True)


def _go() -> str:
    """Go from PATH, or that of the wheel."""
    from gpuvm.errors import LabError  # noqa: PLC0415 - not needed where there is no answer
    from gpuvm.lab import build  # noqa: PLC0415

    try:
        return str(build.toolchain(build.needed_version(build.SOURCE)).go)
    except LabError as error:
        raise FileNotFoundError(str(error)) from None


def _answer(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:
        return bytes(answer.read())


def _short(error: Exception) -> str:
    return str(getattr(error, "reason", error))


if __name__ == "__main__":
    main()
