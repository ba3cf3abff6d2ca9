"""govmomi's unmodified simulator: several objects of each kind, a VM template per datacenter.

It has no GPUs and none of the lab's rules: what gpuvm does there owes nothing to the lab.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from govc_client import Govc

from gpuvm import settings
from gpuvm.lab.build import vcsim_binary
from gpuvm.settings import Context

SEVERAL = {"dc": 2, "cluster": 2, "folder": 1, "pool": 2, "pg": 3, "ds": 3}
TEMPLATE = "/DC0/vm/DC0_C0_RP1_VM0"
TEMPLATE_ELSEWHERE = "/F0/DC1/vm/F0/DC1_C0_RP1_VM0"


@dataclass(frozen=True)
class Stock:
    url: str
    ca_file: str
    govc: Govc

    @property
    def context(self) -> Context:
        """Any password is right there."""
        trust = settings.CAFile(verify="ca", ca_file=Path(self.ca_file))
        return Context(
            name="stock", vcenter=self.url, user="u", password_command="echo any", tls=trust
        )


@contextmanager
def stock_vcenter(folder: Path, **counts: int) -> Iterator[Stock]:
    """``counts`` as vcsim's own flags: dc, cluster, folder, pool, pg, ds."""
    flags = [f"-{name}={count}" for name, count in (counts or SEVERAL).items()]
    server = subprocess.Popen(
        [vcsim_binary(), "--stock", "--state-dir", str(folder), *flags],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    server.stdout.readline()
    ready = json.loads((folder / "ready.json").read_text())
    govc = Govc(ready["url"], "u", "any", ready["ca_file"])
    for vm in (TEMPLATE, TEMPLATE_ELSEWHERE):
        govc("vm.power", "-off", vm)
        govc("vm.markastemplate", vm)
    yield Stock(ready["url"], ready["ca_file"], govc)
    server.terminate()
    server.wait()
    server.stdout.close()
