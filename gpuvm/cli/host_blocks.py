"""Updates the host blocks of ``gpuvm ssh-config`` after commands that change VMs."""

from collections.abc import Iterator, Sequence

from gpuvm.cli import output, targets
from gpuvm.cli.session import Session
from gpuvm.errors import GpuvmError
from gpuvm.guest import Endpoint, ssh_config


def refresh(session: Session, deployment: str) -> None:
    """Update existing host blocks; an error is only a warning, and fails no command."""
    if not ssh_config.is_wanted():
        return
    try:
        places = list(usable(targets.all_endpoints(session, deployment)))
        ssh_config.keep(session.context, deployment, places)
    except (GpuvmError, OSError) as error:
        output.warn(f"the SSH host blocks were not updated: {error}")


def usable(places: Sequence[Endpoint]) -> Iterator[Endpoint]:
    """Yield the VMs with a usable name, a known address and host key, and warn of the others."""
    for place in places:
        try:
            yield ssh_config.pinned(ssh_config.named(place))
        except GpuvmError as error:
            output.warn(f"no SSH host block for {place.name}: {error}")
