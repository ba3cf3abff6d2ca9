"""How close provisioning comes to what the vCenter's own limits allow.

    python benchmarks/provisioning.py            # 4, 16 and 64 VMs; about 6 minutes
    python benchmarks/provisioning.py --vms 4    # the smallest alone

A lab whose clones take 20 s and whose power-ons take 4 s, with the limit of 8 provisioning
operations at a time on the template's host. The makespan, from the first CloneVM_Task to the last
power-on, is divided by the longest chain that the limit allows: ceil(VMs / 8) clones one after the
other and one power-on. The target is at most 1.15.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gpuvm import lab, lifecycle, planner, settings, vsphere
from gpuvm.events import Event, Events
from gpuvm.lab.description import Timings, describe
from gpuvm.settings import Context
from gpuvm.spec import ClusterSpec
from gpuvm.vsphere import VSphere

CLONE_S, POWER_ON_S, AT_ONCE, TARGET = 20.0, 4.0, 8, 1.15


@dataclass
class Stopwatch:
    """Hears the provisioning's events: when the first clone began and the last power-on ended."""

    begun: float = 0.0
    ended: float = 0.0

    def __call__(self, event: Event) -> None:
        if event.name == "clone" and event.state == "start" and not self.begun:
            self.begun = time.monotonic()
        if event.name == "power_on" and event.state == "end":
            self.ended = time.monotonic()

    @property
    def makespan_s(self) -> float:
        return self.ended - self.begun


def main() -> None:
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="gpuvm-bench-") as folder:
        os.environ["GPUVM_CONFIG_DIR"] = f"{folder}/config"
        os.environ["GPUVM_STATE_DIR"] = f"{folder}/state"
        ratios = [_measure(vms, Path(folder)) for vms in options.vms]
    sys.exit(0 if max(ratios) <= TARGET else 1)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vms", type=int, nargs="+", default=[4, 16, 64], metavar="N")
    return parser.parse_args()


def _measure(vms: int, folder: Path) -> float:
    watch = Stopwatch()
    with _site(vms, folder) as (context, connection):
        spec = ClusterSpec(name="bench", hosts=vms, memory_gib=8)
        plan = planner.plan(spec, connection.read_inventory())
        result = lifecycle.provision(plan, connection, context, Events(watch), until="powered-on")
    if result.failed:
        sys.exit(f"{len(result.failed)} VMs failed: {result.failed[0].error}")
    chain_s = math.ceil(vms / AT_ONCE) * CLONE_S + POWER_ON_S
    ratio = watch.makespan_s / chain_s
    print(
        f"{vms:3d} VMs: {watch.makespan_s:6.1f} s, the longest chain {chain_s:5.0f} s, "
        f"ratio {ratio:.3f} (target {TARGET})",
        flush=True,
    )
    return ratio


@contextmanager
def _site(vms: int, folder: Path) -> Iterator[tuple[Context, VSphere]]:
    """A lab with one host for each VM; the template is on the first."""
    timings = Timings(clone_s=CLONE_S, power_on_s=POWER_ON_S, boot_s=3600)
    shape = folder / f"{vms}.json"
    shape.write_text(describe(hosts=vms).model_copy(update={"timings": timings}).to_json())
    reading, writing = os.pipe()
    name = f"bench-{vms}"
    lab.up(lab.LabOptions(name=name, description=shape), lifeline=reading)
    os.close(reading)
    context = settings.load(name)
    try:
        with vsphere.connect(context, settings.password(context, None)) as connection:
            yield context, connection
    finally:
        lab.down(name)
        os.close(writing)


if __name__ == "__main__":
    main()
