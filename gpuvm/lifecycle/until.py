"""How far provisioning takes each VM."""

from typing import Literal

Until = Literal["powered-on", "address", "ready"]
