"""The example of docs/your-own-code.md: a Keras program on one worker and on two."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from averaging_server import serving
from forked import Forked
from programs import TIMEOUT_S, WORKLOADS, Records, of, records

GUIDE = WORKLOADS.parent / "docs" / "your-own-code.md"
STEPS = 5 * 48
"""Of the whole training: 5 epochs of 768 examples, 16 at a step."""

pytestmark = pytest.mark.tensorflow


def started(
    folder: Path, environment: Mapping[str, str], change: tuple[str, str] = ("", "")
) -> Forked:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    program = next(block for block in blocks if "AverageWeights" in block)
    folder.mkdir()
    (folder / "mine.py").write_text(program.replace(*change))
    more = {"GPUVM_OUT": str(folder), "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    return Forked("mine", [], folder, os.environ | more | dict(environment))


def ended(folder: Path, process: Forked) -> Records:
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    return records(folder)


def test_two_workers_end_alike_after_as_many_steps_as_one(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    alone = ended(tmp_path / "alone" / "0", started(tmp_path / "alone" / "0", {}))
    with serving(tmp_path, 2) as (_, environments):
        folders = [tmp_path / worker for worker in ("0", "1")]
        processes = [
            started(folder, environment)
            for folder, environment in zip(folders, environments, strict=True)
        ]
        found = [ended(*one) for one in zip(folders, processes, strict=True)]
    ends = [of(one, "end")[-1] for one in found]
    assert ends[0]["weights_sha256"] == ends[1]["weights_sha256"]
    assert [end["steps"] for end in ends] == [of(alone, "end")[-1]["steps"]] * 2 == [STEPS] * 2
    assert of(found[1], "start")[0]["workers"] == 2
    assert {tuple(one["members"]) for one in of(found[1], "average")} == {(0, 1)}
    assert (folders[0] / "mine.keras").is_file()
    assert not (folders[1] / "mine.keras").exists()
    last = [of(one, "step")[-1]["accuracy"] for one in (alone, *found)]
    assert min(last) > 0.6, "of one batch, of ten digits"


def test_the_share_of_a_lost_worker_is_done_by_the_other(tmp_path: Path) -> None:
    """The chief ends after its second epoch."""
    end = "lambda epoch, _: epoch == 1 and __import__('os')._exit(9)"
    more = f"callbacks=[average, keras.callbacks.LambdaCallback(on_epoch_end={end})]"
    ends = ("callbacks=[average]", more)
    with serving(tmp_path, 2) as (_, (first, second)):
        lost = started(tmp_path / "0", first, ends)
        other = started(tmp_path / "1", second)
        lost.communicate(timeout=TIMEOUT_S)
        assert lost.returncode == 9
        found = ended(tmp_path / "1", other)
    assert of(found, "end")[-1]["steps"] == STEPS
    assert of(found, "average")[-1]["members"] == [1]
    assert (tmp_path / "1" / "mine.keras").is_file()
