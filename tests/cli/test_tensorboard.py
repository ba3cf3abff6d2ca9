"""gpuvm tensorboard: a real TensorBoard, asked as its page asks it, and gone afterwards."""

import json
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import CommandLine, interrupt
from events import scalars
from lab_runs import wait_for

from gpuvm.results import Manifest

pytest.importorskip("tensorboard", reason="the light environment has no TensorBoard")


def record(home: Path, run_id: str, *values: float) -> None:
    folder = home / "runs" / run_id
    scalars(folder / "gpuvm-01/tensorboard", *values)
    manifest = Manifest.model_validate(
        {
            "run_id": run_id,
            "workload": run_id.partition("-")[0],
            "vcenter": {"name": "vc"},
            "started": "2026-11-24T01:30:00Z",
            "status": "succeeded",
            "vms": [{"name": "gpuvm-01"}],
        }
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json(by_alias=True))


@pytest.fixture
def board(gpuvm: CommandLine) -> Iterator["subprocess.Popen[str]"]:
    record(gpuvm.home, "stock-20261124-013000-ab12", 3.0, 2.0, 1.0)
    gpuvm.environment |= {"TZ": "UTC", "TMPDIR": str(gpuvm.home)}
    process = gpuvm.start("tensorboard")
    yield process
    process.kill()
    process.communicate()


def ask(url: str, path: str, **query: str) -> Any:
    with urllib.request.urlopen(f"{url}data/{path}?{urllib.parse.urlencode(query)}") as answer:
        return json.load(answer)


def test_curves_are_served_until_ctrl_c(gpuvm: CommandLine, board: "subprocess.Popen[str]") -> None:
    assert board.stdout is not None
    url = board.stdout.readline().removeprefix("TensorBoard: ").strip()
    assert url.startswith("http://127.0.0.1:")
    first = "stock 2026-11-24 01:30:00 ab12/gpuvm-01"
    wait_for(lambda: ask(url, "runs") == [first], "TensorBoard has read the first run")
    points = ask(url, "plugin/scalars/scalars", run=first, tag="loss")
    assert [(step, value) for _, step, value in points] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    record(gpuvm.home, "mnist-20261124-013000-cd34", 9.0)
    wait_for(lambda: len(ask(url, "runs")) == 2, "a run that was fetched meanwhile")
    started = psutil.Process(board.pid).children(recursive=True)
    assert started
    (listening,) = {
        one.laddr.ip
        for process in started
        for one in process.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr.port == int(url.split(":")[2][:-1])
    }
    assert listening == "127.0.0.1"
    interrupt(board)
    _, errors = board.communicate(timeout=60)
    assert (board.returncode, errors) == (0, "")
    assert psutil.wait_procs(started, timeout=60)[1] == []
    assert not list(gpuvm.home.glob("gpuvm-tensorboard-*"))


def test_it_does_not_outlive_a_killed_command(board: "subprocess.Popen[str]") -> None:
    assert board.stdout is not None
    board.stdout.readline()
    started = psutil.Process(board.pid).children(recursive=True)
    board.kill()
    assert started
    assert psutil.wait_procs(started, timeout=60)[1] == []


def test_what_cannot_be_shown(gpuvm: CommandLine) -> None:
    nothing = gpuvm("tensorboard", "--here")
    assert (nothing.exit_code, nothing.stdout) == (2, "")
    assert "no event files of TensorBoard in runs" in nothing.stderr
    record(gpuvm.home, "stock-20261124-013000-ab12", 1.0)
    record(gpuvm.home, "stock-20261124-023000-ab12", 1.0)
    several = gpuvm("tensorboard", "stock", "--here")
    assert several.exit_code == 2
    assert "several runs fit: stock-20261124-013000-ab12, stock-20261124-023000" in several.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = gpuvm("tensorboard", "--port", str(port))
    assert refused.exit_code == 2
    assert f"cannot open port {port} of 127.0.0.1" in refused.stderr
