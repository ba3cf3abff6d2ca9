"""gpuvm init at servers that are not to be trusted: one line, a remedy, and nothing sent."""

from pathlib import Path

import pytest
from commands import CommandLine
from tls_server import TODAY, YEAR, Issued, issue, recorder

PASSWORD = "the-password-that-must-not-leave"


def _self_signed(folder: Path) -> list[Issued]:
    return [issue(folder, "alone")]


def _expired(folder: Path) -> list[Issued]:
    return [issue(folder, "old", valid=(TODAY - 2 * YEAR, TODAY - YEAR))]


def _plain_http(folder: Path) -> list[Issued]:
    return []


@pytest.mark.parametrize(
    ("shown", "error", "remedy"),
    [
        (_self_signed, "self-signed certificate", "then 'gpuvm init --vcenter"),
        (_expired, "certificate has expired on", "renew the vCenter's certificate"),
        (_plain_http, "there is no TLS at", "check the port"),
    ],
)
def test_nothing_is_sent_or_written(
    shown: object, error: str, remedy: str, gpuvm: CommandLine, tmp_path: Path
) -> None:
    assert callable(shown)
    certificates = shown(tmp_path)
    trust = ["--ca-file", str(certificates[0].file)] if shown is _expired else []
    with recorder(*certificates) as server:
        given = ("init", "--vcenter", server.url, "--user", "alice", *trust)
        done = gpuvm(*given, GPUVM_PASSWORD=PASSWORD)
        received = server.close()
    assert done.exit_code == 1
    first, second = done.stderr.strip().splitlines()
    assert error in first
    assert remedy in second
    assert PASSWORD.encode() not in received
    assert PASSWORD not in done.stdout + done.stderr
    assert not list(gpuvm.home.glob("**/*.yaml"))
