"""What the studio needs of a cluster; the command line has the session for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gpuvm.inventory import Inventory
from gpuvm.runs import Member
from gpuvm.settings import GuestSettings
from gpuvm.spec import ClusterSpec


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    empty: str
    """What is said when there is no row."""


@dataclass(frozen=True)
class Glance:
    """The cluster at one moment, as tables; ``notes`` are what could not be read."""

    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()


class Site(Protocol):
    """A deployment in a vCenter; its methods may be called from several threads."""

    @property
    def name(self) -> str:
        """The vCenter and the context, for the top of the page."""
        ...

    @property
    def spec(self) -> ClusterSpec: ...

    @property
    def guest(self) -> GuestSettings: ...

    def read(self) -> tuple[Inventory, Sequence[Member]]:
        """The running VMs that may make pictures. Raises GpuvmError."""
        ...

    def glance(self) -> Glance:
        """Raises GpuvmError."""
        ...
