"""report.build: the numbers of a report against what the records say, worked out by hand."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import report_records

from gpuvm import report
from gpuvm.errors import BadInput
from gpuvm.report import RunReport


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """An empty distributed run on gpuvm-01 and gpuvm-02 with its manifest."""
    run = report_records.RunRecords(tmp_path, "captioning-20261124-013000-ab12", 2)
    run.manifest()
    run.append("events.jsonl", "")
    return run


def _built(run: Any) -> RunReport:
    return report.build([run.dir]).runs[0]


def _steps(run: Any, vm: str, rates: list[float], *, phase: str = "train") -> None:
    for number, rate in enumerate(rates, start=1):
        run.timing(
            vm,
            "step",
            10 + number,
            phase=phase,
            step=10 * number,
            steps=50,
            loss=4 / number,
            step_seconds=64 / rate,
            examples_per_second=rate,
        )


def test_the_header_is_the_manifests(run: Any) -> None:
    built = _built(run)
    assert (built.run_id, built.workload) == ("captioning-20261124-013000-ab12", "captioning")
    assert built.vcenter.name == "gpuvm lab: simulated vCenter Server"
    assert built.vcenter.version == "8.0.3"
    assert built.args == ("--steps", "400")
    assert built.seconds == 120
    assert built.gpuvm_version == "0.1.0"
    assert [vm.role for vm in built.vms] == ["chief", "worker"]


def test_rates_are_medians_of_the_training_steps(run: Any) -> None:
    run.start("gpuvm-01")
    _steps(run, "gpuvm-01", [9999], phase="encoder")
    _steps(run, "gpuvm-01", [100, 640, 320])
    run.timing("gpuvm-01", "compile", 12, seconds=3.5)
    run.timing("gpuvm-01", "compile", 13, seconds=1.25)
    run.timing("gpuvm-01", "checkpoint", 14, step=20, path="checkpoints/20")
    vm = _built(run).vms[0]
    assert vm.rate_phase == "train"
    assert vm.examples_per_second == 320
    assert vm.step_seconds == 0.2
    assert (vm.steps, vm.steps_wanted) == (30, 50)
    assert vm.compile_seconds == 4.75
    assert vm.last_checkpoint == 20


def test_only_records_after_the_last_start_count(run: Any) -> None:
    run.start("gpuvm-01", 0)
    _steps(run, "gpuvm-01", [1, 1, 1])
    run.start("gpuvm-01", 60)
    _steps(run, "gpuvm-01", [500])
    vm = _built(run).vms[0]
    assert vm.starts == 2
    assert (vm.steps, vm.examples_per_second) == (10, 500)


def test_loss_points_that_are_no_number_are_skipped_and_reported(run: Any) -> None:
    run.start("gpuvm-01")
    for step, loss in ((1, 2.0), (2, 1.5), (3, float("nan"))):
        run.timing("gpuvm-01", "step", step, phase="train", step=step, loss=loss)
    built = _built(run)
    assert [(c.phase, c.vm, c.points) for c in built.curves] == [
        ("train", "gpuvm-01", ((1, 2.0), (2, 1.5)))
    ]
    assert built.curves[0].diverged_at == 3
    assert "gpuvm-01: the loss of phase train was not a number at step 3" in built.warnings


def test_phases_per_vm_and_over_all(run: Any) -> None:
    run.phase("plan", None, -40, 0.5)
    run.phase("clone", "gpuvm-01", -39, 10)
    run.phase("clone", "gpuvm-02", -38, 12)
    run.phase("push", "gpuvm-01", 1, 2)
    run.phase("push", "gpuvm-02", 2, 4)
    rows = {row.name: row for row in _built(run).phases}
    assert list(rows) == ["plan", "clone", "push"]
    assert (rows["plan"].group, rows["push"].group) == ("provisioning", "run")
    assert rows["plan"].overall_s == 0.5
    assert rows["plan"].by_vm == ()
    assert rows["clone"].by_vm == (("gpuvm-01", 10), ("gpuvm-02", 12))
    assert rows["clone"].overall_s == pytest.approx(13)  # from -39 to -26
    assert rows["push"].overall_s == pytest.approx(5)  # from 1 to 6
    assert all(row.ok for row in rows.values())


def test_a_scale_down_before_the_run_is_no_part_of_it(run: Any) -> None:
    run.phase("clone", "gpuvm-01", -900, 10)
    run.phase("teardown", "gpuvm-03", -600, 2)
    run.phase("teardown", None, -600, 2)
    run.phase("push", "gpuvm-01", 1, 2)
    built = _built(run)
    assert [row.name for row in built.phases] == ["clone", "push"]
    assert max(span.until for span in built.spans if span.group == "run") == report_records.T0 + 3


def test_vms_that_were_provisioned_days_apart_are_drawn_side_by_side(run: Any) -> None:
    day = 86400
    for begun, vm in ((-2 * day, "gpuvm-01"), (-100, "gpuvm-02")):
        run.phase("plan", None, begun, 1)
        run.phase("clone", vm, begun + 1, 10)
    run.phase("ready", "gpuvm-01", -95, 3)  # looked at again, not made again
    built = _built(run)
    rows = {row.name: row for row in built.phases}
    assert rows["clone"].overall_s == pytest.approx(10)
    assert rows["plan"].attempts == 1
    assert "ready" not in rows
    assert {span.start for span in built.spans if span.name == "clone"} == {report_records.T0 - 99}


def test_the_program_is_not_called_as_the_phase_inside_it(run: Any) -> None:
    run.phase("train", "gpuvm-01", 1, 9)
    run.start("gpuvm-01")
    run.timing("gpuvm-01", "phase", 2, name="train", state="start")
    run.timing("gpuvm-01", "phase", 4, name="train", state="end", seconds=2)
    assert [row.title for row in _built(run).phases] == ["Program", "Train"]


def test_a_baseline_belongs_to_its_score(run: Any) -> None:
    run.start("gpuvm-01")
    run.timing("gpuvm-01", "score", name="mse_test", value=0.5, of="content 1, style 5")
    run.timing(
        "gpuvm-01", "score", name="mse_mean", value=0.9, baseline_of="mse_test", means="the mean"
    )
    (score,) = _built(run).scores
    assert (score.title, score.of) == ("MSE (test)", "content 1, style 5")
    assert [(one.means, one.value) for one in score.baselines] == [("the mean", 0.9)]


def test_all_steps_are_done_where_the_end_says_so(run: Any) -> None:
    run.start("gpuvm-01")
    _steps(run, "gpuvm-01", [100, 100])
    run.timing("gpuvm-01", "end", 99, ok=True, steps=50, seconds=9.0)
    assert (_built(run).vms[0].steps, _built(run).vms[0].steps_wanted) == (50, 50)


def test_restarted_phase_counts_every_attempt(run: Any) -> None:
    t0 = 1_795_000_000
    for start, seconds, ok in ((0, 3, False), (5, 4, True)):
        run.event(t=t0 + start, kind="phase", name="check_network", vm="gpuvm-01", state="start")
        end = {"kind": "phase", "name": "check_network", "vm": "gpuvm-01", "state": "end"}
        run.event(t=t0 + start + seconds, **end, seconds=seconds, ok=ok)
    row = _built(run).phases[0]
    assert (row.attempts, row.ok) == (2, True)
    assert row.seconds("gpuvm-01") == 7
    assert row.overall_s == 9


def test_a_phase_without_an_end_is_not_finished(run: Any) -> None:
    run.phase("train", "gpuvm-01", 5, 30)
    run.phase("train", "gpuvm-02", 5, None)
    built = _built(run)
    row = built.phases[0]
    assert row.overall_s is None
    assert not row.ok
    assert row.seconds("gpuvm-01") == 30
    assert row.began("gpuvm-02")
    assert row.seconds("gpuvm-02") is None
    open_ = next(span for span in built.spans if span.vm == "gpuvm-02")
    assert built.ended is not None
    assert open_.until == built.ended.timestamp()


def test_provisioning_that_never_ended_does_not_reach_into_the_run(run: Any) -> None:
    run.phase("clone", "gpuvm-01", -9000, None)
    run.phase("plan", None, -9010, 5)
    span = next(span for span in _built(run).spans if span.name == "clone")
    assert span.until == span.start


def test_phases_of_the_workload_use_the_guests_clock(run: Any) -> None:
    """The second guest's clock is a day off; only differences on one clock are used."""
    for vm, clock, seconds in (("gpuvm-01", 0, 20), ("gpuvm-02", 86_400, 25)):
        run.start(vm, clock)
        run.timing(vm, "phase", clock + 2, name="data", state="start")
        run.timing(vm, "phase", clock + 2 + seconds, name="data", state="end", seconds=seconds)
    built = _built(run)
    assert built.phases[0].group == "workload"
    assert built.phases[0].overall_s == 25
    assert {(span.vm, span.start, span.until) for span in built.spans} == {
        ("gpuvm-01", 2, 22),
        ("gpuvm-02", 2, 27),
    }


def test_scores_stand_beside_their_shuffled_counterparts(run: Any) -> None:
    reported = {"split": "held_out", "decoder": "greedy", "examples": 480}
    run.start("gpuvm-01")
    for name, value in (("bleu4", 0.9), ("bleu4_shuffled", 0.4), ("exact_match", 0.7)):
        run.timing("gpuvm-01", "score", 20, name=name, value=value, **reported)
    other = reported | {"decoder": "beam3"}
    run.timing("gpuvm-01", "score", 20, name="bleu4", value=0.3, **other)
    run.timing("gpuvm-01", "score", 20, name="bleu4_shuffled", value=0.3, **other)
    scores = {(score.name, score.decoder): score for score in _built(run).scores}
    assert set(scores) == {("bleu4", "greedy"), ("exact_match", "greedy"), ("bleu4", "beam3")}
    seen = scores["bleu4", "greedy"]
    assert (seen.title, seen.value, seen.shuffled, seen.examples) == ("BLEU-4", 0.9, 0.4, 480)
    assert seen.explanation is not None
    assert "+0.500 on top was seen in the pictures" in seen.explanation
    assert scores["exact_match", "greedy"].explanation is None
    blind = scores["bleu4", "beam3"].explanation
    assert blind is not None
    assert "nothing that was seen" in blind


def test_scores_of_results_json_are_used_when_no_event_has_any(run: Any) -> None:
    run.results("gpuvm-01", scores={"accuracy": 0.98, "odd": "text"}, samples=[], notes=["hm"])
    built = _built(run)
    assert [(score.title, score.value) for score in built.scores] == [("Accuracy", 0.98)]
    assert built.notes == ("hm",)


def test_picture_outside_the_run_is_not_embedded(run: Any, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    run.append("gpuvm-01/samples/text.png", "not a picture")
    images = ["../../secret.png", "samples/gone.png", "samples/text.png", None]
    samples: list[dict[str, Any]] = [
        {"image": image, "caption": "x", "references": []} for image in images
    ]
    run.results("gpuvm-01", samples=samples)
    built = _built(run).samples
    assert [sample.image for sample in built] == [None] * 4
    assert [sample.no_image for sample in built] == [
        "../../secret.png is outside the run",
        "samples/gone.png is missing from the run",
        "samples/text.png is not a PNG, JPEG, GIF or SVG picture",
        "no picture was recorded",
    ]


class TestDevice:
    """The sentence on the device; only the workload's own word counts."""

    def note(self, run: Any, *devices: str | None, **changes: Any) -> tuple[str, bool]:
        vms = [run.vm(i, name, **changes) for i, name in enumerate(run.names, start=1)]
        run.manifest(vms=vms)
        for vm, device in zip(run.names, devices, strict=True):
            if device is not None:
                run.start(vm, device=device, device_name="Tesla P100-PCIE-16GB")
        built = _built(run)
        return built.device_note, built.device_plain

    def test_the_lab(self, run: Any) -> None:
        note, plain = self.note(run, "/device:CPU:0", "/device:CPU:0")
        assert note == "TensorFlow ran on the CPU; the GPU in this lab is simulated."
        assert not plain

    def test_a_real_gpu(self, run: Any) -> None:
        note, plain = self.note(run, "/device:GPU:0", "/device:GPU:0", simulated=False)
        assert note == "TensorFlow ran on the GPU: Tesla P100-PCIE-16GB."
        assert plain

    def test_a_real_gpu_that_was_not_used(self, run: Any) -> None:
        note, plain = self.note(run, "/device:CPU:0", "/device:CPU:0", simulated=False)
        assert note.startswith("TensorFlow ran on the CPU, although gpuvm-01, gpuvm-02 had a GPU")
        assert not plain

    def test_no_gpu_at_all(self, run: Any) -> None:
        note, _ = self.note(run, "/device:CPU:0", "/device:CPU:0", simulated=False, gpus=[])
        assert note == "TensorFlow ran on the CPU; no GPU was attached."

    def test_some_here_some_there(self, run: Any) -> None:
        note, plain = self.note(run, "/device:GPU:0", "/device:CPU:0", simulated=False)
        assert note == "TensorFlow ran on the CPU on gpuvm-02, on the GPU on gpuvm-01."
        assert not plain

    def test_no_device_recorded(self, run: Any) -> None:
        note, plain = self.note(run, None, None)
        assert note == "The device that TensorFlow used was not recorded."
        assert not plain

    def test_a_program_of_ones_own(self, run: Any) -> None:
        run.manifest(contract=False)
        built = _built(run)
        assert built.device_note == "A program of your own: it recorded no device."
        assert built.device_plain
        assert not built.lost, "its exit status was 0"


class TestShards:
    def test_verified_from_the_lists(self, run: Any) -> None:
        run.shard("gpuvm-01", 0, 2, 5, ["a", "c", "e"])
        run.shard("gpuvm-02", 1, 2, 5, ["b", "d"])
        shards = _built(run).shards
        assert shards is not None
        assert shards.verified
        assert shards.sentence == (
            "Verified from the lists of ids: 2 shards of 2 to 3 examples, none in two of them, "
            "together the whole data set of 5."
        )
        assert [(s.vm, s.examples, s.listed) for s in shards.by_vm] == [
            ("gpuvm-01", 3, 3),
            ("gpuvm-02", 2, 2),
        ]

    def test_an_overlap_and_a_gap_are_refuted(self, run: Any) -> None:
        run.shard("gpuvm-01", 0, 2, 5, ["a", "b", "c"])
        run.shard("gpuvm-02", 1, 2, 5, ["c", "d"])
        shards = _built(run).shards
        assert shards is not None
        assert (shards.disjoint, shards.complete, shards.verified) == (False, False, False)
        assert "1 are in more than one shard" in shards.sentence
        assert "4 of 5 examples" in shards.sentence

    def test_a_missing_list_cannot_be_verified(self, run: Any) -> None:
        run.shard("gpuvm-01", 0, 2, 2, ["a"])
        run.shard("gpuvm-02", 1, 2, 2, ["b"])
        (run.dir / "gpuvm-02/shard_ids.txt").unlink()
        shards = _built(run).shards
        assert shards is not None
        assert shards.disjoint is None
        assert shards.sentence == "Not verified: gpuvm-02 has no shard_ids.txt."

    def test_list_with_a_wrong_hash_verifies_nothing(self, run: Any) -> None:
        run.shard("gpuvm-01", 0, 2, 2, ["a"])
        run.shard("gpuvm-02", 1, 2, 2, ["b"])
        (run.dir / "gpuvm-02/shard_ids.txt").write_text("c\n", encoding="utf-8")
        shards = _built(run).shards
        assert shards is not None
        assert not shards.verified
        assert "gpuvm-02 does not match its recorded hash" in shards.sentence

    def test_worker_without_records_leaves_the_result_unknown(self, run: Any) -> None:
        run.shard("gpuvm-01", 0, 2, 2, ["a"])
        shards = _built(run).shards
        assert shards is not None
        assert shards.sentence == "Not verified: only 1 of 2 workers recorded their shard."

    def test_a_single_worker_has_no_shards(self, run: Any) -> None:
        run.shard("gpuvm-01", 0, 1, 1, ["a"])
        assert _built(run).shards is None


def test_different_final_weights_of_workers_are_reported(run: Any) -> None:
    run.timing("gpuvm-01", "end", 9, ok=True, steps=1, seconds=9, weights_sha256="a")
    assert _built(run).weights_agree is None
    run.timing("gpuvm-02", "end", 9, ok=True, steps=1, seconds=9, weights_sha256="b")
    assert _built(run).weights_agree is False


def test_failed_run_names_the_worker_and_shows_its_last_lines(tmp_path: Path) -> None:
    built = report.build([report_records.failed_run(tmp_path)]).runs[0]
    assert built.status == "failed"
    assert built.status_note == "The run failed; 0 of 4 VMs had finished."
    assert built.error == "the worker on gpuvm-03 ended with status -9"
    dead = built.lost[0]
    assert (dead.name, dead.died_first, dead.outcome) == ("gpuvm-03", True, "unfinished")
    assert [vm.died_first for vm in built.lost] == [True, False, False, False]
    stderr, stdout = dead.tails
    assert stderr.file == "stderr.log"
    assert stderr.lines[-2:] == ("train: step 180 of 400", "Killed")  # without the colour codes
    assert stdout.lines == ("train 180/400 loss 0.4312 611 examples/s",)
    assert dead.steps == 180
    assert "The last line of gpuvm-03/timings.jsonl is truncated and was skipped." in built.warnings


def test_gpuvm_1_and_gpuvm_10_are_distinguished(tmp_path: Path) -> None:
    run = report_records.RunRecords(tmp_path, "r", 2)
    run.names = ["gpuvm-1", "gpuvm-10"]
    run.manifest(status="failed", error="the worker on gpuvm-10 vanished")
    assert [vm.died_first for vm in _built(run).vms] == [False, True]


def test_only_the_end_of_a_long_log_is_read(run: Any) -> None:
    run.append("gpuvm-01/stderr.log", "".join(f"line {i}\n" for i in range(100_000)))
    tail = _built(run).vms[0].tails[0].lines
    assert len(tail) == 20
    assert tail[-1] == "line 99999"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("interrupted", "The run was interrupted; 0 of 2 VMs had finished."),
        ("running", "No end is recorded: the run is still active, or gpuvm was stopped"),
        ("succeeded", "Recorded as succeeded, but only 0 of 2 VMs recorded an end."),
    ],
)
def test_unsuccessful_run_is_marked_in_the_report(run: Any, status: str, message: str) -> None:
    run.manifest(status=status, ended=None)
    built = _built(run)
    assert built.status_note.startswith(message)
    assert built.seconds is None
    assert [vm.outcome for vm in built.vms] == ["no records", "no records"]


def test_warnings_of_several_vms_are_one(run: Any) -> None:
    for vm in run.names:
        run.event(t=1, kind="warning", name="warning", vm=vm, text="no GPU is visible")
    assert _built(run).warnings == ("gpuvm-01, gpuvm-02: no GPU is visible",)


def test_missing_events_are_a_warning(run: Any) -> None:
    (run.dir / "events.jsonl").unlink()
    assert _built(run).warnings == ("There is no events.jsonl: gpuvm's own phases are unknown.",)


def test_newer_records_stay_readable(run: Any) -> None:
    run.manifest(colour="blue")
    run.event(t=1, kind="hologram", name="x")
    run.timing("gpuvm-01", "hologram", 1, depth=3)
    run.start("gpuvm-01", mood="good")
    assert _built(run).vms[0].device == "/device:CPU:0"


def test_incomplete_last_line_is_skipped_and_reported(run: Any) -> None:
    run.start("gpuvm-01")
    _steps(run, "gpuvm-01", [100])
    run.append("gpuvm-01/timings.jsonl", '{"t": 1, "event": "step", "loss": 0.')
    run.append("events.jsonl", '{"t": 17954')
    built = _built(run)
    assert built.vms[0].steps == 10
    assert built.warnings == (
        "The last line of events.jsonl is truncated and was skipped.",
        "The last line of gpuvm-01/timings.jsonl is truncated and was skipped.",
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"t": 1, "event": "st', "not JSON"),
        ('"step"', "must have keys and values"),
        ('{"t": 1}', "event is missing"),
        ('{"t": 1, "event": "step"}', "step is missing"),
        ('{"t": 1, "event": "step", "step": "ten"}', "step: must be a whole number, not 'ten'"),
        (
            '{"t": 1, "event": "score", "name": "x", "value": null}',
            "value: must be a number, not empty",
        ),
    ],
)
def test_a_corrupt_line_is_named(run: Any, line: str, message: str) -> None:
    run.start("gpuvm-01")
    run.append("gpuvm-01/timings.jsonl", "\n" + line + "\n")
    with pytest.raises(BadInput) as caught:
        _built(run)
    file = run.dir / "gpuvm-01/timings.jsonl"
    assert str(caught.value).startswith(f"{file}:3: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        ({"schema": 2}, 2, "schema: must be 1, not 2"),
        ({"status": "fine"}, 19, "status: must be 'running', "),
        ({"vms": [{"name": ".."}]}, 23, "vms.0.name: '..' is no name of a folder"),
        ({"started": "yesterday"}, 17, "started: must be a time such as"),
    ],
)
def test_a_wrong_manifest_is_named_with_its_line(
    run: Any, change: dict[str, Any], line: int, message: str
) -> None:
    manifest = json.loads((run.dir / "manifest.json").read_text(encoding="utf-8"))
    text = json.dumps(manifest | change, indent=2)
    (run.dir / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        _built(run)
    at = str(caught.value)
    assert at.startswith(f"{run.dir / 'manifest.json'}:{line}: {message}"), at


def test_a_manifest_that_is_no_json(run: Any) -> None:
    (run.dir / "manifest.json").write_text('{"schema": 1,\n oops', encoding="utf-8")
    with pytest.raises(BadInput, match=r"manifest\.json:2: not JSON"):
        _built(run)


def test_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"is not a run: it has no manifest\.json"):
        report.build([tmp_path])


def test_several_runs_keep_their_order(tmp_path: Path) -> None:
    dirs = [report_records.failed_run(tmp_path), report_records.captioning_run(tmp_path)]
    built = report.build(dirs).runs
    assert [run.status for run in built] == ["failed", "succeeded"]


def test_report_is_immutable(run: Any) -> None:
    built = _built(run)
    with pytest.raises(dataclasses.FrozenInstanceError):
        built.status = "succeeded"  # type: ignore[misc]
