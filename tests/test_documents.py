"""Errors in gpuvm.yaml are reported with file and line, in one line."""

from pathlib import Path

import pytest

from gpuvm import spec
from gpuvm.errors import BadInput


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("hosts: 4\nacelerator: {}\n", "gpuvm.yaml:2: acelerator: unknown key", "'accelerator'"),
        ("hosts: 4\nxyzzy: red\n", "gpuvm.yaml:2: xyzzy: unknown key", "the keys are: "),
        ("hosts: 0\n", "gpuvm.yaml:1: hosts: input should be greater than or equal to 1", ""),
        ("name: X_y\n", "gpuvm.yaml:1: name: string should match pattern", ""),
        ("\n\nmemory_gib: much\n", "gpuvm.yaml:3: memory_gib: 'much' is not a size", ""),
        (
            "accelerator:\n  mode: passthrough\n  profil: grid\n",
            "gpuvm.yaml:3: accelerator.profil: unknown key",
            "",
        ),
        ("accelerator: {mode: magic}\n", "gpuvm.yaml:1: accelerator: input tag 'magic'", ""),
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
        ("hosts: 0\nname: X_y\n", "(and 1 more)", ""),
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
