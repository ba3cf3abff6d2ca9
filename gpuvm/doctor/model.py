"""The result of a check, and the input of the checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gpuvm.doctor.trial_plan import TrialPlan
from gpuvm.inventory import Inventory, Licence, MoRef
from gpuvm.spec import ClusterSpec

Level = Literal["ok", "warning", "failure"]


@dataclass(frozen=True)
class Check:
    """The result of a check; ``hint`` says what to do, if anything."""

    name: str
    level: Level
    text: str
    hint: str | None = None


@dataclass(frozen=True)
class CheckInput:
    """``missing`` are the privileges that the account lacks, per object.

    ``licences`` are by moref or instance UUID, None if they could not be read.
    """

    spec: ClusterSpec
    inventory: Inventory
    trial: TrialPlan
    missing: Mapping[MoRef, Sequence[str]]
    tls: str
    licences: Mapping[str, Licence] | None = None
