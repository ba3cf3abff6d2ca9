"""gpuvm ssh-config: adds the VMs to ~/.ssh/config, for ssh, scp, rsync, git and VS Code."""

from pathlib import Path
from typing import Annotated

import typer

from gpuvm.cli import host_blocks, output, targets
from gpuvm.cli.options import DeploymentOptions, YesOption, grouped
from gpuvm.cli.output import State
from gpuvm.cli.session import ask, open_session
from gpuvm.export import Engine, render
from gpuvm.guest import ssh_config as blocks


@grouped
def ssh_config(
    ctx: typer.Context,
    yes: YesOption = False,
    printed: Annotated[
        bool, typer.Option("--print", help="Print the host blocks; do not change ~/.ssh/config.")
    ] = False,
    *,
    options: DeploymentOptions,
) -> None:
    """Make ssh, scp, rsync, git and VS Code connect to the VMs by name.

    [bold]Examples[/]

        gpuvm ssh-config

        gpuvm ssh-config --yes

        gpuvm ssh-config --print

    gpuvm writes a host block for each running VM, with its pinned host key, to a file of its own.
    An Include line for it is added at the top of ~/.ssh/config, after a question or with --yes.
    'provision', 'start', 'stop' and 'teardown' then keep the host blocks up to date.
    """
    user_config = Path.home() / ".ssh/config"
    included = blocks.is_included(user_config)
    if not (printed or included or yes):
        question = f"Add '{blocks.include_line()}' at the top of {user_config}?"
        hint = "use --yes, or --print to only see the host blocks"
        if not ask(question, hint=hint):
            output.declined(ctx, "ssh-config")
            return
    wanted = options.spec()
    state = ctx.ensure_object(State)
    with open_session(ctx, options.context, wanted.context, announced=not printed) as session:
        there = targets.all_endpoints(session, wanted.name, some=printed)
        places = list(host_blocks.usable(there))
        known = session.context
    names = [place.name for place in places]
    if printed:
        text = render(Engine.SSH, wanted.name, places, known)
        if not state.json:
            output.data(text)
        output.finish(ctx, output.Result("ssh-config", {"vms": names, "host_blocks": text}))
        return
    written = blocks.keep(known, wanted.name, places)
    if not included:
        blocks.include(user_config)
    if not state.json:
        if names:
            output.line(f"host blocks for {', '.join(names)}: {written}")
        else:
            output.line("no VM is running yet: 'provision' and 'start' add their host blocks")
        if not included:
            output.line(f"{user_config} now includes {blocks.config_file()}")
    data = {"vms": names, "file": str(written), "changed_user_config": not included}
    output.finish(ctx, output.Result("ssh-config", data))
