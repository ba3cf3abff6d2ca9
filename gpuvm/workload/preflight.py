"""What must be there before anything is sent: the modules that a workload imports."""

from collections.abc import Sequence

from gpuvm.errors import PreflightRefused
from gpuvm.guest import Guest, inside


def check_imports(guest: Guest, python: str, modules: Sequence[str]) -> None:
    """Raises PreflightRefused with the modules that are missing, or why this Python is no use."""
    command = inside.command(python, "missing_imports", *modules)
    done = guest.run(command, timeout_s=120, check=False, what=f"ask {python} for modules")
    missing = done.stdout.split()
    if done.exit_status == 0 and not missing:
        return
    lacks = f"{python} has no module {', '.join(missing)}"
    said = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise PreflightRefused(
        f"{guest.name}: {lacks if missing else f'{python} does not work: {said}'}",
        hint="install it in the VM template (workloads/requirements.txt), or name another "
        "interpreter with guest.python in the context",
    )
