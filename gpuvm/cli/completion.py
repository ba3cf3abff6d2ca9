"""What the shell completes: names that this machine knows, from its own files.

No vCenter and no guest is asked, and nothing is imported that takes long.
"""

import contextlib
import json
from collections.abc import Iterable

from gpuvm import paths

LATEST = 50
"""So many runs are looked at for the names of VMs."""


def contexts(incomplete: str) -> list[str]:
    return _starting((paths.config_dir() / "contexts").glob("*.yaml"), incomplete)


def workloads(incomplete: str) -> list[str]:
    """The shipped ones; scripts are completed as files by the shell."""
    folders = paths.resource("workloads").glob("*/workload.toml")
    return sorted(name for f in folders if (name := f.parent.name).startswith(incomplete))


def runs(incomplete: str) -> list[str]:
    """The latest first."""
    found = (file.parent.name for file in paths.runs_dir().glob("*/manifest.json"))
    matching = [name for name in found if name.startswith(incomplete)]
    return sorted(matching, key=lambda name: name.split("-")[-3:], reverse=True)


def vms(incomplete: str) -> list[str]:
    """Those that were provisioned from here, or took part in a run whose record is here."""
    found: set[str] = set()
    for file in (paths.state_dir() / "provisioning").glob("*/*.jsonl"):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            found.update(_vm_of(line) for line in file.read_text(encoding="utf-8").splitlines())
    for run in runs("")[:LATEST]:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            manifest = json.loads((paths.runs_dir() / run / "manifest.json").read_bytes())
            found.update(str(vm["name"]) for vm in manifest["vms"])
    return sorted(name for name in found if name and name.startswith(incomplete))


def _vm_of(line: str) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        return str(json.loads(line).get("vm") or "")
    return ""


def _starting(files: Iterable[object], incomplete: str) -> list[str]:
    names = (getattr(file, "stem", "") for file in files)
    return sorted(name for name in names if name.startswith(incomplete))
