"""Keeps the host blocks of ``gpuvm ssh-config`` as the VMs are, wherever they change."""

from collections.abc import Iterator, Sequence

from gpuvm.cli import output, targets
from gpuvm.cli.session import Session
from gpuvm.errors import GpuvmError
from gpuvm.guest import Endpoint, ssh_config


def refresh(session: Session, deployment: str) -> None:
    """Only where the user has host blocks; what goes wrong is said and fails no command."""
    if not ssh_config.is_wanted():
        return
    try:
        places = list(usable(targets.all_endpoints(session, deployment)))
        ssh_config.keep(session.context, deployment, places)
    except (GpuvmError, OSError) as error:
        output.warn(f"the SSH host blocks are as they were: {error}")


def usable(places: Sequence[Endpoint]) -> Iterator[Endpoint]:
    """Those whose address and host key are known; the others are warned of."""
    for place in places:
        try:
            yield ssh_config.pinned(place)
        except GpuvmError as error:
            output.warn(f"no SSH host block for {place.name}: {error}")
