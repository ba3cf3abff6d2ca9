"""A check, and what the checks look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gpuvm.doctor.trial_plan import TrialPlan
from gpuvm.inventory import Inventory, Licence, MoRef
from gpuvm.spec import ClusterSpec

Level = Literal["ok", "warning", "failure"]


@dataclass(frozen=True)
class Check:
    """``hint`` says what to do about it, where something is to be done."""

    name: str
    level: Level
    text: str
    hint: str | None = None


@dataclass(frozen=True)
class CheckInput:
    """``missing`` are the privileges that the account lacks, per object.

    ``licences`` are by moref or instance UUID, None when the account is not told.
    """

    spec: ClusterSpec
    inventory: Inventory
    trial: TrialPlan
    missing: Mapping[MoRef, Sequence[str]]
    tls: str
    licences: Mapping[str, Licence] | None = None
