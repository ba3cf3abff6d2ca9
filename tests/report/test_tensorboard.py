"""Curves of programs without gpuvm's contract, from event files as their libraries write them."""

import random
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import report_records

from gpuvm import report
from gpuvm.report import RunReport, tensorboard

VM = "gpuvm-01"
Curves = dict[tuple[str, str], tuple[tuple[int, float], ...]]

KERAS = """
import sys, keras, numpy as np
from keras.callbacks import TensorBoard
keras.utils.set_random_seed(1)
x = np.random.rand(64, 3)
y = x.sum(1)
model = keras.Sequential([keras.layers.Dense(1)])
model.compile("sgd", "mse")
callback = TensorBoard(sys.argv[1], histogram_freq=1)
model.fit(x, y, epochs=3, validation_data=(x, y), callbacks=[callback], verbose=0)
"""


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """A run of a program of one's own."""
    made = report_records.RunRecords(tmp_path, "train-20261124-013000-ab12", 1)
    made.manifest(workload="train", contract=False)
    made.append("events.jsonl", "")
    return made


@pytest.fixture(scope="module")
def by_keras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``model.fit`` with the callback leaves, in a process of its own."""
    folder = tmp_path_factory.mktemp("keras") / "logs"
    subprocess.run([sys.executable, "-c", KERAS, str(folder)], check=True, timeout=300)
    return folder


def copied(source: Path, target: Path) -> Path:
    for file in source.rglob("*.tfevents.*"):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    return target


def built(run: Any) -> RunReport:
    return report.build([run.dir]).runs[0]


def page(run: Any) -> str:
    file = Path(run.dir) / "report.html"
    report.write_html(report.build([run.dir]), file)
    return file.read_text(encoding="utf-8")


def points(run: Any) -> Curves:
    return {(c.phase, c.series or ""): c.points for c in built(run).curves}


def record(data: bytes) -> bytes:
    def check(part: bytes) -> bytes:
        return struct.pack("<I", tensorboard._masked_crc(part))

    length = struct.pack("<Q", len(data))
    return length + check(length) + data + check(data)


def event(step: int, tag: str, value: float) -> bytes:
    """As torch writes a scalar: Event {step, summary {value {tag, simple_value}}}."""
    one = b"\x0a" + bytes([len(tag)]) + tag.encode() + b"\x15" + struct.pack("<f", value)
    summary = b"\x0a" + bytes([len(one)]) + one
    return record(b"\x10" + bytes([step]) + b"\x2a" + bytes([len(summary)]) + summary)


def write(run: Any, where: str, *records: bytes) -> Path:
    file = Path(run.dir / VM / where / "events.out.tfevents.1.host")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(record(b"") + b"".join(records))
    return file


def test_the_check_sum_is_castagnolis() -> None:
    """RFC 3720, B.4: of 32 zero bytes 0x8a9136aa; masked as TensorFlow does."""
    rotated = (0x8A9136AA >> 15 | 0x8A9136AA << 17) & 0xFFFFFFFF
    assert tensorboard._masked_crc(bytes(32)) == (rotated + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.tensorflow
def test_what_keras_writes_is_what_tensorboard_reads(run: Any, by_keras: Path) -> None:
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
    from tensorboard.util import tensor_util

    logs = copied(by_keras, run.dir / VM / "project/logs")
    shown = EventMultiplexer().AddRunsFromDirectory(str(logs)).Reload()
    expected = {
        (tag, name): tuple(
            (e.step, float(tensor_util.make_ndarray(e.tensor_proto)))
            for e in shown.Tensors(name, tag)
        )
        for name, content in shown.PluginRunToTagToContent("scalars").items()
        for tag in content
    }
    assert points(run) == expected
    assert ("epoch_loss", "train") in expected
    assert ("epoch_loss", "validation") in expected
    assert built(run).warnings == ()


@pytest.mark.tensorflow
def test_a_keras_script_has_loss_curves_in_the_page(run: Any, by_keras: Path) -> None:
    copied(by_keras, run.dir / VM / "project/logs")
    text = " ".join(re.sub(r"<[^>]+>", " ", page(run)).split())
    assert "Curves From the program's TensorBoard event files" in text
    assert f"epoch_loss {VM} train: epoch_loss" in text
    assert f"{VM} validation" in text
    assert "epoch_loss, train" in text, "the tile"
    assert "The run succeeded" not in text, "no section of what went wrong"
    assert "left no records" not in text


@pytest.mark.tensorflow
def test_a_file_that_was_cut_off(run: Any, by_keras: Path) -> None:
    logs = copied(by_keras, run.dir / VM / "project/logs")
    whole = points(run)["epoch_loss", "train"]
    (file,) = logs.glob("train/*")
    sizes = range(0, file.stat().st_size, 97)
    data = file.read_bytes()
    before = len(whole)
    for size in reversed(sizes):
        file.write_bytes(data[:size])
        left = points(run).get(("epoch_loss", "train"), ())
        assert left == whole[: len(left)]
        assert before - len(left) in (0, 1), "a record at most is lost with 97 bytes"
        before = len(left)
        warned = [w for w in built(run).warnings if "was cut off in the middle of a record" in w]
        assert len(warned) == (size > 0), size
        if warned:
            assert warned[0].startswith(f"{VM}/project/logs/train/events.out.tfevents.")


def test_scalars_of_other_writers(run: Any) -> None:
    write(run, "runs/a", event(1, "Loss/train", 0.5), event(2, "Loss/train", 0.25))
    write(run, "runs/b", event(1, "Loss/train", 1))
    assert points(run) == {
        ("Loss/train", "a"): ((1, 0.5), (2, 0.25)),
        ("Loss/train", "b"): ((1, 1.0),),
    }


@pytest.mark.tensorflow
def test_values_of_every_type_that_a_scalar_may_have(run: Any) -> None:
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.util import tensor_util

    def one(kind: str) -> bytes:
        tensor = tensor_util.make_tensor_proto(2, dtype=kind)
        plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="scalars")
        metadata = summary_pb2.SummaryMetadata(plugin_data=plugin)
        value = summary_pb2.Summary.Value(tag=kind, tensor=tensor, metadata=metadata)
        summary = summary_pb2.Summary(value=[value])
        return record(event_pb2.Event(step=7, summary=summary).SerializeToString())

    kinds = ("float32", "float64", "int32", "int64")
    write(run, "logs", *map(one, kinds))
    assert points(run) == {(kind, "."): ((7, 2.0),) for kind in kinds}


def test_a_damaged_record_is_left_out_and_said(run: Any) -> None:
    bad = bytearray(event(2, "loss", 0.5))
    bad[-6] ^= 1
    write(run, "logs", event(1, "loss", 1), bytes(bad), event(3, "loss", 0.25))
    assert points(run) == {("loss", "."): ((1, 1.0), (3, 0.25))}
    warning = f"{VM}/logs/events.out.tfevents.1.host has 1 damaged record, left out"
    assert warning in built(run).warnings


def test_a_damaged_length_ends_the_file(run: Any) -> None:
    bad = bytearray(event(2, "loss", 0.5))
    bad[0] ^= 1
    file = write(run, "logs", event(1, "loss", 1), bytes(bad), event(3, "loss", 0.25))
    assert points(run) == {("loss", "."): ((1, 1.0),)}
    place = file.stat().st_size - 2 * len(bad)
    assert any(f"is damaged from byte {place} on" in w for w in built(run).warnings)


def test_noise_is_survived(run: Any) -> None:
    """Whole records of random bytes, and a sound one after them."""
    chance = random.Random(5)
    noise = [record(chance.randbytes(chance.randrange(200))) for _ in range(3000)]
    write(run, "logs", *noise, event(9, "loss", 3))
    assert points(run)["loss", "."] == ((9, 3.0),)


def test_a_training_that_began_again_counts_from_there(run: Any) -> None:
    write(run, "logs", *(event(step, "loss", step) for step in (1, 2, 3)))
    again = run.dir / VM / "logs/events.out.tfevents.2.host"
    again.write_bytes(event(2, "loss", 0.5))
    assert points(run) == {("loss", "."): ((1, 1.0), (2, 0.5), (3, 3.0))}


def test_a_loss_that_is_no_number(run: Any) -> None:
    write(run, "logs/train", event(1, "loss", 1), event(2, "loss", float("nan")))
    assert points(run) == {("loss", "train"): ((1, 1.0),)}
    assert f"{VM} train: loss was not a number at step 2" in built(run).warnings


def test_csv_names_the_series(run: Any) -> None:
    write(run, "logs/train", event(1, "loss", 0.5))
    rows = report.steps_csv(report.build([run.dir])).splitlines()[1:]
    assert rows == [f"{run.run_id},{VM},train/loss,1,0.5"]


def test_records_of_the_contract_win(run: Any) -> None:
    write(run, "logs", event(1, "loss", 1))
    run.start(VM)
    run.timing(VM, "step", 1, phase="train", step=1, loss=2.0)
    assert [(c.phase, c.series) for c in built(run).curves] == [("train", None)]


def test_losses_come_first_and_a_page_has_room_for_so_many(run: Any) -> None:
    tags = [f"layer{number:02d}/norm" for number in range(20)]
    write(
        run, "logs", *(event(1, tag, 1) for tag in [*tags, "val_loss", "epoch_acc", "epoch_loss"])
    )
    shown = [curve.phase for curve in built(run).curves]
    assert shown[:4] == ["epoch_loss", "val_loss", "epoch_acc", "layer00/norm"]
    assert len(shown) == 12
    (warning,) = built(run).warnings
    assert warning.startswith("11 more scalars of TensorBoard's event files are not shown: layer09")


def test_large_records_are_passed_over_unread(run: Any) -> None:
    write(run, "logs", record(bytes(1 << 20)), event(1, "loss", 1))
    assert points(run) == {("loss", "."): ((1, 1.0),)}


def test_links_are_not_followed(run: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside.tfevents.1"
    outside.write_bytes(event(1, "secret", 1))
    (run.dir / VM).mkdir()
    (run.dir / VM / "events.out.tfevents.1").symlink_to(outside)
    assert points(run) == {}


def test_names_are_data(run: Any) -> None:
    write(run, "logs", event(1, "<script>\x1b[2Jloss", 1))
    ((tag, _),) = points(run)
    assert "\x1b" not in tag
    assert "<script>" not in page(run)
