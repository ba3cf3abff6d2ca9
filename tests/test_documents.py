"""Errors in gpuvm.yaml are reported with file and line, in one line."""

from pathlib import Path

import pytest

from gpuvm import accelerators, spec
from gpuvm.errors import BadInput, Mistakes


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("hosts: 4\nacelerator: {}\n", "gpuvm.yaml:2: acelerator: unknown key", "'accelerator'"),
        ("hosts: 4\nxyzzy: red\n", "gpuvm.yaml:2: xyzzy: unknown key", "the keys are: "),
        ("hosts: 0\n", "gpuvm.yaml:1: hosts: must be at least 1, not 0", ""),
        ("name: X_y\n", "gpuvm.yaml:1: name: 'X_y' is not a name of a-z", ""),
        ("\n\nmemory_gib: much\n", "gpuvm.yaml:3: memory_gib: 'much' is not a size", ""),
        (
            "accelerator:\n  mode: passthrough\n  profil: grid\n",
            "gpuvm.yaml:3: accelerator.profil: unknown key",
            "",
        ),
        ("accelerator: {mode: magic}\n", "gpuvm.yaml:1: accelerator: there is no mode 'magic'", ""),
        ("hosts: [\n", "gpuvm.yaml:2: not YAML", ""),
        ("- 1\n", "gpuvm.yaml:1: ", ""),
        (
            "extra_config:\n  disk.EnableUUID: 'TRUE'\n  gpuvm.index: '7'\n",
            "gpuvm.yaml:3: extra_config.gpuvm.index: reserved for gpuvm",
            "",
        ),
        (
            "extra_config: {GuestInfo.UserData: x}\n",
            "gpuvm.yaml:1: extra_config.GuestInfo.UserData: reserved for gpuvm",
            "",
        ),
        (
            "addresses: {first: 10.0.0.250, last: 10.0.1.5, prefix: 24}\n",
            "gpuvm.yaml:1: addresses: last 10.0.1.5 is outside 10.0.0.0/24",
            "",
        ),
        (
            "addresses: {first: 10.0.0.2, last: 10.0.0.5, prefix: 24, gateway: 10.0.1.1}\n",
            "gpuvm.yaml:1: addresses: gateway 10.0.1.1 is outside 10.0.0.0/24",
            "",
        ),
        (
            "hosts: 1\nidle_shutdown: 5m\n",
            "gpuvm.yaml:2: idle_shutdown: 5m is not between 10m and",
            "",
        ),
        (
            "idle_shutdown: 2\n",
            "gpuvm.yaml:1: idle_shutdown: '2' is not a duration such as 45m",
            "",
        ),
        ("idle_shutdown: -2h\n", "gpuvm.yaml:1: idle_shutdown: '-2h' is not a duration", ""),
        ("idle_shutdown: off\n", "gpuvm.yaml:1: idle_shutdown: 'False' is not a duration", ""),
        (f"idle_shutdown: {'9' * 400}d\n", "99d is not between 10m and 365d", ""),
        (
            "accelerator: {mode: none, count: 1}\n",
            "gpuvm.yaml:1: accelerator.count: mode none takes no count",
            "leave count out",
        ),
        (
            "accelerator: {mode: passthrough, profile: a}\n",
            "accelerator.profile: mode passthrough takes no profile",
            "mode passthrough takes addresses, count, label, mmio_gib, model",
        ),
        ("accelerator: {count: 1}\n", "accelerator: mode is missing", "it is one of passthrough"),
        (
            "accelerator: magic\n",
            "accelerator: unknown mode 'magic': the modes are passthrough",
            "",
        ),
        ("accelerator: vgpu\n", "accelerator.profile: is missing", ""),
        ("hosts: 2\nname: a\nhosts: 3\n", "gpuvm.yaml:3: hosts: given twice, first on line 1", ""),
        (
            "accelerator:\n  mode: vgpu\n  profile: a\n  profile: b\n",
            "gpuvm.yaml:4: accelerator.profile: given twice, first on line 3",
            "",
        ),
        ("hosts: 99999999999\n", "hosts: must be at most 1000, not 99999999999", ""),
        ("\nhosts: " + "9" * 5000 + "\n", "gpuvm.yaml:2: '9999999", ""),
        ("cpus: 2026-99-99\n", "gpuvm.yaml:1: '2026-99-99' cannot be read", ""),
        ("name: a\n\x01: b\n", "gpuvm.yaml:2: not YAML: the character U+0001", ""),
        ("[" * 3000, "gpuvm.yaml:1: nested more than 20 deep", ""),
        ("a: &a [*a]\n", "gpuvm.yaml:1: it contains itself", ""),
        ("a: 'b" + "c" * 200_000 + "'\n", "gpuvm.yaml: larger than 128 KiB", ""),
        (
            "".join(
                f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9 if n else 'x')}]\n" for n in range(15)
            ),
            "its aliases (*name) stand for too much",
            "",
        ),
        ("deadlines: {clone_s: .inf}\n", "deadlines.clone_s: must be a finite number", ""),
        ("memory_gib: 99999TiB\n", "memory_gib: must be at most 24576", ""),
        ("distributed: {ports: 20100-20000}\n", "distributed.ports: 20100-20000 is reversed", ""),
        ("distributed: {ports: 1-70000}\n", "distributed.ports: 1-70000 is not within 1-65535", ""),
        ("distributed: {ports: '80'}\n", "distributed.ports: '80' is not a range of ports", ""),
        ("datastore: [a]\n", "datastore: must be a name, or a name for each host", ""),
        ("datastore: {esx-01: 1}\n", "gpuvm.yaml:1: datastore: 1 is no name", ""),
        ("template: ''\n", "template: is empty", ""),
        ("name: 7\n", "name: must be text, and is 7: put it in quotes", ""),
        (
            "addresses: {first: 5, last: 10.0.0.9, prefix: 24}\n",
            "gpuvm.yaml:1: addresses.first: 5 is not an IP address",
            "",
        ),
    ],
)
def test_complaint(tmp_path: Path, text: str, message: str, hint: str) -> None:
    file = tmp_path / "gpuvm.yaml"
    file.write_text(text)
    with pytest.raises(BadInput) as caught:
        spec.load(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_everything_wrong_is_said_at_once_and_in_order(tmp_path: Path) -> None:
    file = tmp_path / "gpuvm.yaml"
    file.write_text("template: 3\nhosts: none\nacelerator: {}\nhosts: 2\nname: X_y\n")
    with pytest.raises(Mistakes) as caught:
        spec.load(file)
    assert [str(one).removeprefix(f"{tmp_path}/") for one in caught.value.errors] == [
        "gpuvm.yaml:1: template: must be text, and is 3: put it in quotes",
        "gpuvm.yaml:3: acelerator: unknown key",
        "gpuvm.yaml:4: hosts: given twice, first on line 2",
        "gpuvm.yaml:5: name: 'X_y' is not a name of a-z and 0-9, hyphens within, 32 at most",
    ]
    assert [one.hint for one in caught.value.errors] == [
        None,
        "did you mean 'accelerator'?",
        *[None] * 2,
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hosts: true", "hosts: must be a number, not true"),
        ("cpus: on", "cpus: must be a number, not true"),
        ("memory_gib: false", "memory_gib: must be a number, not false"),
        ("deadlines: {clone_s: yes}", "deadlines.clone_s: must be a number, not true"),
        ("accelerator: {mode: passthrough, count: true}", "count: must be a number, not true"),
        ("hosts: 010", "'010' is no plain number"),
        ("hosts: 1:30", "'1:30' is no plain number"),
        ("hosts: 0b10", "'0b10' is no plain number"),
        ("hosts: 1_0", "'1_0' is no plain number"),
    ],
)
def test_a_number_is_one_to_its_reader_too(tmp_path: Path, text: str, problem: str) -> None:
    """YAML 1.1 reads octal numbers and times of day, and pydantic takes true for 1."""
    file = tmp_path / "gpuvm.yaml"
    file.write_text(text)
    with pytest.raises(BadInput) as refused:
        spec.load(file)
    assert problem in str(refused.value)
    file.write_text("hosts: 4\ncpus: '8'")
    assert (spec.load(file).hosts, spec.load(file).cpus) == (4, 8)


def test_not_more_mistakes_than_one_reads(tmp_path: Path) -> None:
    file = tmp_path / "gpuvm.yaml"
    file.write_text("".join(f"k{n}: 1\n" for n in range(500)))
    with pytest.raises(Mistakes) as caught:
        spec.load(file)
    assert len(caught.value.errors) == 21
    assert str(caught.value.errors[-1]) == "and 480 more mistakes"


def test_options_that_are_wrong_are_all_named() -> None:
    with pytest.raises(Mistakes) as caught:
        spec.load(None, per_host=0, name="Bad Name")
    assert [str(one).partition(": ")[0] for one in caught.value.errors] == ["--name", "--per-host"]


@pytest.mark.parametrize(
    "word", ["passthrough", "passthrough:model=P100,count=2", "vgpu:grid_p100-4q", "none"]
)
def test_an_accelerator_may_be_written_as_on_the_command_line(tmp_path: Path, word: str) -> None:
    file = tmp_path / "gpuvm.yaml"
    file.write_text(f"accelerator: {word}\n")
    assert spec.load(file).accelerator == accelerators.parse(word)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("magic", "--accelerator: unknown mode 'magic'"),
        ("vgpu", "--accelerator vgpu: profile: is missing"),
        ("passthrough:count=x", "count: must be a whole number, not 'x'"),
        ("passthrough:count=1,count=2", "--accelerator: count is given twice"),
        ("dynamic:device_id=zz", "device_id=zz is not a hex number"),
        ("none:count=1", "unknown key 'count'"),
        ("passthrough:P100", "'P100' is not KEY=VALUE"),
    ],
)
def test_an_accelerator_on_the_command_line_is_refused_in_our_words(word: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        accelerators.parse(word)
    assert said in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        spec.load(tmp_path / "other.yaml")


@pytest.mark.parametrize(
    ("written", "gib"), [("32", 32), ("32GiB", 32), ("32 GB", 32), ("1.5TiB", 1536), ("512M", 0.5)]
)
def test_sizes(tmp_path: Path, written: str, gib: float) -> None:
    file = tmp_path / "gpuvm.yaml"
    file.write_text(f"memory_gib: {written}\n")
    assert spec.load(file).memory_gib == gib


def test_starter_parses_and_is_the_default() -> None:
    """The commented starter wishes for exactly what an empty file does."""
    starter = Path(__file__).parents[1] / "templates" / "gpuvm.yaml"
    assert spec.load(starter) == spec.ClusterSpec()


def test_every_commented_key_of_the_starter_is_a_key(tmp_path: Path) -> None:
    starter = (Path(__file__).parents[1] / "templates" / "gpuvm.yaml").read_text()
    lines = [line for line in starter.splitlines() if not line.startswith("# ") or ":" in line]
    head, body = lines[:2], lines[2:]
    uncommented = tmp_path / "gpuvm.yaml"
    uncommented.write_text("\n".join(_uncommented(line) for line in body))
    loaded = spec.load(uncommented)
    assert loaded.template == "centos7-tensorflow"
    assert loaded.distributed.ports == "20000-20100"
    assert head


def test_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "gpuvm.yaml"
    file.write_text("hosts: 2\nname: mine\n")
    assert spec.load(file, hosts=4, name=None).hosts == 4
    assert spec.load(file, hosts=4, name=None).name == "mine"


def _uncommented(line: str) -> str:
    stripped = line.lstrip()
    indent = line[: len(line) - len(stripped)]
    return indent + stripped.removeprefix("# ") if stripped.startswith("# ") else line


@pytest.mark.parametrize(
    "text",
    [
        "passthrough",
        "none",
        "vgpu:grid_p100-4q",
        "vgpu:grid_p100-4q,count=2",
        "device-group:2xA100,mmio_gib=256",
        "passthrough:count=2,model=P100",
        "passthrough:addresses=0000:3b:00.0,addresses=0000:af:00.0",
        "dynamic:vendor_id=10de,device_id=15f8",
    ],
)
def test_an_accelerator_is_shown_as_it_is_typed(text: str) -> None:
    read = accelerators.parse(text)
    assert accelerators.parse(accelerators.written(read)) == read
    assert sorted(accelerators.written(read).split(",")) == sorted(text.split(","))
