"""How every workload handles options, threads, memory and the GPU."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from programs import TIMEOUT_S, WORKLOADS, Program, of, records

from common.device import load_tensorflow
from common.log import Log

GIB = 1024 * 1024  # in the KiB that getrusage counts

COUNTED = """
import collections, os, sys
sys.path.insert(0, sys.argv[1])
from common.device import load_tensorflow
tf, _ = load_tensorflow("cpu", int(sys.argv[2]), 1)
twice = tf.function(lambda a: tf.matmul(a, a), jit_compile=True)
twice(tf.ones((64, 64))).numpy()
threads = (open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task"))
names = collections.Counter(name.strip() for name in threads)
print(names["tf_Compute"], names["tf_XLAEigen"])
"""
"""Prints how many threads TensorFlow has between operators, and inside one."""

PEAK = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""
"""In a small process of its own: a child counts its parent's memory until it has started."""


@pytest.mark.parametrize("name", ["stock", "mnist"])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--cpu-threads", "-1", "--cpu-threads must be at least 0"),
        ("--checkpoint-every", "0", "--checkpoint-every must be at least 1"),
        ("--stop-after", "0", "--stop-after must be at least 1"),
        ("--seed", "-1", "--seed must be from 0"),
        ("--stall-s", "0", "--stall-s must be above 0"),
    ],
)
def test_invalid_options_are_refused(
    tmp_path: Path, name: str, option: str, value: str, message: str
) -> None:
    reported = Program(name).refused(tmp_path / "out", option, value)
    assert message in reported.splitlines()[-1]


@pytest.mark.tensorflow
@pytest.mark.parametrize("threads", ["1", "3"])
def test_number_of_threads_is_as_configured(threads: str) -> None:
    counted = _run("-c", COUNTED, str(WORKLOADS), threads)
    assert counted.stdout.split() == [threads, threads]


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("name", "options"),
    [("stock", ("--epochs", "2")), ("mnist", ())],
    ids=["stock", "mnist"],
)
def test_the_quick_preset_stays_below_two_gib(
    tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    """The stock epochs are all alike, so two of them show what eight need."""
    done = _run("-c", PEAK, sys.executable, "-m", name, "--out", str(tmp_path), *options)
    found = records(tmp_path)
    assert of(found, "start")[0]["params"]["preset"] == "quick"
    assert of(found, "checkpoint")
    assert int(done.stdout.splitlines()[-1]) < 2 * GIB


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=WORKLOADS,
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )


class Config:
    """The part of TensorFlow's that a workload sets before it begins."""

    def __init__(self) -> None:
        self.grow: list[str] = []
        self.visible: list[str] = []
        self.threading = SimpleNamespace(
            set_intra_op_parallelism_threads=lambda _: None,
            set_inter_op_parallelism_threads=lambda _: None,
        )
        self.experimental = SimpleNamespace(set_memory_growth=self._grow)

    def list_physical_devices(self, kind: str) -> list[str]:
        return [f"{kind}:0", f"{kind}:1"]

    def set_visible_devices(self, devices: list[str], kind: str) -> None:
        assert kind == "GPU"
        self.visible = devices

    def _grow(self, device: str, enable: bool) -> None:
        assert enable
        self.grow.append(device)


def test_shared_gpu_is_not_passed_through(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config()
    distribute = SimpleNamespace(get_strategy=lambda: None)
    monkeypatch.setitem(
        sys.modules, "tensorflow", SimpleNamespace(config=config, distribute=distribute)
    )
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    load_tensorflow("auto", 0, 1)
    assert config.grow == ["GPU:0", "GPU:1"]
    assert config.visible == ["GPU:0"]  # the program uses one device


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    one = Log(tmp_path / "timings.jsonl")
    yield one
    one._file.close()


def test_greedy_and_beam_are_two_curves(log: Log, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log("score", name="bleu4", value=0.5, decoder="greedy")
    log("score", name="bleu4", value=0.75, decoder="beam3")
    log("score", name="accuracy", value=0.25)
    log("end", ok=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert found == {"score/bleu4/greedy": 0.5, "score/bleu4/beam3": 0.75, "score/accuracy": 0.25}


def test_missing_tensorboard_is_reported_once(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.event_file_writer", None)
    for step in (1, 2):
        log("step", phase="train", step=step, loss=0.5)
    assert capsys.readouterr().err == "no TensorBoard events: tensorboard is not installed\n"
    assert len((tmp_path / "timings.jsonl").read_text().splitlines()) == 2
