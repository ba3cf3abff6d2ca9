"""A simulated vCenter without guests, and trouble at one chosen call of a command."""

import json
import os
import shlex
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from simulated_vcenter import Rig

from gpuvm import settings
from gpuvm.lab.build import vcsim_binary
from gpuvm.lab.description import ADMINISTRATOR, Description, UserDescription
from gpuvm.settings import CAFile, Context

OTHER_ADMINISTRATOR = "observer@lab.local"
"""For what the test itself does, whose calls are not counted with those of the commands."""

Trouble = Literal["fault", "task", "lost-answer", "dropped", "timeout", "expired", "slow"]
TROUBLES: tuple[Trouble, ...] = get_args(Trouble)
"""A fault of the call, or of the task that it starts; a call that is served whose answer is lost;
one that is lost itself; one whose answer does not come before the client gives up; one of an
expired session; one whose answer takes a good part of that time."""

TIMEOUT_S, SLOW_S = 2.0, 0.4


@dataclass(frozen=True)
class BareVCenter(Rig):
    """``context`` is that of the commands; ``observer`` sees the same vCenter."""

    @property
    def observer(self) -> Rig:
        return Rig(self._as(OTHER_ADMINISTRATOR), self.control)

    def _as(self, user: str) -> Context:
        return self.context.model_copy(
            update={"user": user, "password_command": shlex.join(["echo", user])}
        )

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.control + path) as answer:
            return json.load(answer)

    def calls_in_all(self) -> dict[str, int]:
        """Those of the commands: with the calls before their login."""
        counted: Counter[str] = Counter()
        for user in ("anonymous", self.context.user):
            counted.update(self.get("/calls").get(user, {}))
        return dict(counted)

    def happened(self) -> bool:
        """Whether the trouble has come to its call; how often a method is called varies."""
        used = all(rule["injected"] for rule in self.get("/faults"))
        return used and not self.get("/drop-after")

    def trouble(self, kind: Trouble, method: str, occurrence: int) -> None:
        """At this call of the method, counted from 1."""
        rule: dict[str, Any] = {"method": method, "count": 1, "skip": occurrence - 1}
        match kind:
            case "fault":
                self.post("/faults", rule | {"fault": "SystemError", "message": "trouble"})
            case "task":
                self.post("/faults", rule | {"fault": "SystemError", "where": "task"})
            case "expired":
                self.post("/faults", rule | {"expired": True})
            case "slow":
                self.post("/faults", rule | {"delay_s": SLOW_S})
            case "lost-answer":
                self.post("/drop-after", rule)
            case "dropped":
                self.post("/drop-after", rule | {"lost": True})
            case "timeout":
                self.post("/drop-after", rule | {"hold": True})


@contextmanager
def bare_vcenter(folder: Path, shape: Description) -> Iterator[BareVCenter]:
    """The context is saved as ``bare``; passwords are the accounts' names."""
    folder.mkdir()
    users = (*shape.users, UserDescription(name=OTHER_ADMINISTRATOR))
    shape = shape.model_copy(update={"users": users, "address_block": "127.79.0.0/16"})
    (folder / "site.json").write_text(shape.to_json())
    (folder / "passwords.json").write_text(json.dumps({user.name: user.name for user in users}))
    reading, writing = os.pipe()  # it ends with this process, however that ends
    server = subprocess.Popen(
        [
            *(vcsim_binary(), "--state-dir", folder, "--description", folder / "site.json"),
            *("--parent-fd", str(reading)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[reading],
    )
    os.close(reading)
    ready = folder / "ready.json"
    while not ready.exists():
        assert server.poll() is None, "the simulator did not start"
        time.sleep(0.01)
    found = json.loads(ready.read_text())
    context = Context(
        name="bare",
        vcenter=found["url"],
        user=ADMINISTRATOR,
        password_command=shlex.join(["echo", ADMINISTRATOR]),
        tls=CAFile(verify="ca", ca_file=Path(found["ca_file"])),
        timeout_s=TIMEOUT_S,
        confirm=False,
    )
    settings.save(context)
    try:
        yield BareVCenter(context, found["control_url"])
    finally:
        os.close(writing)
        server.wait()
