"""ssh, exec, cp, forward, ssh-config and export on guests of the lab, with the system's own tools.

One story in one module, in order: two VMs, of which one is stopped at the end.
"""

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import interrupt

Lab = Any
BOTH = ("gpuvm-01", "gpuvm-02")


def test_the_tools_are_there() -> None:
    """Nothing here is skipped where one is missing: .ci/run installs them."""
    missing = [tool for tool in ("ssh", "scp", "rsync", "git") if shutil.which(tool) is None]
    assert not missing, f"apt-get install openssh-client rsync git: {missing}"


def test_without_any_vm(lab: Lab) -> None:
    done = lab("exec", "--all", "--", "true")
    assert done.exit_code == 3
    assert "no VM of 'gpuvm' exists" in done.stderr
    done = lab("ssh", "gpuvm-01")
    assert done.exit_code == 3
    assert "no VM of 'gpuvm' exists" in done.stderr


def test_provision(lab: Lab) -> None:
    done = lab("provision", "--hosts", "2", "--accelerator", "none", "--until", "address")
    assert done.exit_code == 0, done.stderr
    assert not (lab.home / ".ssh").exists(), "nobody asked for host blocks"


def test_ssh_runs_a_command_and_returns_its_exit_status(lab: Lab) -> None:
    done = lab("ssh", "gpuvm-02", "--", "hostname; echo to-stderr >&2; exit 7")
    assert (done.exit_code, done.stdout) == (7, "gpuvm-02\n"), done.stderr
    assert done.stderr == "to-stderr\n"


def test_ssh_passes_several_arguments_unchanged(lab: Lab) -> None:
    done = lab("ssh", "gpuvm-01", "--", "printf", "%s|", "a  b", "*", "$HOME")
    assert done.stdout == "a  b|*|$HOME|", done.stderr


def test_ssh_as_json_shows_the_call(lab: Lab) -> None:
    command = lab("ssh", "gpuvm-01", "--json", "--", "hostname").json["data"]["command"]
    assert "-oStrictHostKeyChecking=yes" in command
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "gpuvm-01\n"


def test_another_host_key_is_refused(lab: Lab) -> None:
    command = lab("ssh", "gpuvm-01", "--json", "--", "hostname").json["data"]["command"]
    alias = next(part for part in command if part.startswith("-oHostKeyAlias="))
    wrong = [part for part in command if part != alias]
    done = subprocess.run(wrong, capture_output=True, text=True, check=False)
    assert done.returncode == 255
    assert "Host key verification failed" in done.stderr


def test_exec_on_all_prefixes_each_line(lab: Lab) -> None:
    done = lab("exec", "--all", "--", "echo $(hostname) is here")
    assert done.exit_code == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"{vm}: {vm} is here" for vm in BOTH]
    assert lab("exec", "--vm", "gpuvm-02", "--", "hostname").stdout == "gpuvm-02\n"


def test_exec_says_where_it_failed(lab: Lab) -> None:
    done = lab("exec", "--all", "--json", "--", "test $(hostname) = gpuvm-01 || exit 9")
    assert done.exit_code == 4
    vms = {vm["vm"]: vm["exit_status"] for vm in done.json["data"]["vms"]}
    assert vms == {"gpuvm-01": 0, "gpuvm-02": 9}
    assert [error["type"] for error in done.json["errors"]] == ["CommandFailed"]
    failed = lab("exec", "--all", "--", "false")
    assert failed.exit_code == 1
    assert "gpuvm-02: 'false' ended with status 1" in failed.stderr


def test_exec_keeps_the_end_of_long_output(lab: Lab) -> None:
    prints = "head -c 3000000 /dev/zero | tr '\\0' x; echo end"
    (vm,) = lab("exec", "--vm", "gpuvm-01", "--json", "--", prints).json["data"]["vms"]
    assert vm["stdout"].endswith("xend\n")
    assert len(vm["stdout"]) == 1 << 20
    assert vm["stdout_left_out"] == 3_000_004 - (1 << 20)
    assert vm["stderr_left_out"] == 0


def test_exec_without_a_choice_asks_for_one(lab: Lab) -> None:
    done = lab("exec", "--", "true")
    assert done.exit_code == 2
    assert "gpuvm-01, gpuvm-02" in done.stderr
    assert lab("exec", "--all", "--vm", "gpuvm-01", "--", "true").exit_code == 2


def test_control_characters_of_a_guest_are_escaped(lab: Lab) -> None:
    bad = r"printf '\033]0;title\007\033[2Jred\033[31m\033c bell\007 \302\233m\n' | tee /dev/stderr"
    done = lab("exec", "--all", "--", bad)
    assert done.exit_code == 0
    for text in (done.stdout, done.stderr):
        assert sorted(text.splitlines()) == [f"{vm}: red bell\\x07 \\x9bm" for vm in BOTH]
    failed = lab("exec", "--vm", "gpuvm-01", "--", f"{bad}; exit 1")
    assert not set(failed.stderr) & {"\x1b", "\x07", "\x9b"}


def test_exec_ends_with_ctrl_c(lab: Lab) -> None:
    process = lab.start("exec", "--all", "--", "echo begun; exec sleep 1000")
    assert process.stdout.readline().endswith("begun\n")
    interrupt(process)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert "Traceback" not in complaint


def test_cp_round_trip(lab: Lab) -> None:
    folder = lab.home / "project"
    (folder / "deep").mkdir(parents=True)
    (folder / "a file.txt").write_text("one")
    (folder / "deep/data.bin").write_bytes(bytes(range(256)) * 1000)
    done = lab("cp", "project", "gpuvm-01:")
    assert done.exit_code == 0, done.stderr
    done = lab("cp", "gpuvm-01:project/a file.txt", "gpuvm-01:project/deep", "back/", "--json")
    assert done.exit_code == 1, "scp makes no folders for several sources"
    (lab.home / "back").mkdir()
    done = lab("cp", "gpuvm-01:project/a file.txt", "gpuvm-01:project/deep", "back/", "--json")
    assert done.json["data"]["vm"] == "gpuvm-01"
    back = lab.home / "back"
    assert (back / "a file.txt").read_text() == "one"
    assert (back / "deep/data.bin").read_bytes() == (folder / "deep/data.bin").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("cp", "a", "b"), 2, "neither side is in a VM"),
        (("cp", "gpuvm-01:a", "gpuvm-02:b"), 2, "one side must be on this machine"),
        (("cp", "nothing.txt", "gpuvm-01:"), 2, "no such file on this machine: nothing.txt"),
        (("cp", "gpuvm-01:nothing", "."), 1, "No such file or directory"),
        (("cp", "gpuvm-09:a", "."), 2, "VM 'gpuvm-09' not found"),
        (("cp", "gpuvm-01:a"), 2, "a source and a target"),
        (("ssh", "gpuvm-09"), 2, "VM 'gpuvm-09' not found"),
        (("exec", "--vm", "gpuvm-09", "--", "true"), 2, "VM 'gpuvm-09' not found"),
        (("exec", "--all"), 2, "Missing argument"),
        (("forward", "gpuvm-01", "99999"), 2, "'99999' is not a port"),
        (("forward", "gpuvm-01", "a:80"), 2, "'a:80' is not a port"),
        (("forward", "gpuvm-01", "8:80", "8:81"), 2, "port 8 is given twice"),
        (("export", "slurm"), 2, "slurm"),
        (("ssh-config",), 2, "no terminal to ask on"),
    ],
)
def test_bad_input_is_one_clear_line(
    lab: Lab, arguments: tuple[str, ...], code: int, text: str
) -> None:
    done = lab(*arguments)
    assert done.exit_code == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not (lab.home / ".ssh").exists()


def test_forward_is_open_on_loopback_until_ctrl_c(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("", 0)) as other:
        here, there = free.getsockname()[1], other.getsockname()[1]
    web = (
        f"cd $(mktemp -d); echo hello >index.html; exec python3 -m http.server -b 127.0.0.1 {there}"
    )
    serving = lab.start("ssh", "gpuvm-01", "--", web)
    process = lab.start("forward", "gpuvm-01", f"{here}:{there}")
    assert process.stdout.readline() == f"http://127.0.0.1:{here} is port {there} of gpuvm-01\n"
    assert _page(f"http://127.0.0.1:{here}") == "hello\n"
    listeners = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    open_at = [row.split()[1] for row in listeners.splitlines() if f":{here:04X} " in row]
    assert {address.partition(":")[0] for address in open_at if address} <= {"0100007F"}
    busy = lab("forward", "gpuvm-01", f"{here}:{there}")
    assert busy.exit_code == 2
    assert f"cannot open local port {here}" in busy.stderr
    interrupt(process)
    errors = process.communicate(timeout=60)[1].splitlines()
    assert all("connect failed" in line for line in errors), "the page may come up later"
    assert process.returncode == 0
    interrupt(serving)
    serving.communicate(timeout=60)


def test_ssh_config_print_touches_nothing(lab: Lab) -> None:
    done = lab("ssh-config", "--print")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("Host gpuvm-01 gpuvm-01.lab\n")
    assert done.stdout == lab("export", "ssh").stdout
    assert not (lab.home / ".ssh").exists()
    assert "PRIVATE KEY" not in done.stdout


def test_ssh_config_lets_other_tools_in_without_a_question(lab: Lab) -> None:
    (lab.home / ".ssh").mkdir(mode=0o700)
    own = lab.home / ".ssh/dotfiles"
    own.write_text("Host other\n    Port 23\n")
    own.chmod(0o640)
    config = lab.home / ".ssh/config"
    config.symlink_to(own)
    done = lab("ssh-config", "--yes", "--json")
    assert done.json["data"]["vms"] == list(BOTH), done.stderr
    assert done.json["data"]["changed_user_config"]
    assert config.is_symlink()
    assert own.stat().st_mode & 0o777 == 0o640
    text = own.read_text()
    assert text.endswith("Host other\n    Port 23\n")
    assert not lab("ssh-config", "--json").json["data"]["changed_user_config"]
    assert own.read_text() == text, "a second time changes nothing"
    for vm in (*BOTH, "gpuvm-01.lab"):
        done = _system("ssh", "-F", str(config), vm, "hostname")
        assert done.stdout.strip() == vm.removesuffix(".lab"), done.stderr


def test_rsync_scp_and_git_use_it(lab: Lab) -> None:
    config = str(lab.home / ".ssh/config")
    source = lab.home / "tree"
    source.mkdir()
    (source / "file").write_text("content")
    done = _system("rsync", "-a", "-e", f"ssh -F {config}", f"{source}/", "gpuvm-02:tree/")
    assert done.returncode == 0, done.stderr
    done = _system("scp", "-F", config, "gpuvm-02:tree/file", str(lab.home / "fetched"))
    assert done.returncode == 0, done.stderr
    assert (lab.home / "fetched").read_text() == "content"
    done = _system("ssh", "-F", config, "gpuvm-02", "git init -q --bare repository.git")
    assert done.returncode == 0, done.stderr
    done = _system(
        "git", "ls-remote", "gpuvm-02:repository.git", GIT_SSH_COMMAND=f"ssh -F {config}"
    )
    assert done.returncode == 0, done.stderr


def test_export_refuses_what_the_guests_cannot_serve(lab: Lab) -> None:
    done = lab("export", "dstack", "--output", "fleet.yml")
    assert done.exit_code == 3
    assert "Docker" in done.stderr
    ray = lab("export", "ray", "--json")
    assert ray.exit_code == 3
    assert any("port than 22" in error["message"] for error in ray.json["errors"])
    assert lab("export", "skypilot").exit_code == 3
    assert not (lab.home / "fleet.yml").exists()


# What a VM template with Docker has, as far as gpuvm asks for it.
SERVES_DSTACK = """
mkdir -p ~/bin ~/lib
printf '#!/bin/sh\\nshift; exec "$@"\\n' > ~/bin/sudo
for name in docker nvidia-ctk curl; do printf '#!/bin/sh\\n' > ~/bin/$name; done
chmod +x ~/bin/*
cat > ~/lib/sitecustomize.py <<END
import os.path
isdir = os.path.isdir
os.path.isdir = lambda path: path == "/run/systemd/system" or isdir(path)
END
echo 'PATH=$HOME/bin:$PATH; export PYTHONPATH=$HOME/lib' > ~/.bashrc
"""


def test_export_of_guests_that_serve_an_engine(lab: Lab) -> None:
    done = lab("exec", "--all", "--", SERVES_DSTACK)
    assert done.exit_code == 0, done.stderr
    try:
        done = lab("export", "dstack", "--output", "out/fleet.dstack.yml")
        shown = lab("export", "dstack").stdout
    finally:
        assert lab("exec", "--all", "--", "rm ~/.bashrc").exit_code == 0
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "out/fleet.dstack.yml: gpuvm-01, gpuvm-02 for dstack\n"
    text = (lab.home / "out/fleet.dstack.yml").read_text()
    assert shown == text
    fleet = yaml.safe_load(text)
    vms = lab("status", "--no-guests", "--json").json["data"]["vms"]
    assert fleet["type"] == "fleet"
    hosts = fleet["ssh_config"]["hosts"]
    assert [host["hostname"] for host in hosts] == [vm["address"] for vm in vms]
    key = Path(fleet["ssh_config"]["identity_file"])
    assert key.is_file()
    assert "PRIVATE KEY" not in text


def test_export_never_writes_over_a_file(lab: Lab) -> None:
    (lab.home / "there").write_text("mine")
    done = lab("export", "ssh", "-o", "there")
    assert done.exit_code == 2
    assert (lab.home / "there").read_text() == "mine"
    assert lab("export", "ssh", "-o", "blocks").exit_code == 0
    assert "Host gpuvm-02 gpuvm-02.lab" in (lab.home / "blocks").read_text()


def test_stop_removes_the_host_block_and_start_restores_it(lab: Lab) -> None:
    assert lab("stop", "gpuvm-02", "--yes").exit_code == 0
    assert _blocks(lab) == ["gpuvm-01"]
    done = lab("ssh", "gpuvm-02")
    assert done.exit_code == 3
    assert "gpuvm-02 is powered off" in done.stderr
    assert "gpuvm start gpuvm-02" in done.stderr
    assert lab("start", "gpuvm-02", "--until", "address").exit_code == 0
    assert _blocks(lab) == list(BOTH)
    done = lab("provision", "--hosts", "1", "--accelerator", "none", "--scale-down", "--yes")
    assert done.exit_code == 0, done.stderr
    assert _blocks(lab) == ["gpuvm-01"]


def test_no_private_key_is_anywhere_but_in_its_file(lab: Lab) -> None:
    key = next(lab.home.glob("**/keys/lab/id_ed25519"))
    secret = key.read_text().splitlines()[2]
    holders = [
        file
        for file in lab.home.rglob("*")
        if file.is_file() and secret.encode() in file.read_bytes()
    ]
    assert holders == [key]


def test_teardown_leaves_no_block_and_no_host_key(lab: Lab) -> None:
    assert lab("teardown", "--yes").exit_code == 0
    assert _blocks(lab) == []
    assert not [file for file in lab.home.glob("**/known_hosts/*") if file.is_file()]
    done = _system("ssh", "-F", str(lab.home / ".ssh/config"), "-G", "gpuvm-01")
    assert done.returncode == 0, "an include without host blocks is no error"


def _blocks(lab: Lab) -> list[str]:
    files = sorted(lab.home.glob("**/ssh/contexts/lab/*.conf"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [line.split()[1] for line in lines if line.startswith("Host ")]


def _system(*command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | environment,
    )


def _page(url: str) -> str:
    """The server in the guest may still be starting: asked until it answers."""
    script = "for i in $(seq 100); do curl -sf %s && exit; read -t 0.1 x <> <(:); done; exit 1"
    done = _system("bash", "-c", script % url)
    assert done.returncode == 0, json.dumps(done.stderr)
    return done.stdout
