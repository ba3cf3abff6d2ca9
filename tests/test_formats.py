"""gpuvm's own files have versions: an older one is read, a newer one refused and left alone."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuvm import digests, files, paths, results, settings
from gpuvm.errors import BadInput
from gpuvm.files import Format
from gpuvm.inventory import VCenter
from gpuvm.lab.state_folder import LabRecord, lab_folder
from gpuvm.settings import Context


@dataclass(frozen=True)
class Kept:
    """A file, the key that has its version, and how it is read again."""

    file: Path
    key: str
    read: Callable[[], Any]

    def change(self, version: int | None) -> None:
        data = yaml.safe_load(self.file.read_text())
        data.pop(self.key, None)
        self.file.write_text(json.dumps(data if version is None else data | {self.key: version}))


def context() -> Kept:
    file = settings.save(Context(name="site", vcenter="vc.example", user="alice"))
    return Kept(file, "version", lambda: settings.load("site"))


def run() -> Kept:
    made = results.create(
        workload="mnist",
        args=(),
        distributed=False,
        vcenter=VCenter("vc", "https://vc.example", "8.0.3", "8.0.3.0", "uuid"),
        cluster="c",
        deployment="d",
        vms=(),
        provisioning=Path("none"),
    )
    return Kept(made.dir / "manifest.json", "schema", results.load)


def lab() -> Kept:
    folder = lab_folder("lab")
    folder.path.mkdir(parents=True)
    folder.save(LabRecord(address_block="127.77.0.0/16", ssh_port=2222, previous_context=None))
    return Kept(folder.path / "lab.json", "version", folder.record)


KEPT: dict[Format, Callable[[], Kept]] = {files.CONTEXT: context, files.RUN: run, files.LAB: lab}


def test_every_format_is_tried() -> None:
    assert {*KEPT, files.DIGESTS} == set(files.FORMATS)


@pytest.mark.parametrize("kind", KEPT, ids=lambda kind: str(kind.what))
def test_versions(kind: Format) -> None:
    kept = KEPT[kind]()
    assert yaml.safe_load(kept.file.read_text())[kept.key] == kind.version
    assert kept.read() is not None
    kept.change(None)
    assert kept.read() is not None, "those of the first gpuvm had no version"
    kept.change(kind.version + 1)
    newer = kept.file.read_bytes()
    with pytest.raises(BadInput) as caught:
        kept.read()
    assert re.fullmatch(
        rf"{re.escape(str(kept.file))}: written by a newer gpuvm \(version {kind.version + 1} of a "
        rf"{kind.what}; gpuvm \S+ reads up to {kind.version}\)",
        str(caught.value),
    )
    assert "update gpuvm" in (caught.value.hint or "")
    assert kept.file.read_bytes() == newer


def test_what_a_newer_context_has_is_no_mistake() -> None:
    file = settings.save(Context(name="site", vcenter="vc.example", user="alice"))
    file.write_text("version: 2\nendpoint: vc.example\n")
    with pytest.raises(BadInput, match="written by a newer gpuvm"):
        settings.load("site")


def test_a_cache_of_another_version_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUVM_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "file"
    file.write_bytes(b"content")
    right = digests.digest(file)
    (cache,) = (paths.cache_dir() / "digests").iterdir()
    kept = json.loads(cache.read_text())
    assert kept["version"] == files.DIGESTS.version
    others: tuple[object, ...] = (
        {"sha256:file": [7, 0, "wrong"]},
        kept | {"version": 2},
        [],
        {"version": 1},
    )
    for other in others:
        cache.write_text(json.dumps(other))
        assert digests.digest(file) == right
        assert json.loads(cache.read_text())["version"] == files.DIGESTS.version
