"""Whatever a person writes is read or refused in a sentence: never a traceback, never without end.

The examples are the same every time; ``make soak`` takes many more of them.
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gpuvm import accelerators, planner, spec
from gpuvm.cli import main
from gpuvm.devices import GPU, VGPUProfile
from gpuvm.documents import read_document
from gpuvm.errors import GpuvmError, Mistakes
from gpuvm.inventory import Cluster, Datastore, Host, Inventory, Network, VCenter, VMTemplate
from gpuvm.lab.description import Description
from gpuvm.settings import Context, parse_address
from gpuvm.spec import ClusterSpec

PARTS = [0, *(pytest.param(part, marks=pytest.mark.soak) for part in range(1, 21))]
"""Part 0 is a sample. The other 20 have many times as many examples, each from a seed of its own:
hypothesis takes longer for every further example of one test.
"""
SAMPLE, WHOLE = 80, 1000
MOST_MIB = 200
PYDANTIC = ("Input should", "valid dictionary", "discriminator", "Value error", "Extra inputs")

words = st.text(max_size=30) | st.sampled_from(
    [
        "passthrough",
        "none",
        "vgpu:x",
        "10.0.0.1",
        "9-1",
        "1e999",
        "0x_",
        "2026-99-99",
        "<<",
        "=",
        "",
    ]
)
numbers = st.integers() | st.floats() | st.sampled_from([10**4000, -1, 0, 2**63, float("nan")])
values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | numbers, inner, max_size=4),
    max_leaves=12,
)


def keys_of(model: Any) -> list[str]:
    inner = [name for field in model.model_fields.values() for name in _fields(field.annotation)]
    return sorted({*model.model_fields, *inner})


def _fields(annotation: Any) -> list[str]:
    own = list(getattr(annotation, "model_fields", ()))
    return own + [name for part in getattr(annotation, "__args__", ()) for name in _fields(part)]


def documents(model: Any) -> st.SearchStrategy[str]:
    """Nearly right ones, what YAML makes of any value, and any text at all."""
    keys = st.sampled_from(keys_of(model)) | words
    nested = st.dictionaries(keys, values | st.dictionaries(keys, values, max_size=4), max_size=5)
    return nested.map(_dumped) | values.map(_dumped) | st.text(max_size=200)


def _dumped(value: Any) -> str:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)  # a person can write as many digits as there are
    try:
        return str(yaml.safe_dump(value, allow_unicode=True))
    finally:
        sys.set_int_max_str_digits(limit)


def tried(
    part: int,
    strategy: st.SearchStrategy[Any],
    check: Callable[[Any], object],
    examples: tuple[int, int] = (SAMPLE, WHOLE),
) -> None:
    @seed(part)
    @settings(
        max_examples=examples[part > 0],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(example: Any) -> None:
        try:
            check(example)
        except GpuvmError as error:
            for one in error.errors if isinstance(error, Mistakes) else (error,):
                assert str(one)
                assert not [phrase for phrase in PYDANTIC if phrase in str(one)]

    run()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("model", [ClusterSpec, Context, Description])
def test_any_document(tmp_path: Path, model: Any, part: int) -> None:
    file = tmp_path / "any.yaml"

    def read(text: str) -> None:
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        read_document(file, model)

    tried(part, documents(model), read)


@pytest.mark.parametrize("part", PARTS)
def test_any_bytes(tmp_path: Path, part: int) -> None:
    file = tmp_path / "any.yaml"

    def read(content: bytes) -> None:
        file.write_bytes(content)
        spec.load(file)

    tried(part, st.binary(max_size=300), read)


@pytest.mark.parametrize("part", PARTS)
def test_any_accelerator(part: int) -> None:
    keys = st.sampled_from(["count", "model", "mmio_gib", "device_id", "addresses", "x"]) | words
    field = st.builds("{}={}".format, keys, words) | words
    modes = st.sampled_from(["passthrough", "dynamic", "vgpu", "device-group", "none"])
    typed = st.builds("{}:{}".format, modes, st.lists(field, max_size=4).map(",".join))
    tried(part, typed | words, accelerators.parse)


@pytest.mark.parametrize("part", PARTS)
def test_any_address(part: int) -> None:
    shapes = st.builds(
        "{}{}:{}{}".format, st.sampled_from(["", "https://", "[::1]"]), words, words, words
    )
    tried(part, shapes | words, parse_address)


@pytest.mark.parametrize("part", PARTS)
def test_any_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    """Of commands that know no vCenter: they end before there is anything to reach."""
    monkeypatch.chdir(tmp_path)
    options = [
        "--hosts",
        "--name",
        "--accelerator",
        "--placement",
        "--json",
        "-f",
        "--cluster",
        "--",
    ]
    names = st.sampled_from(["plan", "provision", "status", "gpus", "teardown", "runs", "logs"])
    arguments = st.lists(st.sampled_from(options) | words, max_size=6)

    def run(line: list[str]) -> None:
        done = CliRunner().invoke(main.app, line)
        assert isinstance(done.exception, (SystemExit, type(None))), (line, done.exception)
        assert done.exit_code in (0, 2), (line, done.output)

    tried(part, st.builds(lambda name, rest: [name, *rest], names, arguments), run, (20, 100))


@pytest.mark.parametrize("part", PARTS)
def test_any_spec_is_planned_or_refused(part: int) -> None:
    tried(part, specs(), lambda wanted: planner.plan(wanted, SITE))


@st.composite
def specs(draw: Callable[..., Any]) -> ClusterSpec:
    """Valid ones, up to their bounds."""
    accelerator = st.fixed_dictionaries(
        {"mode": st.sampled_from(["passthrough", "dynamic"])},
        optional={
            "count": st.integers(1, 16),
            "mmio_gib": st.integers(0, accelerators.LARGEST_WINDOW_GIB),
            "model": st.sampled_from(["P100", "A100"]),
        },
    )
    names = st.sampled_from(["tf", "store", "net", "elsewhere", "*", "[", "l*"])
    wanted = st.fixed_dictionaries(
        {},
        optional={
            "hosts": st.integers(1, 5) | st.integers(1, spec.MOST_HOSTS),
            "per_host": st.integers(1, 3) | st.integers(1, spec.MOST_PER_HOST),
            "placement": st.sampled_from(["one-per-host", "pack", "spread"]),
            "clone_mode": st.sampled_from(["full", "linked"]),
            "cpus": st.integers(1, spec.MOST_CPUS),
            "memory_gib": st.floats(0.1, spec.MOST_MEMORY_GIB),
            "accelerator": accelerator | st.sampled_from(["none", "vgpu:grid_p100-4q", "vgpu:x"]),
            "template": names,
            "datastore": names | st.dictionaries(names, names, max_size=3),
            "network": names,
            "storage_policy": names,
        },
    )
    return ClusterSpec.model_validate(draw(wanted))


def _host(number: int) -> Host:
    shared = number == 3
    profiles = (VGPUProfile("grid_p100-4q", 4),) if shared else ()
    gpus = tuple(
        GPU(
            f"esx-{number}",
            address,
            0x10DE,
            0x15F8,
            "Tesla P100",
            16,
            capable=True,
            enabled=not shared,
            active=not shared,
            dependent_device=address,
            system_id="s",
            profiles=profiles,
        )
        for address in ("0000:3b:00.0", "0000:af:00.0")[:number]
    )
    return Host(
        f"esx-{number}",
        f"host-{number}",
        "connected",
        in_maintenance_mode=False,
        in_quarantine_mode=False,
        memory_gib=256,
        reserved_gib=0,
        model="R730",
        gpus=gpus,
        datastores=("store-1",),
        networks=("network-1",),
        cpu_threads=56,
    )


SITE = Inventory(
    vcenter=VCenter("vc", "https://vc", "8.0", "8.0", "4f1f6f8e-0000-4000-8000-000000000001"),
    cluster=Cluster("GPUs", "c-1", "/Lab/host/GPUs", "Lab", "pool-1", "folder-1"),
    hosts=tuple(map(_host, (1, 2, 3))),
    templates=(
        VMTemplate("tf", "vm-1", "/Lab/vm/tf", "efi", 17, 8, 32, 40, (), False, "centos7_64Guest"),
    ),
    datastores=(Datastore("store", "store-1", 4000, accessible=True),),
    networks=(Network("net", "network-1"),),
    vms=(),
    names_in_folder=frozenset(),
)

LARGE = {
    "many hosts": "hosts: 1000\nper_host: 128\nplacement: spread\n",
    "more than many": "hosts: 99999999999\n",
    "deep": "[" * 100_000,
    "deep by lines": "".join(" " * n + "a:\n" for n in range(400)),
    "wide": "a: [" + "a," * 60_000 + "]\n",
    "many keys": "".join(f"k{n}: 1\n" for n in range(12_000)),
    "digits": "hosts: " + "9" * 100_000,
    "aliases": "".join(
        f"k{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9 if n else 'x')}]\n" for n in range(20)
    ),
    "addresses": "addresses: {first: '::1', last: 'ffff::', prefix: 1}\nhosts: 1000\n",
}


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
def test_a_large_wish_takes_little_memory(tmp_path: Path, text: str) -> None:
    """Of a process of its own, which says how much it had at most, hypothesis included."""
    file = tmp_path / "gpuvm.yaml"
    file.write_text(text)
    done = subprocess.run(
        [sys.executable, __file__, str(file)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert int(done.stdout) < MOST_MIB * 1024


def _kib_for(file: Path) -> int:
    with contextlib.suppress(GpuvmError):
        planner.plan(spec.load(file), SITE)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0])  # getrusage's has the parent's in it


if __name__ == "__main__":
    sys.stdout.write(str(_kib_for(Path(sys.argv[1]))))
