"""govc against a simulated vCenter: changes by another tool while gpuvm runs."""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuvm import settings
from gpuvm.lab.build import vcsim_binary
from gpuvm.settings import CAFile, Context

SOURCE = Path(__file__).parent / "govc"


@dataclass(frozen=True)
class Govc:
    """``url`` is the vCenter's, with /sdk; certificates are verified with ``ca_file``."""

    url: str
    user: str
    password: str
    ca_file: str
    settings: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """What the command prints. Raises AssertionError with its message when it fails."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"govc {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        command, *rest = arguments
        return json.loads(self(command, "-json", *rest))

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [binary(), *arguments],
            env=self._environment(),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The same, while the test does something else."""
        return subprocess.Popen(
            [binary(), *arguments],
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _environment(self) -> dict[str, str]:
        govc_variables = {
            "GOVC_URL": self.url,
            "GOVC_USERNAME": self.user,
            "GOVC_PASSWORD": self.password,
            "GOVC_TLS_CA_CERTS": self.ca_file,
            "GOVC_PERSIST_SESSION": "false",
        }
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("GOVC_")}
        return inherited | govc_variables | self.settings


def binary() -> Path:
    """Built once from the govmomi release that vcsim/ uses, and cached as the lab's vCenter is."""
    return vcsim_binary(source=SOURCE)


def govc_of(context: Context) -> Govc:
    """As the user of a lab's context."""
    assert isinstance(context.tls, CAFile)
    secret = settings.password(context, None).get_secret_value()
    return Govc(context.vcenter, context.user, secret, str(context.tls.ca_file))
