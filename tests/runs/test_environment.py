"""Packages for a run in addition to those of the guest's Python, from wheels, without an index."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from programs import wheel

from gpuvm import guest
from gpuvm.errors import BadInput, PreflightRefused
from gpuvm.runs import environment

Machine = Any  # tests/support/ssh_servers.py


def python(machine: Machine, program: str, source: str) -> str:
    done = subprocess.run(
        [program, "-c", source], env=machine.environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def wheels(machine: Machine) -> Path:
    folder = Path(machine.home) / "wheels"
    wheel(folder, "gpuvm_test_one", "1.5", "gpuvm_test_two>=2")
    wheel(folder, "gpuvm_test_two", "2.0")
    return folder


def ensure(machine: Machine, text: str, wheels: Path) -> str:
    requirements = Path(machine.home) / "requirements.txt"
    requirements.write_text(text)
    key = environment.key(requirements, str(wheels))
    (machine.home / "work/run-1").mkdir(parents=True, exist_ok=True)
    with guest.connect(machine.endpoint) as one:
        return environment.ensure(one, "python3", "work/run-1", key, str(requirements), str(wheels))


def test_requirements_above_the_templates_packages(machine: Machine, wheels: Path) -> None:
    made = ensure(machine, "gpuvm-test-one==1.5\nnumpy\n", wheels)
    assert python(machine, made, "import gpuvm_test_two; print(gpuvm_test_two.version)") == "2.0"
    # Of the guest's own Python, not installed again: the wheelhouse has none.
    assert python(machine, made, "import numpy; print(numpy.__file__)").find("envs") == -1
    again = ensure(machine, "gpuvm-test-one==1.5\nnumpy\n", Path(machine.home) / "wheels")
    assert again == made
    assert ensure(machine, "gpuvm-test-two\n", wheels) != made


def test_what_the_resolver_says_is_shown_and_nothing_is_left(
    machine: Machine, wheels: Path
) -> None:
    with pytest.raises(PreflightRefused, match="gpuvm-test-one") as refused:
        ensure(machine, "gpuvm-test-one==9\n", wheels)
    assert "you require gpuvm-test-one==9" in str(refused.value)
    assert not [file for file in (machine.home / "work/envs").iterdir() if file.is_dir()]


def test_an_environment_goes_with_the_last_run_that_uses_it(machine: Machine, wheels: Path) -> None:
    made = Path(ensure(machine, "gpuvm-test-two\n", wheels))
    run = machine.home / "work/run-1"
    with guest.connect(machine.endpoint) as one:
        pruned = guest.prune(one, "python3", "work", older_than_s=0)
        assert pruned == guest.PrunedRuns((), ()), "the run is there"
        (run / "run.json").write_text("{}")
        pruned = guest.prune(one, "python3", "work", older_than_s=0)
        assert pruned == guest.PrunedRuns(("run-1",), (made.parents[1].name,))
        assert not made.exists()
        assert guest.prune(one, "python3", "work", older_than_s=0) == guest.PrunedRuns((), ())


@pytest.mark.tensorflow
def test_tensorflow_stays_the_templates(machine: Machine, wheels: Path) -> None:
    wheel(wheels, "gpuvm_test_old", "1.0", "tensorflow-cpu<2")
    with pytest.raises(PreflightRefused, match="tensorflow-cpu"):
        ensure(machine, "gpuvm-test-old\n", wheels)


def test_a_package_of_the_template_may_be_newer_in_the_environment(
    machine: Machine, wheels: Path
) -> None:
    """The template's stays as it is."""
    before = python(machine, "python3", "import stamina; print(stamina.__file__)")
    wheel(wheels, "stamina", "999")
    made = ensure(machine, "stamina>=999\n", wheels)
    assert python(machine, made, "import stamina; print(stamina.version)") == "999"
    assert python(machine, "python3", "import stamina; print(stamina.__file__)") == before


def test_environment_id_depends_on_all_inputs(tmp_path: Path) -> None:
    file, more = tmp_path / "requirements.txt", tmp_path / "more.txt"
    file.write_text("-r more.txt\nx\n")
    more.write_text("y\n")
    first = environment.key(file, None)
    assert environment.key(file, None) == first
    assert environment.key(file, "wheels") != first
    more.write_text("y>2\n")
    assert environment.key(file, None) != first
    (tmp_path / "down").mkdir()
    more.write_text("-r down/../requirements.txt\n")  # a circle, by a longer path each time
    assert environment.key(file, None) != first
    more.unlink()
    with pytest.raises(BadInput, match=r"more\.txt"):
        environment.key(file, None)
