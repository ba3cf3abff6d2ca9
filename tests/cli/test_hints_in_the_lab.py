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
