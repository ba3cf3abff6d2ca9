"""gpuvm init against a vCenter whose certificate nothing on this machine vouches for."""

from pathlib import Path

import pytest
import yaml
from commands import CommandLine
from terminal import Terminal

from gpuvm.vsphere.session import fingerprint, peer_certificate


class Site:
    """The lab's vCenter, as one who knows its address and an account."""

    def __init__(self, lab: CommandLine) -> None:
        (file,) = lab.home.glob("**/contexts/lab.yaml")
        context = yaml.safe_load(file.read_text())
        self.url, self.user = context["vcenter"], context["user"]
        self.ca_file = context["tls"]["ca_file"]
        self.password = next(lab.home.glob("**/labs/lab/password")).read_text().strip()
        host, port = self.url.split("/")[2].split(":")
        self.sha256 = fingerprint(peer_certificate(host, int(port)))
        self.name = host


@pytest.fixture(scope="module")
def site(lab: CommandLine) -> Site:
    return Site(lab)


def saved(gpuvm: CommandLine, name: str) -> dict[str, object]:
    (file,) = gpuvm.home.glob(f"**/contexts/{name}.yaml")
    return dict(yaml.safe_load(file.read_text()))


def test_the_certificate_is_shown_and_pinned_and_a_wrong_password_asked_again(
    site: Site, gpuvm: CommandLine
) -> None:
    with Terminal(gpuvm, "init") as terminal:
        terminal.read_until("vCenter host")
        terminal.press(site.url.encode() + b"\n")
        terminal.read_until("User")
        terminal.press(site.user.encode() + b"\n")
        shown = terminal.read_until("Trust exactly this certificate?")
        assert f"SHA-256    {site.sha256}" in shown
        assert "issued by" in shown
        assert site.name in shown
        assert "Password" not in shown, "the server is trusted before a password is asked for"
        terminal.press(b"y\n")
        assert f"--sha256 {site.sha256}" in terminal.read_until("Password for")
        terminal.press(b"wrong\n")
        terminal.read_until("(attempt 1 of 3)")
        terminal.read_until(f"User [{site.user}]")
        terminal.press(b"\n")
        terminal.read_until("Password for")
        terminal.press(site.password.encode() + b"\n")
        terminal.read_until("written to")
        assert terminal.exit_code() == 0
    assert saved(gpuvm, site.name)["tls"] == {"verify": "sha256", "sha256": site.sha256}


def test_three_wrong_passwords_are_enough(site: Site, gpuvm: CommandLine) -> None:
    arguments = ("--vcenter", site.url, "--user", site.user, "--ca-file", site.ca_file)
    with Terminal(gpuvm, "init", *arguments) as terminal:
        for _ in range(3):
            terminal.read_until("Password for")
            terminal.press(b"wrong\n")
        said = terminal.read_until("hint:")
        assert "the password is from the prompt" in said
        assert terminal.exit_code() == 1
    assert not list(gpuvm.home.glob("**/contexts/*.yaml"))


def test_a_certificate_that_is_not_trusted_ends_it(site: Site, gpuvm: CommandLine) -> None:
    with Terminal(gpuvm, "init", "--vcenter", site.url, "--user", site.user) as terminal:
        terminal.read_until("Trust exactly this certificate?")
        terminal.press(b"n\n")
        assert "Password" not in terminal.read_until("is not trusted")
        assert terminal.exit_code() == 1
    assert not list(gpuvm.home.glob("**/contexts/*.yaml"))


def test_a_script_is_told_what_to_pin(site: Site, gpuvm: CommandLine) -> None:
    given = ("init", "--vcenter", site.url, "--user", site.user)
    refused = gpuvm(*given, GPUVM_PASSWORD=site.password)
    assert refused.exit_code == 1
    hint = f"gpuvm init --vcenter {site.url} --user {site.user} --sha256 {site.sha256} --name"
    assert hint.removesuffix(" --name") in refused.stderr
    done = gpuvm(*given, "--sha256", site.sha256, GPUVM_PASSWORD=site.password)
    assert done.exit_code == 0, done.stderr


def test_the_switch_of_the_current_context_is_said(site: Site, gpuvm: CommandLine) -> None:
    given = ("init", "--vcenter", site.url, "--user", site.user, "--ca-file", site.ca_file)
    first = gpuvm(*given, "--name", "first", GPUVM_PASSWORD=site.password)
    assert "no longer" not in first.stdout
    second = gpuvm(*given, "--name", "second", GPUVM_PASSWORD=site.password)
    assert "commands now use 'second', no longer 'first'" in second.stdout
    assert "'gpuvm context use first'" in second.stdout
    elsewhere = gpuvm(
        *given, "--name", "third", GPUVM_PASSWORD=site.password, GPUVM_CONTEXT="first"
    )
    assert "next: 'gpuvm doctor -c third'" in elsewhere.stdout


def test_variables_of_govc_are_defaults(site: Site, gpuvm: CommandLine, tmp_path: Path) -> None:
    variables = {
        "GOVC_URL": site.url,
        "GOVC_USERNAME": site.user,
        "GOVC_PASSWORD": site.password,
        "GOVC_TLS_CA_CERTS": site.ca_file,
    }
    unconfigured = gpuvm("status", **variables)
    assert unconfigured.exit_code == 0, unconfigured.stderr
    assert "(context environment)" in unconfigured.stdout
    done = gpuvm("init", **variables)
    assert done.exit_code == 0, done.stderr
    context = saved(gpuvm, site.name)
    assert (context["user"], context["tls"]) == (
        site.user,
        {"verify": "ca", "ca_file": site.ca_file},
    )
    wrong = gpuvm("status", **variables | {"GOVC_PASSWORD": "wrong"})
    assert wrong.exit_code == 1
    assert "the password is from GOVC_PASSWORD" in wrong.stderr
    elsewhere = gpuvm("status", **variables | {"GOVC_URL": "vc.example"})
    assert elsewhere.exit_code == 2
    assert "GOVC_PASSWORD is for another host or account" in elsewhere.stderr
