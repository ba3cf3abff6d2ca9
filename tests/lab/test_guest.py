"""A guest from the inside: SSH, SFTP, disk, GPUs."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import paramiko
import pytest

from gpuvm.lab import hypervisor
from gpuvm.lab.guest.boot import SimulatedGPU

Machines = Any  # tests/lab/conftest.py
C4_QUERY = "nvidia-smi --query-gpu=pci.device_id,pci.bus_id,name,memory.total --format=csv,noheader"


def test_exit_status_is_that_of_the_command(any_machines: Machines) -> None:
    guest = any_machines.on("one")
    assert guest.run("echo out; echo err >&2; exit 7").status == 7
    done = guest.run("cat; echo err >&2", stdin=b"typed in")
    assert (done.status, done.out, done.err) == (0, "typed in", "err\n")
    assert guest.run("kill -KILL $$").status == -1  # paramiko's word for an exit by signal
    assert guest.run("no-such-program").status == 127


def test_the_environment_is_a_login_s_and_nothing_else(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUVM_PASSWORD", "the operator's")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    guest = machines.on("one")
    names = {line.partition("=")[0] for line in guest.run("env").out.splitlines()}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == {
        *("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "SSH_CLIENT")
    }
    assert guest.run("echo $HOME $(id -un) $(hostname)").out == "/home/gpuvm gpuvm one\n"


def test_large_streams_arrive_whole(any_machines: Machines) -> None:
    guest = any_machines.on("one")
    data = os.urandom(1 << 20) * 8
    digest = hashlib.sha256(data).hexdigest()
    for _ in range(3):
        assert guest.run("sha256sum", stdin=data).out.split()[0] == digest
    both = guest.run("head -c 8000000 /dev/zero | tee /dev/stderr")
    assert (len(both.out), len(both.err)) == (8_000_000, 8_000_000)


def test_unread_input_does_not_hang(machines: Machines) -> None:
    done = machines.on("one").run("exec 0<&-; echo done", stdin=bytes(8 << 20))
    assert (done.status, done.out) == (0, "done\n")


def test_a_signal_reaches_the_whole_command(
    machines: Machines, wait_for: Callable[..., None]
) -> None:
    guest = machines.on("one")
    with machines.ssh(guest.guest.boot, guest.ready.host_keys[0]) as ssh:
        channel = ssh.transport.open_session()
        channel.exec_command("sleep 1000 & sleep 1001; true")
        wait_for(lambda: "sleep 1001" in guest.run("ps ax").out, "the command runs")
        message = paramiko.Message()
        message.add_byte(b"\x62")  # SSH_MSG_CHANNEL_REQUEST: paramiko has no call for a signal
        message.add_int(channel.remote_chanid)
        message.add_string("signal")
        message.add_boolean(False)
        message.add_string("TERM")
        ssh.transport._send_user_message(message)
        assert channel.recv_exit_status() == -1
    assert "sleep" not in guest.run("ps ax").out.replace("ps ax", "")


def test_a_terminal(machines: Machines) -> None:
    guest = machines.on("one")
    with machines.ssh(guest.guest.boot, guest.ready.host_keys[0]) as ssh:
        channel = ssh.transport.open_session()
        channel.get_pty("xterm", width=90, height=33)
        channel.exec_command("tty; stty size; echo $TERM; exit 3")
        shown = b"".join(iter(lambda: channel.recv(4096), b"")).decode().split()
        assert shown == ["/dev/pts/0", "33", "90", "xterm"]
        assert channel.recv_exit_status() == 3


def test_sftp_begins_at_home(any_machines: Machines) -> None:
    guest = any_machines.on("one")
    with any_machines.ssh(guest.guest.boot, guest.ready.host_keys[0]) as ssh:
        sftp = paramiko.SFTPClient.from_transport(ssh.transport)
        assert sftp is not None
        with sftp.open("note.txt", "w") as file:
            file.write("by sftp")
        assert sftp.normalize(".") == guest.run("echo $HOME").out.strip()
        sftp.close()
    assert guest.run("cat note.txt").out == "by sftp"


def test_only_keys_of_the_user_data_can_log_in(machines: Machines, unknown_key: Any) -> None:
    guest = machines.on("one")
    boot, host_key = guest.guest.boot, guest.ready.host_keys[0]
    with (
        pytest.raises(paramiko.AuthenticationException),
        machines.ssh(boot, host_key, key=unknown_key),
    ):
        pass
    with pytest.raises(paramiko.AuthenticationException), machines.ssh(boot, host_key, user="root"):
        pass
    with (
        pytest.raises(paramiko.SSHException, match="Bad host key"),
        machines.ssh(boot, unknown_key.public),
    ):
        pass


def test_a_power_cycle_keeps_the_disk_and_a_deletion_does_not(any_machines: Machines) -> None:
    boot = any_machines.boot("one")
    first = any_machines.on(boot)
    first.run("echo kept > file; mkdir -p a/b; chmod 0 a; setsid sleep 1000 >/dev/null 2>&1 &")
    first.guest.power_off()
    second = any_machines.on(boot)
    assert second.ready.host_keys == first.ready.host_keys
    assert second.run("cat file").out == "kept\n"
    second.guest.power_off()
    hypervisor.remove_folder(second.guest.folder)
    assert not second.guest.folder.exists()
    assert any_machines.on(boot).ready.host_keys != first.ready.host_keys


def test_nvidia_smi_shows_the_vm_s_gpus(any_machines: Machines) -> None:
    second = replace(any_machines.p100, uuid="GPU-77", bus_id="00000000:13:00.0")
    guest = any_machines.on(any_machines.boot("two", gpus=(any_machines.p100, second)))
    assert guest.run(C4_QUERY).out.splitlines() == [
        "0x15F810DE, 00000000:0B:00.0, Tesla P100-PCIE-16GB (simulated), 16384 MiB",
        "0x15F810DE, 00000000:13:00.0, Tesla P100-PCIE-16GB (simulated), 16384 MiB",
    ]
    assert guest.run("nvidia-smi -L").out.count("simulated") == 2
    table = guest.run("nvidia-smi").out
    assert "NVIDIA-SMI (simulated" in table
    assert table.count("Tesla P100") == 2
    one = guest.run("nvidia-smi -i 1 --query-gpu=uuid,memory.total --format=csv,nounits")
    assert one.out.splitlines() == ["uuid, memory.total [MiB]", "GPU-77, 16384"]
    wrong = guest.run("nvidia-smi --query-gpu=colour --format=csv")
    assert (wrong.status, wrong.out) == (2, 'Field "colour" is not a valid field to query.\n')


def test_nvidia_smi_without_a_gpu(machines: Machines) -> None:
    no_gpus: tuple[SimulatedGPU, ...] = ()
    done = machines.on(machines.boot("bare", gpus=no_gpus)).run(C4_QUERY)
    assert (done.status, done.out) == (6, "No devices were found\n")


def test_python3_has_what_the_lab_s_interpreter_has(any_machines: Machines) -> None:
    done = any_machines.on("one").run(
        "python3 -c 'import importlib.util as u; print(bool(u.find_spec(\"tensorflow\")))'"
    )
    assert done.out == "True\n"
