"""What commands say to do next, in a lab that two contexts lead to."""

from commands import CommandLine as Lab


def test_a_hint_of_one_vcenter_does_not_name_another(lab: Lab) -> None:
    """Typed as it stands it once removed the VMs of the current context."""
    (file,) = lab.home.glob("**/contexts/lab.yaml")
    text = file.read_text().replace("name: lab", "name: other", 1)
    file.with_name("other.yaml").write_text(text)
    done = lab("status", "-c", "other", "--name", "cpu")
    assert "'gpuvm provision -c other --name cpu'" in done.stdout
    errors = lab("stop", "-c", "other", "--json").json["errors"]
    assert "'gpuvm provision -c other'" in errors[0]["hint"]
    by_variable = lab("stop", "gpuvm-02", GPUVM_CONTEXT="other")
    assert "'gpuvm provision -c other'" in by_variable.stderr
    assert "'gpuvm provision'" in lab("stop").stderr


def test_the_next_step_leads_through_the_day(lab: Lab) -> None:
    """Each is typed as it was printed, with the target of the command before."""
    given = ("-c", "other", "--name", "day", "--accelerator", "none")
    carried = "-c other --accelerator none --name day"
    done = lab("doctor", *given)
    assert done.stdout.splitlines()[-1] == f"next: 'gpuvm plan {carried}'", done.stdout
    done = lab("plan", *given, "--json")
    assert done.json["data"]["next"] == f"'gpuvm provision {carried}'"
    done = lab("provision", *given, "--until", "powered-on")
    assert done.exit_code == 0, done.stderr
    again = "'gpuvm provision -c other --accelerator none --name day --until ready'"
    assert done.stdout.splitlines()[-1] == f"next: {again}"
    assert lab("teardown", "-c", "other", "--name", "day", "--yes").exit_code == 0


def test_a_failure_without_a_hint_has_a_next_step(lab: Lab) -> None:
    done = lab("plan", "--template", "centos8", "--accelerator", "none")
    assert "hint: " in done.stderr
    assert "next:" not in done.stderr
    assert lab("help", "plan").stdout == lab("plan", "-h").stdout
